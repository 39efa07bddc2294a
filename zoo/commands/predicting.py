"""Classify image files with a run folder's model or an export."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from zoo import data, tables
from zoo.runs import Run
from zoo.saving import load_model, shipped


def read_images(model: keras.Model, files: Sequence[Path]) -> np.ndarray | None:
    """Read image files as `model` takes them.

    Arguments:
        model: a model; the images are resized to its input size.
        files: PNG or JPEG files.

    Returns:
        (files, h, w, c) uint8; None without a file.

    Raises:
        DataError: if a file is not an image.
    """
    if not files:
        return None
    shape = shipped(model).input_shape[1:]
    return np.stack([data.read_image(file, shape) for file in files])


def predict(
    source: Path | str, images: Sequence[Path], *, own_recipe: Path | None = None
) -> tuple[np.ndarray, list[str]]:
    """Classify image files.

    A run's model receives pixels, resized to its input size. An export receives the bytes of each
    file, as it does in a server.

    Arguments:
        source: a run folder, or an export.
        images: PNG or JPEG files.
        own_recipe: the file of the run's recipe, if it is one of your own.

    Returns:
        The probabilities (images, classes), and the label names.

    Raises:
        DataError: if a file is not an image.
    """
    run = Run(source)
    if run.has_model:
        model = load_model(source, own_recipe=own_recipe)
        pixels = [data.read_image(image, model.input_shape[1:]) for image in images]
        logits = model.predict(np.stack(pixels).astype("float32"), verbose=0)
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits)), run.label_names
    from zoo.serving.served_model import ServedModel

    served = ServedModel(source)
    probabilities = []
    for image in images:  # one at a time: in a batch, one bad image makes all of them fail
        try:
            answer = served.predict_bytes([Path(image).read_bytes()])
        except ValueError as error:
            raise data.DataError(f"{image} is refused: {error}") from error
        probabilities.append(answer["probabilities"])
    return np.concatenate(probabilities), served.labels


def show_predictions(
    source: Path | str, images: Sequence[Path], top: int, *, own_recipe: Path | None = None
) -> None:
    """Print the `top` most probable classes of each image; see `predict` for the rest."""
    probabilities, labels = predict(source, images, own_recipe=own_recipe)
    ranked = [
        [(str(labels[index]), row[index]) for index in np.argsort(-row)[:top]]
        for row in probabilities
    ]
    tables.show_predictions(images, ranked, len(labels))
