"""The things that `zoo export` exports: a run, a .keras file, or an export from before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
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
    exits: bool = False
    top_k: int = 5
    tolerance: float | None = None
    max_batch: int | None = None


def find_exportable(model: Path, labels: Path | None, repeats: Sequence[Path]) -> Exportable:
    """Return what is known of a model that is to be exported.

    Imports TensorFlow, but only when the input is complete.

    Arguments:
        model: a run folder, a .keras file, or an export that holds one.
        labels: a file with one class a line; for a .keras file.
        repeats: runs of the same recipe with other seeds, or their exports; for a run.

    Raises:
        UsageError: if `model` is none of these, or if the labels are missing or unreadable.
        RepeatError: if a repeat is neither a finished run nor an export of one.
    """
    run = Run(model)
    if repeats and not run.is_finished:
        raise UsageError(f"--repeats are runs beside a run; {str(model)!r} is not a finished run.")
    if run.is_finished:
        return _from_run(model, repeats)
    if model.is_dir():
        return _from_export(model)
    return _from_file(model, labels)


def _from_run(folder: Path, repeats: Sequence[Path]) -> Exportable:
    run = Run(folder)
    names = run.label_names
    import_tensorflow()
    from zoo.serving import card

    record = card.record(folder) | {"repeats": [card.repeat(repeat) for repeat in repeats]}
    recipe = folder.resolve().parent.name
    return Exportable(folder, names, Path("saved_models") / recipe, record, run.examples)


def _from_file(file: Path, labels: Path | None) -> Exportable:
    names = _read_labels(file, labels)
    import_tensorflow()
    return Exportable(file, names, Path("saved_models") / file.stem, {}, Run(file).examples)


def _from_export(folder: Path) -> Exportable:
    import_tensorflow()
    from zoo import exports
    from zoo.models import pretrained
    from zoo.serving import card

    if (version := exports.newest(folder)) is None:
        raise UsageError(f"{folder} is neither a finished run nor an export with its Keras model.")
    try:
        version, facts = pretrained.read_card(version)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Exportable(
        model=version / exports.MODEL,
        labels=facts["labels"],
        out=version.resolve().parent,
        record=card.again(facts),
        examples=version / exports.EXAMPLES,
        exits=bool(facts["exits"]),
        top_k=facts["top_k"],
        tolerance=facts["tolerance"],
        max_batch=facts["input"].get("max_batch"),  # an older zoo's export has none
    )


def _read_labels(file: Path, labels: Path | None) -> list[str]:
    if not file.is_file() or file.suffix != ".keras":
        raise UsageError(f"{str(file)!r} is neither a finished run nor a .keras file.")
    if labels is None:
        raise UsageError(
            f"{file} does not name its classes: give --labels FILE, with one class a line."
        )
    if not labels.is_file():
        raise UsageError(f"There is no file {str(labels)!r} with labels.")
    try:
        text = labels.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError:
        raise UsageError(f"{labels} is not text in UTF-8. Save it as UTF-8.") from None
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise UsageError(f"{labels} has a blank line {names.index('') + 1}; give one class a line.")
    return names
