"""Load teachers from files, and keep their soft targets: `load`, `cache` and `open_cache`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import ops

from zoo import exports, saving
from zoo.data import ImageData
from zoo.layers import ApplicationPreprocessing
from zoo.models import pretrained
from zoo.precision import in_float32
from zoo.runs import Run, flags_of
from zoo.training.soft_target_cache import Cached, TeacherError, cache, open_cache

__all__ = ["Cached", "TeacherError", "cache", "load", "open_cache"]

_FILES = (".keras", ".h5", ".hdf5")


def load(
    path: Path | str, *, preprocessing: str | None = None, resize: bool = False
) -> keras.Model:
    """Load a teacher, raw pixels (batch, h, w, c) -> logits (batch, classes).

    An export without its Keras model gives probabilities p. Their logarithms serve as logits, since
    softmax(log p) = p. A file may hold a model that gives probabilities; a `Distiller` takes their
    logarithms. If Keras' global policy is float32, the teacher computes in float32 even if it was
    trained in 16 bits, which may be slower on this processor.

    `preprocessing` and `resize` put layers in front of the teacher. Its own layers then have its
    name before theirs: "resnet50/conv5_block3_out".

    Arguments:
        path: a `.keras` file, an HDF5 file of Keras with a whole model, a run folder, an export or
            one of its versions; or the name of an export, such as "mnist_nin_dsn".
        preprocessing: what prepares the pixels of a teacher that does not do so itself: the name of
            a module of `keras.applications`, such as "resnet50", or "tf", "caffe" or "torch". See
            `zoo.ApplicationPreprocessing`.
        resize: True resizes images of any size to the size that the teacher takes, bilinearly and
            antialiased. The aspect ratio is not kept.

    Raises:
        TeacherError: if there is no such teacher, with the command that trains it; if a file of an
            export was changed; or if there is no such preprocessing, or no size to resize to.
        zoo.saving.ModelError: if the file holds no model that can be loaded.
    """
    model = _load(path)
    if keras.config.dtype_policy().name == "float32":
        model = in_float32(model)
    try:
        return _prepared(model, preprocessing, resize)
    except ValueError as error:
        raise TeacherError(f"The teacher {str(path)!r} cannot be used: {error}") from error


def _prepared(model, preprocessing, resize):
    """Return the model, behind layers that make its examples of raw pixels."""
    shape = model.input_shape if getattr(model, "inputs", None) else None
    shape = shape[1:] if isinstance(shape, tuple) and len(shape) == 4 else None
    front = []
    if resize:
        if shape is None or None in shape[:2]:
            raise ValueError(
                f"there is no size to resize to, since it takes {shape or 'inputs of any shape'}. "
                "Leave resize out: it takes images of any size."
            )
        front.append(keras.layers.Resizing(*shape[:2], antialias=True, dtype="float32"))
        shape = (None, None, shape[2])
    if preprocessing is not None:
        front.append(ApplicationPreprocessing(preprocessing))
        shape = shape or (None, None, 3)
    return (
        keras.Sequential([keras.Input(shape), *front, model], name=model.name) if front else model
    )


def load_for(
    data: ImageData, paths: Sequence[str], *, preprocessing: str | None, resize: bool
) -> list[keras.Model]:
    """Return the teachers of a recipe, which take the images of the data and have their classes.

    Arguments:
        data: the training images.
        paths: what `load` takes, of each teacher.
        preprocessing, resize: those of `load`, for all teachers.

    Raises:
        TeacherError: as `load`; and for a teacher of other images or another number of classes.
    """
    loaded = []
    for path in paths:
        model = load(path, preprocessing=preprocessing, resize=resize)
        if getattr(model, "inputs", None):
            _check_images(path, model.input_shape, data)
            _check_classes(path, model.output_shape, data)
        loaded.append(model)
    return loaded


def _check_images(path, shape, data):
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise TeacherError(f"The teacher {path!r} takes {shape}, not one image (h, w, c).")
    *size, channels = data.image_shape
    if shape[3] not in (None, channels):
        raise TeacherError(
            f"The teacher {path!r} takes images of {shape[3]} channels; those of {data.name} have "
            f"{channels}. Of a folder of images, --channels {shape[3]} makes them so."
        )
    if any(wanted not in (None, given) for wanted, given in zip(shape[1:3], size, strict=True)):
        raise TeacherError(
            f"The teacher {path!r} takes images of {shape[1]} x {shape[2]}; those of {data.name} "
            f"are {size[0]} x {size[1]}. --teacher-resize resizes them in front of the teacher."
        )


def _check_classes(path, shape, data):
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise TeacherError(
            f"The teacher {path!r} gives {shape}, not (batch, classes). It is no classifier, or "
            "lacks its last layers (include_top=False)."
        )
    if shape[1] != data.classes:
        raise TeacherError(
            f"The teacher {path!r} gives {shape[1]} classes; {data.name} has {data.classes}. Train "
            "a teacher on these classes. In Python, zoo.Distiller takes a class_map of those that "
            "both have."
        )


def _load(path):
    with contextlib.suppress(exports.ExportError):  # the errors below say more
        path = exports.resolve(path)
    path = Path(path)
    if path.is_file():
        return _load_file(path)
    if Run(path).has_model:
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


def _load_file(path):
    """Return the Keras model in a file."""
    if path.suffix not in _FILES:
        raise TeacherError(
            f"The teacher {str(path)!r} is no file of Keras, which ends in {' or '.join(_FILES)}. "
            "Save the whole model: model.save('teacher.keras')."
        )
    try:
        return saving.load_model(path)
    except saving.ModelError as error:
        if "No model config" not in str(error):
            raise
        raise TeacherError(
            f"The teacher {str(path)!r} has weights and no model. Make the model in Python, give "
            "it the weights with model.load_weights, and save it: model.save('teacher.keras')."
        ) from error


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
