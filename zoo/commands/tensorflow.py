"""Import TensorFlow late, and quietly."""

import os
import tempfile


def import_tensorflow():
    """Import it with its faster kernels, and without remarks that no setting silences."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow has these kernels on by itself on newer CPUs alone. With AVX2 and no more a step of
    # nin_dsn takes twice as long without them: README, "Recipes and what they reached". It asks
    # while it is imported. The runtime that an export is tried in is a process of its own and gets
    # what a server has: with them, one image takes twenty times as long (serving/README.md).
    chosen = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
        except BaseException:
            remarks.seek(0)
            os.write(stderr, remarks.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if chosen is None:
                del os.environ["TF_ENABLE_ONEDNN_OPTS"]
