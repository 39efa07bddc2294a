"""The commands about exports: `zoo export`, `verify` and `reproduce`."""

import sys
from pathlib import Path
from typing import NamedTuple

from tyro.conf import Positional

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.runs import Run


def export(
    model: Positional[Path],
    out: Path | None = None,
    labels: Path | None = None,
    version: int | None = None,
    top_k: int | None = None,
    exits: bool = False,
    examples: tuple[Path, ...] = (),
    also: str = "",
    repeats: tuple[Path, ...] = (),
    tolerance: float | None = None,
    recipe: Path | None = None,
):
    """Make a SavedModel that TF Serving loads, checked as a server would load it.

    Args:
        model: a run folder, a .keras file, or an export that has its own: once more, with the
            checks of today and all that its card says.
        out: the folder that gets the next version; by default saved_models/NAME of recipe or file,
            or that of the export.
        labels: a text file, a class a line; for a .keras file.
        version: of the export; by default the next. Versions are never overwritten.
        top_k: how many classes the answers name; by default 5, or as the export before.
        exits: add a signature with the answers of every depth of a deeply supervised model.
        examples: images for the examples of the export; by default those of the run, or noise.
        also: other forms, compared with Keras: onnx, litert, or onnx,litert.
        repeats: runs of the same with other seeds, or what was exported of them, such as
            saved_models/digits_nin_dsn; the card has their mean and spread.
        tolerance: how far a probability may be off Keras'.
        recipe: the run's recipe file, where it is one of your own that you never trained with here.
    """
    forms = tuple(form.strip() for form in also.split(",") if form.strip())
    what = _exportable(model, labels, repeats)
    out, exits = out or what.out, exits or what.exits
    from zoo.commands.answering import read_examples
    from zoo.saving import load_model
    from zoo.serving import card, converting, exporting

    converting.check_installed(forms)
    run = Run(what.model)
    file = run.most_complete_file if run.has_model else what.model
    trained = load_model(what.model, with_companions=exits, own_recipe=recipe)
    files = examples or sorted(what.examples.glob("*.png"))
    path = exporting.export_savedmodel(
        trained,
        what.labels,
        out,
        version=version,
        top_k=what.top_k if top_k is None else top_k,
        exits=exits,
        images=read_examples(trained, files),
        image_names=[file.stem for file in files] or None,
        record=card.source(file) | what.record,
        keras_file=file,
        tolerance=what.tolerance if tolerance is None else tolerance,
    )
    print(f"Exported and checked as a server would: {path}")
    for form in forms:
        made, off = converting.convert(path, form)
        print(f"{form}, off Keras by {off:.1e} at most: {made}")
    print(f"The card  {out / 'README.md'}")
    print(f"Next      zoo verify {out}    zoo predict {out} IMAGE...")


class _Exportable(NamedTuple):
    """What `zoo export` was given, as far as it tells for itself."""

    model: Path  # a run folder or a .keras file
    labels: list
    out: Path
    record: dict
    examples: Path  # a folder of PNG files, which may not be there
    exits: bool = False
    top_k: int = 5
    tolerance: float | None = None


def _exportable(model, labels, repeats):
    """Of a run folder, a .keras file or an export; imports TensorFlow once nothing is missing."""
    run = Run(model).is_finished
    if repeats and not run:
        raise UsageError(f"--repeats are runs beside a run; {str(model)!r} is none.")
    if model.is_dir() and not run:
        return _exported_before(model)
    names = Run(model).label_names if run else _read_labels(model, labels)
    import_tensorflow()
    from zoo.serving import card

    record = {}
    if run:
        record = card.record(model) | {"repeats": [card.repeat(each) for each in repeats]}
    name = model.resolve().parent.name if run else model.stem
    return _Exportable(model, names, Path("saved_models") / name, record, Run(model).examples)


def _exported_before(folder):
    import_tensorflow()
    from zoo import exports
    from zoo.models import pretrained
    from zoo.serving import card

    if (version := exports.newest(folder)) is None:
        raise UsageError(f"{folder} is neither a finished run nor an export with its Keras model.")
    try:
        version, told = pretrained.read_card(version)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return _Exportable(
        model=version / exports.MODEL,
        labels=told["labels"],
        out=version.resolve().parent,
        record=card.again(told),
        examples=version / exports.EXAMPLES,
        exits=bool(told["exits"]),
        top_k=told["top_k"],
        tolerance=told["tolerance"],
    )


def _read_labels(file, labels):
    if not file.is_file() or file.suffix != ".keras":
        raise UsageError(f"{str(file)!r} is not a finished run, and no .keras file.")
    if labels is None:
        raise UsageError(f"{file} does not name its classes: give --labels FILE, a class a line.")
    if not labels.is_file():
        raise UsageError(f"There is no file {str(labels)!r} with labels.")
    return labels.read_text(encoding="utf-8").splitlines()


def verify(
    directory: Positional[Path],
    model: Path | None = None,
    tolerance: float | None = None,
    timeout: float = 60.0,
):
    """Prove an export without a server: load it as the server does, and ask it everything.

    Exit code 0 if every check holds, 1 if one does not.

    Args:
        directory: an export: the folder of its versions, or one version.
        model: compare with this model too: the .keras file or the run that was exported.
        tolerance: how far a probability may be off Keras'; by default what the export says.
        timeout: seconds after which an answer counts as none.
    """
    if timeout <= 0:
        raise UsageError(f"--timeout is a positive number of seconds; received {timeout}.")
    if model and not model.exists():
        raise UsageError(f"There is no model {str(model)!r}.")
    import_tensorflow()
    from rich.console import Console
    from rich.table import Table

    from zoo import exports
    from zoo.commands.answering import has_exits
    from zoo.saving import load_model
    from zoo.serving import verifying

    version = exports.find_version(directory)
    compared = None
    if model:
        compared = load_model(model, with_companions=has_exits(version))
    checks = verifying.verify(version, model=compared, tolerance=tolerance, timeout=timeout)
    table = Table("", "check", "found", box=None)
    for check in checks:
        table.add_row("right" if check.passed else "WRONG", check.name, check.found)
    Console(width=max(Console().width, 140), highlight=False, markup=False).print(table)
    wrong = sum(not check.passed for check in checks)
    print(
        f"{version}: {wrong} of {len(checks)} checks failed" if wrong else f"{version} can serve."
    )
    if wrong:
        sys.exit(1)


def reproduce(
    model: Positional[Path],
    seed: int | None = None,
    runs: Path = Path("runs"),
    checkpoint_seconds: float = 60.0,
    minutes: float | None = None,
):
    """Train an export again, as its card says, and compare. Resumes by itself.

    Exit code 0 if the error is what the card lets expect, 1 if it is not.

    Args:
        model: an export: its name in saved_models/, its folder, or one version.
        seed: of the training; by default that of the export.
        runs: where run folders go; this one to reproduced/.
        checkpoint_seconds: save the training state so often, and at the end of each epoch.
        minutes: stop after so many, saved, with exit code 3; the same command goes on.
    """
    import_tensorflow()
    from rich.console import Console
    from rich.table import Table

    from zoo.experiments import reproducing
    from zoo.models import pretrained

    try:
        version, told = pretrained.read_card(model)
    except ValueError as error:  # which names the nearest
        raise UsageError(str(error)) from None
    how = {"checkpoint_seconds": checkpoint_seconds, "minutes": minutes}
    folder, results, (low, high, why) = reproducing.reproduce(version, seed=seed, runs=runs, **how)
    table = Table("", "seeds", "test error", "errors", box=None, padding=(0, 2, 0, 0))
    seeds = told["seeds"]
    for each, errors in zip(seeds["seeds"], seeds["errors"], strict=True):
        share = 100 * errors / told["results"]["examples"]
        table.add_row("the card", str(each), f"{share:.2f} %", str(errors))
    now = told["training"]["seed"] if seed is None else seed
    table.add_row("now", str(now), f"{results['error_percent']:.2f} %", str(results["errors"]))
    Console().print(table)
    holds = low <= results["error_percent"] <= high
    print(
        f"{folder}: {'as' if holds else 'NOT as'} the card says, {low:.2f} to {high:.2f} % ({why})."
    )
    if not holds:
        sys.exit(1)
