"""LiteRT files of a model, for phones: in whole numbers (int8), or in float32.

TensorFlow's converter makes them of pixels -> probabilities, for one image at a time.
"""

import contextlib
import os
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from zoo.exports import ExportError


def convert(
    model: keras.Model, form: str, representative: np.ndarray, temperature: float = 1.0
) -> bytes:
    """Return a LiteRT file of pixels (1, h, w, c) in 0..255 -> probabilities (1, classes).

    The form "float" takes and gives float32. "int8" takes uint8 pixels as they are, and gives
    uint8, 256 times the probability; it has whole-number operations alone.

    Arguments:
        model: pixels -> logits, in float32.
        form: "int8" or "float".
        representative: training images, (n, h, w, c) uint8, for the ranges of int8.
        temperature: what the logits are divided by.

    Raises:
        ExportError: if LiteRT has no operation for a layer.
    """
    with tempfile.TemporaryDirectory() as folder, _quietly():
        save(model, folder, temperature)
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


def save(
    model: keras.Model, folder: Path | str, temperature: float = 1.0, batch: int | None = 1
) -> None:
    """Write a SavedModel of pixels -> probabilities, without the checks that a server needs.

    Arguments:
        model: pixels -> logits, in float32.
        folder: where it is written.
        temperature: what the logits are divided by.
        batch: the number of images; None for any number.
    """
    shape = (batch, *model.input_shape[1:])

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
