"""LiteRT files of an export, for phones: in whole numbers (int8), or in float32.

    VERSION/assets.extra/{model.int8.tflite, model.tflite}

TensorFlow's converter makes them of pixels -> probabilities, for one image at a time. Each is
compared with Keras on test images, and a file that loses too much accuracy is not kept.
"""

import contextlib
import os
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import exports
from zoo.exports import ExportError
from zoo.text import percent

FILES = {"int8": "assets.extra/model.int8.tflite", "float": "assets.extra/model.tflite"}
REPRESENTATIVE = 200
"""Number of training images that the ranges of the whole numbers are taken from."""
MOST_LOST = 1.0
"""Points of accuracy that a file may lose, if nothing else is said."""


class Quantizing(NamedTuple):
    """The files to make, and the images that they are made with and compared on."""

    forms: tuple[str, ...]
    """Names in `FILES`: "int8", "float"."""
    representative: np.ndarray
    """Training images, (n, h, w, c) uint8. int8 takes the ranges of its numbers from them."""
    images: Any
    """Test images, (n, h, w, c) uint8, an array or what can be cut into arrays."""
    labels: np.ndarray
    """The true classes of the test images, (n,)."""
    logits: np.ndarray
    """Keras' logits of the test images, (n, classes)."""
    most_lost: float = MOST_LOST
    """Points of accuracy that a file may lose, 0..100."""


def write(
    draft: Path, model: keras.Model, quantizing: Quantizing, temperature: float = 1.0
) -> dict[str, Any]:
    """Write LiteRT files into a version that is not published yet; return the facts for the card.

    Arguments:
        draft: the folder of the version.
        model: pixels (batch, h, w, c) -> logits (batch, classes), in float32.
        quantizing: the files to make, and the images.
        temperature: what the logits are divided by.

    Returns:
        {form: its file, bytes, accuracy, points lost, and share of the answers that are Keras'}.

    Raises:
        ExportError: if the form is not known, the model cannot be converted, or a file loses more
            accuracy than is allowed.
    """
    facts = {}
    for form in dict.fromkeys(quantizing.forms):
        if form not in FILES:
            raise ExportError(f"Received the form {form!r}; expected {' or '.join(FILES)}.")
        file = draft / FILES[form]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(convert(model, form, quantizing.representative, temperature))
        facts[form] = _compared(file, form, quantizing)
    return facts


def convert(
    model: keras.Model, form: str, representative: np.ndarray, temperature: float = 1.0
) -> bytes:
    """Return a LiteRT file of pixels (1, h, w, c) in 0..255 -> probabilities (1, classes).

    The form "float" takes and gives float32. "int8" takes uint8 pixels as they are, and gives
    uint8, 256 times the probability; it has whole-number operations alone.

    Arguments:
        model: pixels -> logits, in float32.
        form: a name in `FILES`.
        representative: training images, (n, h, w, c) uint8, for the ranges of int8.
        temperature: what the logits are divided by.

    Raises:
        ExportError: if LiteRT has no operation for a layer.
    """
    with tempfile.TemporaryDirectory() as folder, _quietly():
        _save(model, folder, temperature)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        if form == "int8":
            pixels = _full_range(representative)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                {"images": image[np.newaxis].astype("float32")} for image in pixels
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        try:
            return converter.convert()
        except Exception as error:  # of the converter's own types, which are not public
            message = textwrap.shorten(str(error), 300, placeholder=" ...")
            raise ExportError(
                f"The model cannot be converted to LiteRT ({form}): {message} Export it without "
                f"--quantize {form}."
            ) from error


def _save(model, folder, temperature):
    """Write a SavedModel of one image, without the checks that a server needs."""
    shape = (1, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "images")])
    def serving_default(images):
        logits = model(images, training=False)
        return {
            "probabilities": tf.nn.softmax(logits / temperature if temperature != 1 else logits)
        }

    saved = tf.Module()
    saved.weights = [weight.value for weight in model.weights]
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        tf.saved_model.save(saved, folder, signatures={"serving_default": serving_default})
    finally:
        tf.config.run_functions_eagerly(eagerly)


def _full_range(images):
    """Return the images, of which the first has a pixel of 0 and one of 255.

    So the whole numbers of the input are the pixels themselves, also for a data set of dark images.
    """
    images = np.array(images)
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


class LiteRT:
    """A LiteRT file of `convert`: uint8 pixels (n, h, w, c) -> probabilities (n, classes).

    Arguments:
        file: the file, which must be one of one's own: the runtime does not check it.
        threads: the number of threads; None leaves it to the runtime.
    """

    def __init__(self, file: Path | str, threads: int | None = None) -> None:
        with _quietly():
            self._interpreter = tf.lite.Interpreter(str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    @property
    def types(self) -> set[str]:
        """The types of all tensors of the file."""
        return {np.dtype(t["dtype"]).name for t in self._interpreter.get_tensor_details()}

    @property
    def pixel(self) -> tuple[float, int]:
        """The (scale, zero point) of the input: (1, 0) if it takes pixels as they are."""
        return self._input["quantization"]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Answer the images one by one."""
        scale, zero = self._output["quantization"]
        rows = []
        for image in images:
            batch = image[np.newaxis].astype(self._input["dtype"])
            self._interpreter.set_tensor(self._input["index"], batch)
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output["index"])[0])
        answers = np.stack(rows).astype("float32")
        return (answers - zero) * scale if scale else answers


def _compared(file, form, quantizing):
    """Return the facts of a file, or raise ExportError if it loses too much."""
    litert, labels = LiteRT(file), np.asarray(quantizing.labels)
    if form == "int8" and litert.pixel != (1.0, 0):
        raise ExportError(f"int8 takes pixels as {litert.pixel}; expected (1, 0): a fault of ours.")
    parts = range(0, len(labels), 256)
    answers = np.concatenate(
        [litert(quantizing.images[start : start + 256]).argmax(axis=1) for start in parts]
    )
    keras_answers = quantizing.logits.argmax(axis=1)
    of_keras, accuracy = (float((each == labels).mean()) for each in (keras_answers, answers))
    lost = 100 * (of_keras - accuracy)
    if lost > quantizing.most_lost:
        raise ExportError(
            f"The LiteRT file ({form}) loses {lost:.2f} points of accuracy: {percent(of_keras)} "
            f"become {percent(accuracy)} of {len(labels)} test images. {quantizing.most_lost:g} "
            f"are allowed. Leave {form} out, or allow more: --quantize-loss POINTS (in Python: "
            "most_lost)."
        )
    return {
        "file": FILES[form],
        "bytes": file.stat().st_size,
        "test_images": len(labels),
        "accuracy": accuracy,
        "accuracy_of_keras": of_keras,
        "points_lost": lost,
        "agreement": float((keras_answers == answers).mean()),
    }


def check(version: Path, card: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Compare the LiteRT files of a version with its card; None if there are none.

    They are not loaded: LiteRT's runtime is no place for a file of a stranger.

    Returns:
        Whether they are those of the card, and what was found.
    """
    told = card.get("quantized", {})
    names = sorted(path.relative_to(version).as_posix() for path in version.rglob("*.tflite"))
    if not told and not names:
        return None
    rows = told.values() if isinstance(told, Mapping) else [None]
    if not all(isinstance(row, Mapping) and "bytes" in row for row in rows):
        return False, "the card says nothing of its LiteRT files that can be read"
    expected = {FILES.get(form, form): row["bytes"] for form, row in told.items()}
    if set(names) != expected.keys():
        return False, f"the LiteRT files are {names}; the card has {sorted(expected)}"
    for name in names:
        exports.refuse_odd(version / name)
        size = (version / name).stat().st_size
        with open(version / name, "rb") as file:
            head = file.read(8)
        if size != expected[name] or head[4:] != b"TFL3":
            return False, f"{name} is not the LiteRT file of {expected[name]} bytes of the card"
    return True, f"{', '.join(names)}, as the card says; not run"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide what the converter and the runtime write to standard error, of whatever language."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as messages, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(messages.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
