"""Import TensorFlow late and quietly."""

import os
import tempfile


def import_tensorflow() -> None:
    """Import TensorFlow with its oneDNN kernels on, and hide the messages of its start.

    Does nothing if Keras has another backend.
    """
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its errors are also exceptions
    # TensorFlow turns these kernels on by itself on newer CPUs only. With AVX2 and no more, a step
    # of nin_dsn takes twice as long without them. TensorFlow reads the variable while it is
    # imported. We restore it then: an export is tried in a process of its own, which must have the
    # settings of a server, and there one image takes twenty times as long with these kernels.
    setting_before = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Some messages of the start obey no setting, so the whole standard error goes to a file. It is
    # shown if the import fails.
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if setting_before is None:
                del os.environ["TF_ENABLE_ONEDNN_OPTS"]
