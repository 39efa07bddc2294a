import atexit
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the `zoo` command does
# Programs of JAX run a few steps, and compile longer than they run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core already
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# Not the user's own: packs of images, marks of the recipes that were trained with, and the code
# that TensorFlow generates. A process that is killed, or ends as pytest-xdist's do, leaves that.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="zoo-tests-")
os.environ["ZOO_CACHE"] = os.path.join(tempfile.tempdir, "cache")
if "PYTEST_XDIST_WORKER" not in os.environ:  # whose folders lie in that of the first process
    # Registered before multiprocessing is imported, it runs after its own removals there.
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from zoo.data.tf_batches import untuned

    # Keras makes a dataset of arrays. Its deletion can wait for a minute, as `untuned` says: a test
    # of one second took 59.
    _of_iterators = tf.data.Dataset._apply_debug_options
    tf.data.Dataset._apply_debug_options = lambda self: _of_iterators(untuned(self))


@pytest.fixture(autouse=True, scope="module")
def _eager(request):
    """Run a file's functions eagerly or not, before its own fixtures, as its marks say."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(request.node.get_closest_marker("eager") is not None)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Each test has its own seed, and float32, whatever ran before it."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    return request.param


@pytest.hookimpl(wrapper=True, optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers():
    """One process more than cores, since some tests wait: for servers, workers, time."""
    return (yield) + 1


def pytest_collection_modifyitems(items):
    """Long files first: last, one process would still be at them when all others rest."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
