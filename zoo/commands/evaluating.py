"""Evaluate a finished run: the images that may judge it, and the table of the results."""

from typing import Any

import keras
import numpy as np

from zoo import data, measures
from zoo.errors import UsageError
from zoo.runs import Run
from zoo.terminal import say, show
from zoo.text import percent
from zoo.training.measuring import measure


def test_images(run: Run, model: keras.Model, other_data: str | None) -> data.ImageData:
    """Load the images to evaluate a run's model on.

    Arguments:
        run: a finished run.
        model: its model, raw pixels (batch, h, w, c) -> logits (batch, classes).
        other_data: a data set to use in place of the recipe's; None for the recipe's.

    Raises:
        UsageError: if the images have another shape or other classes than the run's, or may be
            among those that the model was trained on.
        DataError: if the data set cannot be read.
    """
    fields = run.fields
    reading = ("image_size", "stream", "skip_corrupt")
    options: dict[str, Any] = {key: fields[key] for key in reading if key in fields}
    shape = model.input_shape[1:]  # (None, None, c) if the net averages over any size
    if other_data and None not in shape:
        options["image_size"] = shape[:2]
    images = data.load(other_data or fields["data"], "test", **options)
    sides = zip(shape, images.image_shape, strict=True)
    if any(expected not in (None, received) for expected, received in sides):
        raise UsageError(
            f"{images.name} has images of the shape {images.image_shape}; the run's are {shape}."
        )
    if not other_data:
        refuse_changed_images(run, images)
    if list(images.label_names) != run.label_names:
        raise UsageError(
            f"{images.name} has the classes {', '.join(images.label_names)}; the run has "
            f"{', '.join(run.label_names)}."
        )
    return images


def refuse_changed_images(run: Run, images: data.ImageData) -> None:
    """Refuse images that are no longer those that judged the run.

    A folder without a test split is divided by its content. If it has changed, the model may have
    been trained on some of the images that are held out now. A run of an older zoo knows the number
    and the labels of its images, and not their pixels.

    Arguments:
        run: a finished run.
        images: the images to evaluate its model on, from the data set of its recipe.

    Raises:
        UsageError: if the images differ from those of the run.
    """
    recorded = run.results.get("data", {})
    known = recorded.get(images.split)
    if known is None and "train" in recorded:  # validation images judged the run
        _, _, divided_from, *pixels = recorded["train"]
        known = [None, None, divided_from, None, *pixels[1:]]
    if changes := images.changes_since(known):
        raise UsageError(
            f"{images.name} has changed since the run: its {images.split} images are others "
            f"({changes}), and may be among those trained on. Put them back, or train again; to "
            "evaluate on images that were never trained on, give --data."
        )


def show_evaluation(model: keras.Model, images: data.ImageData) -> None:
    """Print a model's accuracy and loss, and the recall and precision of every class.

    Arguments:
        model: raw pixels (batch, h, w, c) -> logits (batch, classes).
        images: the images to evaluate it on.
    """
    logits, loss = measure(model, images)
    counts = measures.confusion_counts(images.labels, logits.argmax(1), images.classes)
    errors = images.examples - int(np.trace(counts))
    share = errors / images.examples
    low, high = measures.wilson_interval(share, images.examples)
    calibration_error = measures.calibration_error(logits, images.labels)
    balanced = measures.balanced_accuracy(counts)
    beside = "" if balanced is None else f" (balanced accuracy {percent(balanced)})"
    say(
        f"{images.name}, {images.split}: accuracy {percent(1 - share)}{beside}, {errors} errors in "
        f"{images.examples} images (error {percent(low)} to {percent(high)} with 95 % "
        f"confidence), loss {loss:.4f}, calibration error {percent(calibration_error)}"
    )
    rows = [
        (row["name"], row["count"], percent(row["recall"]), percent(row["precision"]))
        for row in measures.per_class(counts, images.label_names)
    ]
    numbers = ("images", "recall", "precision")
    show(("class", *numbers), rows, right=numbers)
