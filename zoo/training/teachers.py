"""Load teachers from files, and keep their soft targets: `load`, `cache` and `open_cache`."""

import contextlib
from pathlib import Path

import keras
from keras import ops

from zoo import exports, saving
from zoo.models import pretrained
from zoo.precision import in_float32
from zoo.runs import Run, flags_of
from zoo.training.soft_target_cache import Cached, TeacherError, cache, open_cache

__all__ = ["Cached", "TeacherError", "cache", "load", "open_cache"]


def load(path: Path | str) -> keras.Model:
    """Load a teacher, raw pixels (batch, h, w, c) -> logits (batch, classes).

    An export without its Keras model gives probabilities p. Their logarithms serve as logits, since
    softmax(log p) = p. If Keras' global policy is float32, the teacher computes in float32 even if
    it was trained in 16 bits, which may be slower on this processor.

    Arguments:
        path: a `.keras` file, a run folder, an export or one of its versions; or the name of an
            export, such as "mnist_nin_dsn".

    Raises:
        TeacherError: if there is no such teacher, with the command that trains it; or if a file of
            an export was changed.
    """
    model = _load(path)
    return in_float32(model) if keras.config.dtype_policy().name == "float32" else model


def _load(path):
    with contextlib.suppress(exports.ExportError):  # the errors below say more
        path = exports.resolve(path)
    path = Path(path)
    if (path.is_file() and path.suffix == ".keras") or Run(path).has_model:
        return saving.load_model(path)
    # An archive of `zoo pack` has only the Keras model. An export of a foreign net has only the
    # SavedModel.
    version = exports.newest(path, (exports.PROGRAM, exports.MODEL))
    if version is not None:
        return _load_export(version)
    recipe = path.parent.name if path.parent.parent.name == "runs" else None
    if recipe is None:
        raise TeacherError(
            f"There is no teacher at {str(path)!r}: it is a .keras file, a run folder or an export."
        )
    state = "is not finished: the same command resumes it" if path.is_dir() else "does not exist"
    raise TeacherError(
        f"The teacher {str(path)!r} {state}. Train it with: zoo train {recipe}{flags_of(path.name)}"
    )


def _load_export(version):
    """Return the Keras model in an export, or a model around its `serving_default`."""
    try:
        if (version / exports.MODEL).is_file():
            return pretrained.load(version).trunk
        from zoo import programs  # imports TensorFlow

        programs.checked(version)
    except ValueError as error:
        raise TeacherError(f"The teacher cannot be used: {error}") from error
    import tensorflow as tf

    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    ((_, spec),) = signature.structured_input_signature[1].items()
    images = keras.Input(spec.shape[1:], name="images")
    served = keras.layers.TFSMLayer(str(version), call_endpoint="serving_default")
    probabilities = served(images)["probabilities"]
    return keras.Model(images, ops.log(ops.maximum(probabilities, 1e-30)), name="export")
