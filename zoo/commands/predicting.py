"""Classify image files with a model of the command line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import data, exports, measures, tables
from zoo.commands import models
from zoo.commands.sending import png_or_jpeg
from zoo.data.decoding import NO_IMAGE
from zoo.errors import UsageError
from zoo.runs import Run
from zoo.saving import load_model, shipped
from zoo.serving import calibrating
from zoo.terminal import say

Show = Callable[[list[Path], list[list[tuple[str, float]]], int], None]
_AT_ONCE = 256  # images whose pixels are in memory together


def load(path: Path, own_recipe: Path | None = None) -> keras.Model:
    """Load a model, raw pixels (batch, h, w, c) -> logits (batch, classes).

    The probabilities p of a foreign model become logits: softmax(log p) = p. Those of an export
    are divided by its temperature, if it has one.

    Arguments:
        path: a model, as `zoo.commands.models.find` returns it.
        own_recipe: the file of the run's recipe, if it is one of your own.

    Raises:
        UsageError: if the model takes no images, or gives no scores of classes.
        zoo.saving.ModelError: if it cannot be loaded.
    """
    model = shipped(load_model(path, own_recipe=own_recipe))
    shapes = model.input_shape, model.output_shape
    if [len(shape) if isinstance(shape, tuple) else 0 for shape in shapes] != [4, 2]:
        raise UsageError(
            f"{path} takes {shapes[0]} and gives {shapes[1]}; expected a model from images (None, "
            "height, width, channels) to (None, classes)."
        )
    if path.is_dir():  # runs and exports give logits
        return _tempered(model, path)
    sides = [side or 32 for side in model.input_shape[1:]]
    noise = np.random.default_rng(0).integers(0, 256, (2, *sides)).astype("float32")
    answers = np.asarray(model(noise, training=False), "float32")
    if answers.min() < 0 or not np.allclose(answers.sum(axis=1), 1, atol=1e-2):
        return model
    logits = keras.ops.log(keras.ops.maximum(model.output, 1e-30))
    return keras.Model(model.input, logits)


def _tempered(model, path):
    """Return the model of an export with the logits that the export answers with."""
    version = None if Run(path).has_model else exports.newest(path)
    calibration = exports.card(version).get("calibration") if version else None
    temperature = calibrating.temperature_of(calibration)
    if temperature == 1:
        return model
    divided = keras.layers.Rescaling(1 / temperature, dtype="float32")
    return keras.Model(model.input, divided(model.output))


def read_images(
    model: keras.Model, files: Sequence[Path], resizing: Any = "squash"
) -> np.ndarray | None:
    """Read image files as `model` takes them.

    Arguments:
        model: a model; the images are resized to its input size.
        files: image files, as `zoo.data` reads them.
        resizing: the way to another aspect ratio, as `zoo.data.read_image` takes it.

    Returns:
        (files, h, w, c) uint8; None without a file.

    Raises:
        DataError: if a file is not an image.
    """
    if not files:
        return None
    shape = shipped(model).input_shape[1:]
    return np.stack([data.read_image(file, shape, resizing) for file in files])


def show_predictions(
    source: Path | str,
    images: Sequence[Path],
    top: int,
    *,
    labels: Path | None = None,
    own_recipe: Path | None = None,
    show: Show | None = None,
) -> list[str]:
    """Print the `top` most probable classes of each image that can be classified.

    A Keras model receives pixels, resized to its input size. An export receives the bytes of each
    PNG or JPEG file, as it does in a server, and other formats as PNG.

    Arguments:
        source: a model, as `zoo.commands.models.find` takes it.
        images: image files, as `zoo.data` reads them.
        top: the number of classes.
        labels: a file with the names of the classes, for a `.keras` file.
        own_recipe: the file of the run's recipe, if it is one of your own.
        show: what gets the images, their (label, probability) pairs and the number of classes.
            Default: `zoo.tables.show_predictions`.

    Returns:
        A message for each image that was refused.
    """
    path = models.find(str(source)) if isinstance(source, str) else source
    classifier = Classifier(path, labels, own_recipe)
    rows, names = classifier.rows(images), classifier.names
    classified, ranked, refused = [], [], []
    for image, row in zip(images, rows, strict=True):
        if isinstance(row, Exception):
            refused.append(str(row))
            continue
        classified.append(image)
        ranked.append([(str(names[index]), float(row[index])) for index in np.argsort(-row)[:top]])
    if classified:
        (show or tables.show_predictions)(classified, ranked, len(names))
    return refused


class Classifier:
    """A model that answers for image files.

    Arguments:
        path: a model, as `zoo.commands.models.find` returns it.
        labels: a file with the names of the classes, for a `.keras` file.
        own_recipe: the file of the run's recipe, if it is one of your own.

    Attributes:
        names: the names of the classes, in the order of the probabilities.
        model: the Keras model, raw pixels -> logits. None for an export, which answers as it does
            in a server.
        served: the export as a client of a server sees it; None for a Keras model.
        resizing: the way of a Keras model to another aspect ratio, as `zoo.data.read_image` takes
            it. An export has its own.

    Raises:
        UsageError: if the number of labels is not that of the classes, or the model takes no
            images.
    """

    def __init__(
        self, path: Path, labels: Path | None = None, own_recipe: Path | None = None
    ) -> None:
        self.model: keras.Model | None = None
        self.served: Any = None
        self.resizing: Any = "squash"
        if models.is_saved_model(path):
            from zoo.serving.served_model import ServedModel

            self.served = ServedModel(path)
            self.names: Sequence[str] = self.served.labels
            return
        names = models.label_names(path, labels)
        self.model = load(path, own_recipe)
        self.resizing = models.of_training(path)[0].get("resize", "squash")
        classes = self.model.output_shape[-1]
        if names is None:
            say(
                f"{path} does not name its classes, so they have numbers: --labels FILE.",
                error=True,
            )
            names = [str(index) for index in range(classes)]
        if len(names) != classes:
            raise UsageError(f"There are {len(names)} labels; {path} has {classes} classes.")
        self.names = names

    def rows(self, images: Sequence[Path]) -> list[Any]:
        """Return the probabilities (classes,) of each image, or an error for one that is none."""
        if self.served is not None:
            # One at a time: in a batch, one bad image makes all of them fail.
            return [self._by_export(image) for image in images]
        rows: list[Any] = []
        for begin in range(0, len(images), _AT_ONCE):
            rows += self._by_keras(images[begin : begin + _AT_ONCE])
        return rows

    def _by_keras(self, images):
        read = [_pixels(image, self.model, self.resizing) for image in images]
        pixels = [row for row in read if not isinstance(row, data.DataError)]
        if not pixels:
            return read
        answers = iter(measures.softmax(self.model.predict(np.stack(pixels), verbose=0)))
        return [row if isinstance(row, data.DataError) else next(answers) for row in read]

    def _by_export(self, image):
        try:
            (row,) = self.served.predict_bytes([png_or_jpeg(Path(image))])["probabilities"]
        except ValueError as error:
            return data.DataError(f"{image} is refused: {error}")
        return row


def _pixels(image, model, resizing):
    """Return the float32 pixels of an image file, or the error for one that is no image."""
    try:
        return data.read_image(image, model.input_shape[1:], resizing).astype("float32")
    except data.DataError as error:
        return data.DataError(str(error).replace(NO_IMAGE, " is not an image: "))
