"""Training state on disk: one commit holds everything, and a commit is there whole or not at all.

A commit is a folder `step-00001234` with `state.npz` and `meta.json`, written under another name,
flushed to the disk and renamed. `meta.json` has the checksum of `state.npz` and its own. Keras'
checkpoints are overwritten in place: a kill at the wrong moment leaves the newest torn and the one
before it gone.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np

from zoo import files
from zoo.errors import ZooError

_PREFIX, _UNFINISHED = "step-", ".tmp"


class CheckpointError(ZooError, RuntimeError):
    """A checkpoint that cannot be used: of another model, or none left that is whole."""


def save(folder, step, variables, meta, keep=2):
    """Commit `variables`, a list of Keras variables, and `meta`, what JSON can hold.

    Returns the commit's path. The `keep` newest commits stay. Raises OSError if it cannot be
    written, and leaves the older commits as they are.
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
        if final.exists():  # the same step again, after a resume: the same state
            shutil.rmtree(final)
        partial.rename(final)
        files.flush(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in [*_commits(folder)[:-keep], *folder.glob(f"*{_UNFINISHED}")]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def restore(folder, variables):
    """Set `variables` from the newest whole commit.

    Returns (meta, names of the damaged commits passed over), or (None, []) if there never was a
    commit. Raises CheckpointError if all commits are damaged, or if the newest whole one is of
    other variables.
    """
    damaged = []
    for commit in reversed(_commits(Path(folder))):
        record = _read(commit)
        if record is None:
            damaged.append(commit.name)
            continue
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


def latest_step(folder):
    """The step of the newest commit that is whole, or None."""
    for commit in reversed(_commits(Path(folder))):
        if _read(commit):
            return int(commit.name.removeprefix(_PREFIX))
    return None


def _read(commit):
    """The record of a commit, or None if any of its bytes is not what was written."""
    try:
        checksum, text = (commit / "meta.json").read_text(encoding="utf-8").splitlines()
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            return None
        record = json.loads(text)
        return record if files.sha256(commit / "state.npz") == record["sha256"] else None
    except (OSError, ValueError):
        return None


def _commits(folder):
    """Committed folders, oldest first."""
    found = folder.glob(f"{_PREFIX}*") if folder.is_dir() else []
    return sorted(path for path in found if path.is_dir() and path.suffix != _UNFINISHED)


def _array(variable):
    value = np.asarray(variable)
    # npz knows no bfloat16; float32 holds each of its values.
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _description(variables):
    # Keras numbers the names of layers over the life of a process: dense_7 here is dense there.
    names = (re.sub(r"_\d+(?=[/_]|$)", "", variable.path) for variable in variables)
    return [[n, list(v.shape), str(v.dtype)] for n, v in zip(names, variables, strict=True)]


def _difference(saved, present):
    for one, other in zip(saved, present, strict=False):
        if one != other:
            return f"it has {one}, where the recipe makes {other}."
    return f"it has {len(saved)} variables, where the recipe makes {len(present)}."
