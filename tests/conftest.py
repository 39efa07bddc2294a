import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the `zoo` command does
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core already
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest

# Files that compare the numbers of a few steps: there a graph costs seconds to trace, and its
# operations are those that run one by one. The runner, the exports, the studies and the README
# run as users run them.
EAGER = {
    *("test_deep_supervision", "test_distillation", "test_equation_3", "test_gradients"),
    *("test_knowledge", "test_optimizers", "test_presets", "test_pretrained"),
    *("test_recipes", "test_study_models", "test_teachers"),
}


@pytest.fixture(autouse=True, scope="module")
def _eager(request):
    """Before the file's own fixtures, which a file before it would decide for otherwise."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(request.path.stem in EAGER)


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


# Files that take long: last, one process would still be at them when all others rest.
FIRST = ("test_replicas", "test_distribute", "test_workers", "test_training", "test_jax")
FIRST += ("test_readme", "test_tuning")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in FIRST)
