"""Classify image files with a run folder's model or an export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import data, measures, tables
from zoo.commands.sending import png_or_jpeg
from zoo.runs import Run
from zoo.saving import load_model, shipped


def read_images(model: keras.Model, files: Sequence[Path]) -> np.ndarray | None:
    """Read image files as `model` takes them.

    Arguments:
        model: a model; the images are resized to its input size.
        files: image files, as `zoo.data` reads them.

    Returns:
        (files, h, w, c) uint8; None without a file.

    Raises:
        DataError: if a file is not an image.
    """
    if not files:
        return None
    shape = shipped(model).input_shape[1:]
    return np.stack([data.read_image(file, shape) for file in files])


def show_predictions(
    source: Path | str, images: Sequence[Path], top: int, *, own_recipe: Path | None = None
) -> list[str]:
    """Print the `top` most probable classes of each image that can be classified.

    A run's model receives pixels, resized to its input size. An export receives the bytes of each
    PNG or JPEG file, as it does in a server, and other formats as PNG.

    Arguments:
        source: a run folder, or an export.
        images: image files, as `zoo.data` reads them.
        top: the number of classes.
        own_recipe: the file of the run's recipe, if it is one of your own.

    Returns:
        A message for each image that was refused.
    """
    in_a_run = Run(source).has_model
    rows, labels = (_by_run if in_a_run else _by_export)(source, images, own_recipe)
    classified, ranked, refused = [], [], []
    for image, row in zip(images, rows, strict=True):
        if isinstance(row, Exception):
            refused.append(str(row))
            continue
        classified.append(image)
        ranked.append([(str(labels[index]), row[index]) for index in np.argsort(-row)[:top]])
    if classified:
        tables.show_predictions(classified, ranked, len(labels))
    return refused


def _by_run(source, images, own_recipe):
    """Return (probabilities (classes,) or an error for each image, the label names)."""
    model = load_model(source, own_recipe=own_recipe)
    rows: list[Any] = []
    for image in images:
        try:
            pixels = data.read_image(image, model.input_shape[1:])
        except data.DataError as error:
            rows.append(error)
        else:
            rows.append(pixels.astype("float32"))
    pixels = [row for row in rows if not isinstance(row, data.DataError)]
    if pixels:
        probabilities = iter(measures.softmax(model.predict(np.stack(pixels), verbose=0)))
        rows = [row if isinstance(row, data.DataError) else next(probabilities) for row in rows]
    return rows, Run(source).label_names


def _by_export(source, images, own_recipe):
    """Return (probabilities (classes,) or an error for each image, the label names)."""
    from zoo.serving.served_model import ServedModel

    served = ServedModel(source)
    rows: list[Any] = []
    for image in images:  # one at a time: in a batch, one bad image makes all of them fail
        try:
            (row,) = served.predict_bytes([png_or_jpeg(Path(image))])["probabilities"]
        except ValueError as error:
            row = data.DataError(f"{image} is refused: {error}")
        rows.append(row)
    return rows, served.labels
