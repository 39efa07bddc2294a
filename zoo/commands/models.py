"""Find a model that the command line names, its kind, and the names of its classes."""

from pathlib import Path
from typing import Any

from zoo import exports
from zoo.errors import UsageError
from zoo.runs import Run


def find(model: str) -> Path:
    """Return where a model is; see `zoo.exports.resolve`.

    The file of a run's or an export's model is that run or export, which knows its classes.

    Raises:
        UsageError: if there is none, if it is a URL, or if it is a run that is not finished.
    """
    if "://" in model:
        raise UsageError(
            f"MODEL is a name, a folder or a .keras file; received the URL {model!r}. A server is "
            "--server URL."
        )
    path = exports.resolve(model)
    if path.is_file() and path.suffix != ".keras":
        raise UsageError(f"{str(path)!r} is neither a folder of a model nor a .keras file.")
    run, export = Run(path.parent), path.parent.parent
    if run.is_finished and path in (run.model_file, run.with_companions_file):
        return run.folder
    if path == export / exports.MODEL and (export / exports.CARD).is_file():
        return export
    if Run(path).is_begun:
        Run.finished_at(path)
    return path


def run_at(model: str) -> Run:
    """Return the finished run that a model is.

    Raises:
        UsageError: if it is another model.
    """
    path = find(model)
    if not Run(path).is_finished:
        raise UsageError(
            f"{str(path)!r} is not the folder of a run; a page is drawn of a run alone."
        )
    return Run(path)


def is_saved_model(path: Path) -> bool:
    """Return whether a model has the program of an export. In the wheel exports have none."""
    return path.is_dir() and exports.newest(path, (exports.PROGRAM,)) is not None


def label_names(path: Path, labels: Path | None = None) -> list[str] | None:
    """Return the names of a model's classes, in the order of the logits; None if none are known.

    Arguments:
        path: a model, as `find` returns it.
        labels: a file with one class a line. It wins over the names that lie beside the model.

    Raises:
        UsageError: if that file is missing, is not text, or has a blank line.
    """
    if labels is not None:
        return read_labels(labels)
    if path.is_file():
        return None
    if Run(path).is_finished:
        return Run(path).label_names
    version = exports.newest(path, (exports.PROGRAM, exports.MODEL))
    if version is None:
        raise UsageError(f"{path} is neither a finished run nor an export.")
    return exports.labels(version)


def of_training(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a model's recipe and the identities of its images; {} if not known.

    Arguments:
        path: a model, as `find` returns it.
    """
    run = Run(path if path.is_dir() else path.parent)
    if run.is_finished:
        return {**run.fields, "data": run.data}, run.results.get("data", {})
    version = exports.newest(path, (exports.CARD,)) if path.is_dir() else None
    training = (exports.card(version).get("training") if version else None) or {}
    return training.get("fields", {}), training.get("data") or {}


def read_labels(file: Path) -> list[str]:
    """Return the names in a file with one class a line.

    Raises:
        UsageError: if the file is missing, is not text in UTF-8, or has a blank line.
    """
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r} with labels.")
    try:
        text = file.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not text in UTF-8. Save it as UTF-8.") from None
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise UsageError(f"{file} has a blank line {names.index('') + 1}; give one class a line.")
    return names
