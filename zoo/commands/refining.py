"""Fit a temperature for `zoo export`, and prepare its quantized forms, on a run's images."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from zoo import data, exports
from zoo.commands import evaluating
from zoo.commands.exportable import Exportable
from zoo.errors import UsageError
from zoo.precision import in_float32
from zoo.runs import Run
from zoo.saving import shipped
from zoo.serving import calibrating, quantizing
from zoo.terminal import say
from zoo.training.measuring import measure

_MOST_TEST_IMAGES = 10_000


def refined(
    source: Exportable,
    out: Path,
    trained: keras.Model,
    own_recipe: Path | None,
    *,
    calibrate: bool,
    forms: Sequence[str],
    most_lost: float,
) -> dict[str, Any]:
    """Return the arguments `calibration` and `quantized` of `export_savedmodel`.

    Arguments:
        source: the model to export, which knows its images.
        out: the folder of its versions. If the newest has another temperature, a line says so.
        trained: the same, loaded.
        own_recipe: the file of the run's recipe, if it is one of your own.
        calibrate: fit a temperature on the validation images of the run.
        forms: the forms to make, names in `zoo.serving.quantizing.FORMS`.
        most_lost: points of accuracy that a form may lose.

    Raises:
        UsageError: if the images have changed since the training.
        DataError: if they cannot be read.
        ExportError: if no temperature can be fitted.
    """
    calibration, quantized = source.calibration, None
    if calibrate or forms:
        assert source.trained_at is not None, "find_exportable refuses a file"
        model = in_float32(shipped(trained))
        training, judging = _images_of(source.trained_at, model, own_recipe)
        test = _few(judging["test"], _MOST_TEST_IMAGES)
        say(f"Asking the model about {test.examples:,} test images of {test.name} ...")
        logits, _ = measure(model, test)
        if calibrate:
            held_out = judging["validation"]
            known = measure(model, held_out)[0], held_out.labels
            calibration = calibrating.calibration(known, (logits, test.labels))
        if forms:
            some = _few(training, quantizing.REPRESENTATIVE)
            quantized = quantizing.Quantizing(
                tuple(forms), some.images[:], test.images, test.labels, logits, most_lost
            )
    _say_of_another(out, calibrating.temperature_of(calibration))
    return {"calibration": calibration, "quantized": quantized}


def _few(images: data.ImageData, most: int) -> data.ImageData:
    """Return the images, or `most` of them, with the classes in proportion."""
    most = max(most, images.classes)
    return images if images.examples <= most else images.subset(most)


def _say_of_another(out: Path, temperature: float) -> None:
    """Say if the version that a server has now answers with another temperature."""
    with contextlib.suppress(exports.ExportError):  # of a damaged card the exporter tells
        if not (version := exports.newest(out, (exports.CARD,))):
            return
        before = calibrating.temperature_of(exports.card(version).get("calibration"))
        if before != temperature:
            say(
                f"{version} has the temperature {before:g}; the new version has {temperature:g}. "
                "So the same image gets other probabilities."
            )


def _images_of(
    trained_at: Path, model: keras.Model, own_recipe: Path | None
) -> tuple[data.ImageData, dict[str, data.ImageData]]:
    """Return the training images, and {"test" or "validation": images}; "test" is there."""
    run = Run(trained_at)
    if not run.is_finished:
        training = evaluating.training_images(trained_at, model)
        return training, {"test": evaluating.test_images(trained_at, model, None, None)}
    training, images = run.recipe(own_recipe).datasets()
    evaluating.refuse_changed_images(run, images)
    judging = {images.split: images}
    if "test" not in judging:
        judging["test"] = evaluating.test_images(trained_at, model, None, None)
    if training.image_shape != model.input_shape[1:]:
        raise UsageError(
            f"{training.name} has images of the shape {training.image_shape}; the model takes "
            f"{model.input_shape[1:]}."
        )
    return training, judging


def said(facts: dict[str, Any]) -> None:
    """Print what the card says of a temperature and of quantized forms."""
    if calibration := facts.get("calibration"):
        line = f"Temperature {calibration['temperature']:g}"
        if measured := calibration.get("measured_on"):
            error = measured["calibration_error"]
            line += (
                f": the calibration error of {measured['examples']:,} test images goes from "
                f"{100 * error['before']:.2f} % to {100 * error['after']:.2f} %"
            )
        say(f"{line}. Probabilities change; answers do not.")
    for row in facts.get("quantized", {}).values():
        if "file" in row:
            form = f"{row['file']}: {row['bytes']:,} bytes"
        else:
            took = row["milliseconds_for_32"]
            form = f"{row['server_flag']}: {took['bfloat16']} ms for 32 images instead of "
            form += f"{took['float32']}"
        lost = row["points_lost"]
        say(
            f"{form}, accuracy {100 * row['accuracy']:.2f} % of {row['test_images']:,} test "
            f"images ({abs(lost):.2f} points {'lost' if lost >= 0 else 'gained'}), "
            f"{100 * row['agreement']:.2f} % of the answers as Keras'."
        )
