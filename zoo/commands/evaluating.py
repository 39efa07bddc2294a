"""Evaluate a model: the images that may judge it, and the table of the results."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import data, measures
from zoo.commands import models
from zoo.errors import UsageError
from zoo.runs import Run
from zoo.terminal import say, show
from zoo.text import percent
from zoo.training.measuring import measure

# The fields of a recipe that say how its data are read.
_READING = ("image_size", "stream", "skip_corrupt", "channels")
_MOST_NAMES = 20  # of absent classes, in a line


def test_images(
    path: Path, model: keras.Model, other_data: str | None, labels: Path | None
) -> data.ImageData:
    """Load the images to evaluate a model on. Their labels become those of the model.

    Arguments:
        path: where the model is, as `zoo.commands.models.find` returns it.
        model: raw pixels (batch, h, w, c) -> logits (batch, classes).
        other_data: a data set to use in place of that of the training. Of a folder without test
            images all are used. It may lack all but one of the model's classes.
        labels: a file with the names of the model's classes.

    Raises:
        UsageError: if the training's data are not known, or the images have another shape or other
            classes than the model's, or may be among those that it was trained on.
        DataError: if the data set cannot be read.
    """
    return _images(path, model, other_data, labels, "test")


def training_images(path: Path, model: keras.Model) -> data.ImageData:
    """Load the images that a model was trained on, as `test_images`. They may have changed."""
    return _images(path, model, None, None, "train")


def _images(path, model, other_data, labels, split):
    fields, recorded = models.of_training(path)
    name = other_data or fields.get("data")
    if name is None:
        raise UsageError(f"{path} does not say what it was trained on: give --data.")
    options: dict[str, Any] = {key: fields[key] for key in _READING if key in fields}
    options["resizing"] = fields.get("resize", "squash")
    shape = model.input_shape[1:]  # (None, None, c) if the net averages over any size
    if other_data or Path(name).expanduser().is_dir():
        # A recipe may have taken both from the weights that it began with.
        options["channels"] = shape[-1]
        if None not in shape and (other_data or not options.get("image_size")):
            options["image_size"] = shape[:2]
    is_other = bool(other_data) and not _is_same(name, fields.get("data"))
    images = data.load(name, split, whole=is_other, **options)
    for note in images.notes:
        say(note, error=True)
    sides = zip(shape, images.image_shape, strict=True)
    if any(expected not in (None, received) for expected, received in sides):
        raise UsageError(
            f"{images.name} has images of the shape {images.image_shape}; the model's are {shape}."
        )
    if not other_data and split == "test":
        _refuse_changed(recorded, images)
    names = models.label_names(path, labels)
    return _with_labels_of_the_model(images, names, model.output_shape[-1])


def _is_same(data_set: str, trained_on: str | None) -> bool:
    """Return whether two names of data, or paths, are those of the same data."""
    if trained_on is None or data_set == trained_on:
        return data_set == trained_on
    paths = [Path(place).expanduser() for place in (data_set, trained_on)]
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


def _with_labels_of_the_model(images, names, classes):
    """Return the images with the numbers and names that the model gives their classes."""
    if names is None:
        if images.classes != classes:
            raise UsageError(
                f"{images.name} has {images.classes} classes, and the model {classes}. Name those "
                "of the model: --labels FILE."
            )
        return images
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in images.label_names if name not in numbers]:
        raise UsageError(
            f"{images.name} has the classes {', '.join(unknown)}, which the model lacks; it has "
            f"{', '.join(names)}."
        )
    own = np.array([numbers[name] for name in images.label_names])
    return dataclasses.replace(images, labels=own[images.labels], label_names=names)


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
    _refuse_changed(run.results.get("data", {}), images)


def _refuse_changed(recorded: dict[str, Any], images: data.ImageData) -> None:
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


def evaluate(model: keras.Model, images: data.ImageData, *, mirror: bool = False) -> dict[str, Any]:
    """Measure a model; return the names and numbers that docs/guides/command_line.md lists.

    Arguments:
        model: raw pixels (batch, h, w, c) -> logits (batch, classes).
        images: the images to evaluate it on.
        mirror: True also measures the mean answer to each image and its mirror image.
    """
    logits, loss = measure(model, images)
    counts = measures.confusion_counts(images.labels, logits.argmax(1), images.classes)
    errors = images.examples - int(np.trace(counts))
    share = errors / images.examples
    with_mirror = {}
    if mirror:
        answers, _ = measure(with_mirror_images(model), images)
        wrong = int((answers.argmax(1) != images.labels).sum())
        with_mirror = {
            "test_time_mirror": {"errors": wrong, "accuracy": 1 - wrong / images.examples}
        }
    return {
        "data": images.name,
        "split": images.split,
        "images": images.examples,
        "errors": errors,
        "accuracy": 1 - share,
        "balanced_accuracy": measures.balanced_accuracy(counts),
        "error_interval": list(measures.wilson_interval(share, images.examples)),
        "loss": loss,
        "calibration_error": measures.calibration_error(logits, images.labels),
        "classes": [
            {
                "class": row["name"],
                "images": row["count"],
                "recall": row["recall"],
                "precision": row["precision"],
            }
            for row in measures.per_class(counts, images.label_names)
        ],
        **with_mirror,
    }


def with_mirror_images(model: keras.Model) -> keras.Model:
    """Return images -> the mean of a model's logits for each image and its mirror image."""
    images = keras.Input(model.input_shape[1:])
    mirrored = keras.ops.flip(images, axis=2)
    return keras.Model(images, (model(images) + model(mirrored)) / 2)


def show_evaluation(results: dict[str, Any]) -> None:
    """Print what `evaluate` returns."""
    low, high = results["error_interval"]
    balanced = results["balanced_accuracy"]
    beside = "" if balanced is None else f" (balanced accuracy {percent(balanced)})"
    say(
        f"{results['data']}, {results['split']}: accuracy {percent(results['accuracy'])}{beside}, "
        f"{results['errors']} errors in {results['images']} images (error {percent(low)} to "
        f"{percent(high)} with 95 % confidence), loss {results['loss']:.4f}, calibration error "
        f"{percent(results['calibration_error'])}"
    )
    if mirrored := results.get("test_time_mirror"):
        say(
            f"With each image's mirror image: accuracy {percent(mirrored['accuracy'])}, "
            f"{mirrored['errors']} errors, at twice the time of an answer"
        )
    rows = [
        (row["class"], row["images"], percent(row["recall"]), percent(row["precision"]))
        for row in results["classes"]
    ]
    numbers = ("images", "recall", "precision")
    show(("class", *numbers), rows, right=numbers)
    absent = [str(row["class"]) for row in results["classes"] if not row["images"]]
    if absent:
        more = ", ..." if len(absent) > _MOST_NAMES else ""
        names = f"{', '.join(absent[:_MOST_NAMES])}{more}"
        say(f"{results['data']} has no images of {len(absent)} of the model's classes: {names}.")
