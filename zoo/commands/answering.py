"""Ask a trained model, as a run folder or an export: images or a data set in, a table out."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from zoo import data, exports, measures, tables
from zoo.runs import Run
from zoo.saving import load_model, shipped
from zoo.text import percent
from zoo.training.measuring import measure


def read_examples(model: keras.Model, files: Sequence[Path]) -> np.ndarray | None:
    """Image files -> (n, h, w, c) uint8, as `model` takes them; None for no files."""
    if not files:
        return None
    shape = shipped(model).input_shape[1:]
    return np.stack([data.read_image(file, shape) for file in files])


def has_exits(version: Path) -> bool:
    """Whether an export has the signature `exits`."""
    return bool(exports.card(version)["exits"])


def predict(
    source: Path | str, images: Sequence[Path], *, own_recipe: Path | None = None
) -> tuple[np.ndarray, list[str]]:
    """Probabilities (images, classes) and labels from a run folder or an export.

    `images` are files. An export gets the bytes of each, as a server does; a run's model gets the
    pixels, resized where they have another size.
    """
    run = Run(source)
    if run.has_model:
        model = load_model(source, own_recipe=own_recipe)
        pixels = [data.read_image(image, model.input_shape[1:]) for image in images]
        logits = model.predict(np.stack(pixels).astype("float32"), verbose=0)
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits)), run.label_names
    from zoo.serving.served import ServedModel

    served = ServedModel(source)
    probabilities = []
    for image in images:  # one by one: in a batch, one bad image costs the others their answers
        try:
            answer = served.predict_bytes([Path(image).read_bytes()])
        except ValueError as error:
            raise data.DataError(f"{image} is refused: {error}") from error
        probabilities.append(answer["probabilities"])
    return np.concatenate(probabilities), served.labels


def show_predictions(
    source: Path | str, images: Sequence[Path], top: int, *, own_recipe: Path | None = None
) -> None:
    """Print the `top` classes of each image."""
    probabilities, labels = predict(source, images, own_recipe=own_recipe)
    ranked = [
        [(str(labels[index]), row[index]) for index in np.argsort(-row)[:top]]
        for row in probabilities
    ]
    tables.show_predictions(images, ranked, len(labels))


def show_evaluation(model: keras.Model, images: data.ImageData) -> None:
    """Print accuracy and loss over an `ImageData`, and recall and precision of every class."""
    logits, loss = measure(model, images)
    counts = measures.confusion_counts(images.labels, logits.argmax(1), images.classes)
    errors = images.examples - int(np.trace(counts))
    share = errors / images.examples
    low, high = measures.wilson_interval(share, images.examples)
    off = measures.calibration_error(logits, images.labels)
    console = Console(highlight=False)
    console.print(
        f"{images.name}, {images.split}: accuracy {percent(1 - share)}, {errors} errors in "
        f"{images.examples} images (error {percent(low)} to {percent(high)} with 95 % "
        f"confidence), loss {loss:.4f}, calibration error {percent(off)}"
    )
    table = Table("class", "images", "recall", "precision", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in measures.per_class(counts, images.label_names):
        recall, precision = percent(row["recall"]), percent(row["precision"])
        table.add_row(row["name"], str(row["count"]), recall, precision)
    console.print(table)
