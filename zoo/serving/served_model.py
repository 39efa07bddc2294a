"""A model as a client of a server sees it: an export's signatures, and nothing of Keras."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo import exports, programs
from zoo.pixel_range import is_scaled
from zoo.text import reason


class ServedModel:
    """An export as a client of the server sees it: its signatures, and no Keras.

    Every file is compared with its checksum, and every operation of the graph with those that
    calculate, before anything is loaded.

    Arguments:
        directory: a version, or the folder of the versions, whose newest is loaded.

    Attributes:
        labels: the label names, in the order of the classes.
        image_shape: (h, w, c).
        version: an integer, or None in a renamed folder.

    Raises:
        FileNotFoundError: if there is no export.
        ExportError: if a file was changed, removed or added, or if the graph does more than
            calculate.
    """

    def __init__(self, directory: Path | str) -> None:
        path = programs.checked(directory)
        # Kept, because the signatures alone do not keep its variables alive.
        self._loaded = tf.saved_model.load(path)
        images = self._loaded.signatures["serving_default"].structured_input_signature[1]["images"]
        self.image_shape: tuple[int, int, int] = tuple(images.shape[1:])
        self.labels = exports.labels(path)
        self.version = int(path.name) if path.name.isdecimal() else None
        self._has_warned = False

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Classify pixels in 0..255: (batch, h, w, c) -> the outputs by name.

        Warns once of pixels in -1..1, which get a wrong answer.

        Raises:
            ValueError: for another shape, an empty batch, NaN or infinity.
        """
        images = np.asarray(images, "float32")
        if images.shape[1:] != self.image_shape:
            expected = ("batch", *self.image_shape)
            raise ValueError(f"Received images of shape {images.shape}; expected {expected}.")
        if len(images) and not self._has_warned and is_scaled(images):
            self._has_warned = True
            warnings.warn(
                "Received pixels in -1..1; expected 0..255, as they are in an image file.",
                stacklevel=2,
            )
        return self._answer("serving_default", images=tf.constant(images))

    def predict_bytes(self, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Classify the bytes of PNG or JPEG files; return the outputs by name, as `predict`.

        Raises:
            ValueError: for an empty list, or if one is no such image, damaged or too large.
        """
        if isinstance(encoded, bytes):
            raise ValueError("Received the bytes of one image; expected a list of them: [image].")
        return self._answer("predict_bytes", image_bytes=tf.constant(list(encoded), tf.string))

    def exits(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Classify pixels in 0..255 at every depth: (batch, h, w, c) -> {depth: probabilities}.

        The last depth is "output". The result is {} if the export has no signature `exits`.

        Raises:
            ValueError: for another shape, an empty batch, NaN or infinity.
        """
        if "exits" not in self._loaded.signatures:
            return {}
        return self._outputs("exits", images=tf.constant(images, tf.float32))

    def _answer(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        outputs = self._outputs(signature, **inputs)
        return {**outputs, "classes": np.char.decode(outputs["classes"].astype(bytes), "utf-8")}

    def _outputs(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        try:
            outputs = self._loaded.signatures[signature](**inputs)
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise ValueError(f"{signature} refuses its input: {reason(error.message)}") from error
        return {name: output.numpy() for name, output in outputs.items()}
