"""Publish a version: a hidden folder that dies with its process, one rename, and the card beside.

A lock on a folder ends with the process that holds it, however that ends. So a hidden folder
without a lock was left by a process that was killed, and the next export deletes it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zoo import exports, files
from zoo.exports import ExportError
from zoo.serving import card

VERSION_CHOICE = "Leave version out to write the next one."
_ELSEWHERE = "Nothing was written. Export to another folder: --out FOLDER (in Python: directory)."
_HIDDEN = ".export-"


def refuse_another(
    base: Path, labels: Sequence[str], image_shape: Sequence[int], data: str | None
) -> None:
    """Refuse a model that is not of the same kind as the newest version in `base`.

    A server that watches the folder swaps the new version in, and its clients would read other
    labels without an error.

    Arguments:
        base: the folder of the versions. It need not exist.
        labels: the label names of the new model.
        image_shape: the (h, w, c) that it takes.
        data: the name or path of its data; None if they are not known. Then they are not compared.

    Raises:
        ExportError: if the labels, the shape or the data differ, or the card there is damaged.
    """
    version = exports.newest(base, (exports.CARD,))
    if version is None:
        return
    facts = exports.card(version)
    try:
        data_before = (facts.get("data") or {}).get("name")
        before = [
            facts["labels"],
            facts["input"]["shape"],
            data and data_before and _last(data_before),
        ]
    except (AttributeError, LookupError, TypeError) as error:
        raise ExportError(
            f"The card of {version} is damaged: {error!r}. So nobody knows its labels. {_ELSEWHERE}"
        ) from None
    now = [list(labels), list(image_shape), data and data_before and _last(data)]
    for kind, old, new in zip(("labels", "image shape", "data"), before, now, strict=True):
        if old != new:
            raise ExportError(
                f"{version} has the {kind} {_short(old)}; this model has {_short(new)}. A server "
                f"would answer with one in place of the other. {_ELSEWHERE}"
            )


def _last(data: str) -> str:
    """Return the last part of a path; the same folder may be named from several places."""
    return Path(data).name


def _short(value: object) -> str:
    """Return a value as text, of a long list the first few."""
    if isinstance(value, list) and len(value) > 5:
        return f"{', '.join(map(str, value[:5]))}, ... ({len(value)})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextlib.contextmanager
def hidden(base: Path) -> Iterator[Path]:
    """Give a hidden folder in `base`, for files that are not complete; it is deleted at the end.

    First it deletes what killed processes left in `base`.
    """
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(base):
            _clean(base)
            folder = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=base))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
        yield folder


def publish(draft: Path, base: Path, version: int | None, speed: Mapping[int, float]) -> Path:
    """Rename `draft` to a version in `base`, and describe it beside the versions if it is newest.

    Arguments:
        draft: a complete version in a hidden folder of `base`.
        base: the folder of the versions.
        version: its number. Default: one more than the newest.
        speed: {batch size: seconds for a batch}, for the card.

    Returns:
        The path of the version.

    Raises:
        FileExistsError: if the version exists.
    """
    for path in [*draft.rglob("*"), draft]:
        files.flush(path)
    with _locked(base):
        target = base / str(version or max(exports.versions(base), default=0) + 1)
        # A rename fails if a version appeared meanwhile, but it replaces an empty folder.
        if target.exists():
            raise FileExistsError(
                f"{target} appeared during the export. It was left as it is. {VERSION_CHOICE}"
            )
        draft.rename(target)
        files.flush(base)
        if int(target.name) == max(exports.versions(base)):
            _describe(target, speed)
    return target


def _describe(version, speed):
    """Write the card of a version beside it, in `version.parent`, and their checksums."""
    base = version.parent
    facts = card.of_version(version, exports.card(version), speed)
    content = {"README.md": card.page(version, facts), "card.json": card.as_json(facts)}
    for name in exports.BESIDE:
        files.write(base / name, content[name])
    digests = {name: files.sha256(base / name) for name in exports.BESIDE}
    files.write(base / files.CHECKSUMS, exports.as_checksums(digests))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which this process loses only with its end."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks of folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clean(base):
    """Delete what killed processes left; the caller has the lock of `base`."""
    for folder in base.glob(f"{_HIDDEN}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (base, base / "exports"):
        files.remove_partials(folder)


def _is_abandoned(folder):
    """Return whether no process holds the lock of a hidden folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # a file or a link is not ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has the lock, or the drive has none
        return False
    finally:
        os.close(descriptor)
    return True
