"""The things that `zoo export` exports: a run, a .keras file, or an export from before."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from zoo import exports
from zoo.commands import models
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.recipe import RecipeError
from zoo.runs import Run


class Exportable(NamedTuple):
    """A model to export, and the settings that its source suggests."""

    model: Path
    """A run folder or a .keras file."""
    labels: list[str]
    """The label names."""
    out: Path
    """The folder that gets the next version."""
    record: dict[str, Any]
    """The facts for the card, as `zoo.serving.card.record` makes them."""
    examples: Path
    """A folder of PNG files for the examples. It need not exist."""
    trained_at: Path | None = None
    """The run, or the version of an export, that knows the images; None for a file."""
    calibration: dict[str, Any] | None = None
    """The temperature of the export before; see `zoo.serving.calibrating`."""
    exits: bool = False
    top_k: int = 5
    tolerance: float | None = None
    max_batch: int | None = None


def find_exportable(
    model: str,
    labels: Path | None,
    repeats: Sequence[Path],
    own_recipe: Path | None = None,
    *,
    calibrate: bool = False,
    quantize: bool = False,
) -> Exportable:
    """Return what is known of a model that is to be exported.

    Imports TensorFlow, but only when the input is complete.

    Arguments:
        model: a run folder, a .keras file, or an export that holds one, by name or by path.
        labels: a file with one class a line; required for a .keras file.
        repeats: runs of the same recipe with other seeds, or their exports; for a run.
        own_recipe: the file of the run's recipe, if it is one of your own.
        calibrate: whether it needs held-out images, to fit a temperature on.
        quantize: whether it needs training images and test images.

    Raises:
        UsageError: if `model` is none of these, if the labels are missing or unreadable, or if it
            has no images of the kind that is needed.
        RepeatError: if a repeat is neither a finished run nor an export of one.
    """
    path = models.find(model)
    if labels and Path(model).is_file():  # whose file it is does not matter then
        path = Path(model)
    run = Run(path)
    if repeats and not run.is_finished:
        raise UsageError(f"--repeats are runs beside a run; {str(path)!r} is not a finished run.")
    if calibrate:
        _require_held_out(run)
    if run.is_finished:
        return _from_run(run, labels, repeats, own_recipe)
    if path.is_dir():
        return _from_export(path, labels, quantize)
    if quantize:
        _refuse_without_images(path)
    return _from_file(path, labels)


def _refuse_without_images(path: Path) -> NoReturn:
    raise UsageError(
        f"--quantize needs the images of the training, and {path} does not say which they are: "
        "export the run."
    )


def _require_held_out(run: Run) -> None:
    """Refuse a model without images that it was neither trained on nor is judged on."""
    if not run.is_finished:
        raise UsageError(
            f"--calibrate needs the images that a run held out; {run.folder} is no run: export the "
            "run."
        )
    if run.results["evaluated_on"] != "validation":
        raise UsageError(
            f"--calibrate needs images that were neither trained on nor tested on; {run.folder} "
            "held out none. Train it again with --validation 0.1, and export that run."
        )


def _from_run(
    run: Run, labels: Path | None, repeats: Sequence[Path], own_recipe: Path | None
) -> Exportable:
    names = models.read_labels(labels) if labels else run.label_names
    import_tensorflow()
    from zoo.serving import card

    record = card.record(run.folder) | {"repeats": [card.repeat(repeat) for repeat in repeats]}
    out = Path("saved_models") / _name(run, own_recipe)
    return Exportable(run.folder, names, out, record, run.examples, run.folder)


def _name(run: Run, own_recipe: Path | None) -> str:
    """Return the name of a run's export: the recipe, and its data if they are not the default."""
    recipe = str(run.record.get("recipe") or run.folder.resolve().parent.name)
    trained_on = run.fields["data"]
    with contextlib.suppress(RecipeError):  # it may not run, so its default is not known
        if run.recipe_class(own_recipe).data == trained_on:
            return _as_file_name(recipe)
    data = Path(trained_on)
    return _as_file_name(f"{recipe}-{data.stem if data.suffix == '.npz' else data.name}")


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.=,-]+", "_", text)[:100].lstrip(".") or "model"


def _from_file(file: Path, labels: Path | None) -> Exportable:
    names = models.label_names(file, labels)
    if names is None:
        raise UsageError(
            f"{file} does not name its classes: give --labels FILE, with one class a line."
        )
    import_tensorflow()
    return Exportable(file, names, Path("saved_models") / file.stem, {}, Run(file).examples)


def _from_export(folder: Path, labels: Path | None, quantize: bool = False) -> Exportable:
    names = models.read_labels(labels) if labels else None
    import_tensorflow()
    from zoo.models import pretrained
    from zoo.serving import card

    if (version := exports.newest(folder)) is None:
        raise UsageError(f"{folder} is neither a finished run nor an export with its Keras model.")
    try:
        version, facts = pretrained.read_card(version)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if quantize and not facts["training"]:
        _refuse_without_images(version)
    base = version.resolve().parent
    own = base in [own.resolve() for own in exports.own_names().values()]
    return Exportable(
        model=version / exports.MODEL,
        labels=names or facts["labels"],
        # The zoo's own lie in the package, which an export leaves alone.
        out=Path("saved_models") / base.name if own else base,
        record=card.again(facts),
        examples=version / exports.EXAMPLES,
        trained_at=version,
        # Else the export made again would give other probabilities.
        calibration=facts.get("calibration"),
        exits=bool(facts["exits"]),
        top_k=facts["top_k"],
        tolerance=facts["tolerance"],
        max_batch=facts["input"].get("max_batch"),  # an older zoo's export has none
    )
