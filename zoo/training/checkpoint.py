"""Save and restore the training state in commits, which are complete or do not exist.

A commit is a folder `step-00001234` with `state.npz` and `meta.json`. It is written under another
name, flushed to the disk and renamed. `meta.json` has the checksum of `state.npz` and its own.
Keras overwrites its checkpoints in place: a kill at the wrong moment leaves the newest one
incomplete, and the one before it is gone.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import files
from zoo.errors import ZooError

_PREFIX, _UNFINISHED = "step-", ".tmp"


class CheckpointError(ZooError, RuntimeError):
    """A checkpoint cannot be used: it is of another model, or all are damaged."""


def save(
    folder: Path | str,
    step: int,
    variables: Sequence[keras.Variable],
    meta: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Commit the variables and `meta`; return the commit's folder.

    Arguments:
        folder: the folder of all commits.
        step: the number of the step, which names the commit.
        variables: Keras variables.
        meta: values that JSON can hold.
        keep: how many undamaged commits stay: this one and the newest others.

    Raises:
        OSError: if the commit cannot be written. The older commits stay as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{step:010d}"
    partial = final.with_suffix(_UNFINISHED)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        arrays = {f"v{index}": _array(variable) for index, variable in enumerate(variables)}
        with open(partial / "state.npz", "wb") as file:
            np.savez(file, **arrays)
        files.flush(partial / "state.npz")
        record = {
            "step": step,
            "sha256": files.sha256(partial / "state.npz"),
            "variables": _description(variables),
            "meta": meta,
        }
        text = json.dumps(record)
        with open(partial / "meta.json", "w", encoding="utf-8") as file:
            file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n")
        files.flush(partial / "meta.json")
        files.flush(partial)
        if final.exists():  # a resumed training saves the same step, with the same state
            shutil.rmtree(final)
        partial.rename(final)
        files.flush(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    kept = [final]
    for old in reversed(_commits(folder)):
        if old == final:
            continue
        if len(kept) < keep and _read(old):
            kept.append(old)
        else:
            shutil.rmtree(old, ignore_errors=True)
    remove_unfinished(folder)
    return final


def remove_unfinished(folder: Path | str) -> None:
    """Remove the commits that killed processes did not finish. No other process may write here."""
    for partial in Path(folder).glob(f"{_PREFIX}{'[0-9]' * 10}{_UNFINISHED}"):
        shutil.rmtree(partial, ignore_errors=True)


def restore(
    folder: Path | str,
    variables: Sequence[keras.Variable],
    check: Callable[[Path, dict[str, Any]], None] = lambda commit, meta: None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Set the variables to the values of the newest undamaged commit.

    Arguments:
        folder: the folder of all commits.
        variables: the Keras variables that were saved, in the same order.
        check: gets that commit's folder and `meta` before a variable changes, and raises if the
            commit may not be used.

    Returns:
        The commit's `meta` and the names of newer commits that are damaged; (None, []) if there
        is no commit.

    Raises:
        CheckpointError: if all commits are damaged, or the newest undamaged one has other
            variables.
    """
    damaged: list[str] = []
    for commit in reversed(_commits(Path(folder))):
        record = _read(commit)
        if record is None:
            damaged.append(commit.name)
            continue
        check(commit, record["meta"])
        saved, present = record["variables"], _description(variables)
        if saved != present:
            raise CheckpointError(
                f"{commit} holds another model or optimizer: {_difference(saved, present)}"
            )
        with np.load(commit / "state.npz", allow_pickle=False) as arrays:
            for index, variable in enumerate(variables):
                variable.assign(arrays[f"v{index}"])
        return record["meta"], damaged
    if damaged:
        raise CheckpointError(
            f"All checkpoints in {folder} are damaged ({', '.join(damaged)}); remove the folder to "
            "start anew."
        )
    return None, []


def size(variables: Sequence[keras.Variable]) -> int:
    """Return the least number of bytes that a commit of these variables takes."""
    return sum(_array(variable).nbytes for variable in variables)


def latest_step(folder: Path | str) -> int | None:
    """Return the step of the newest undamaged commit; None if there is none."""
    for commit in reversed(_commits(Path(folder))):
        if _read(commit):
            return int(commit.name.removeprefix(_PREFIX))
    return None


def _read(commit):
    """Return the record of a commit; None if any of its bytes has changed."""
    try:
        checksum, text = (commit / "meta.json").read_text(encoding="utf-8").splitlines()
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            return None
        record = json.loads(text)
        return record if files.sha256(commit / "state.npz") == record["sha256"] else None
    except (OSError, ValueError):
        return None


def _commits(folder):
    """Return the folders of the commits, oldest first."""
    paths = folder.glob(f"{_PREFIX}*") if folder.is_dir() else []
    return sorted(path for path in paths if path.is_dir() and path.suffix != _UNFINISHED)


def _array(variable):
    value = np.asarray(variable)
    # The npz format has no bfloat16. float32 represents all of its values exactly.
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _description(variables):
    # Keras numbers layer names within a process: dense_7 in one process is dense in another.
    names = (re.sub(r"_\d+(?=[/_]|$)", "", variable.path) for variable in variables)
    return [[n, list(v.shape), str(v.dtype)] for n, v in zip(names, variables, strict=True)]


def _difference(saved, present):
    for old, new in zip(saved, present, strict=False):
        if old != new:
            return f"it has {old}, where the recipe makes {new}."
    return f"it has {len(saved)} variables, where the recipe makes {len(present)}."
