"""Write files that are on disk whole or not at all, and check them."""

import contextlib
import fcntl
import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import UsageError


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give a partial path to write to. At the end the file is flushed, and renamed to `path`.

    After an error `path` is as it was, and nothing else is left. What a killed process left of the
    same file is removed.

    Raises:
        UsageError: if there is something else than a regular file at `path`, such as a device or a
            link. It stays as it is.
    """
    path = Path(path)
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"{path} is no regular file, so it is not replaced; give another path.")
    remove_partials(path.parent, glob.escape(path.stem), path.suffix)
    # The suffix stays, since Keras and others choose the format by it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    with _locked(partial):
        try:
            yield partial
            flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Make a file and lock it while it is written; a killed process loses its locks."""
    with open(partial, "wb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_partials(folder: Path | str, stem: str = "*", suffix: str = "*") -> None:
    """Remove the partial files that killed processes left in a folder.

    A file that a living process writes is locked, and stays.

    Arguments:
        folder: the folder. Its subfolders are not looked at.
        stem: a pattern for the names of the files, without suffix.
        suffix: a pattern for their suffixes.
    """
    for partial in Path(folder).glob(f".{stem}.*.partial{suffix}"):
        with contextlib.suppress(OSError):  # it is gone, or the file system has no locks
            descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
            finally:
                os.close(descriptor)


def write(path: Path | str, text_or_bytes: str | bytes) -> None:
    """Write a `whole` file with this content; text is UTF-8."""
    content = text_or_bytes.encode() if isinstance(text_or_bytes, str) else text_or_bytes
    with whole(path) as partial:
        partial.write_bytes(content)


def flush(path: Path | str) -> None:
    """Flush a file, or the names in a folder, from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CHECKSUMS = "SHA256SUMS"


def listed_checksums(folder: Path | str) -> dict[str, str]:
    """Return {path below `folder`: SHA-256}, as its SHA256SUMS lists them.

    Raises:
        UsageError: if the file is not UTF-8, or a line is not a checksum, two spaces and a path.
    """
    file = Path(folder) / CHECKSUMS
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is damaged: it is not UTF-8 ({error}). Copy it again.") from error
    listed = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise UsageError(
                f"{file} is damaged: line {number} is not a SHA-256, two spaces and a path. Copy "
                "it again."
            )
        listed[name] = digest
    return listed


def folders(name: str) -> list[Path]:
    """Return the folders of this name: here, in the package, and beside the package."""
    package = Path(__file__).parent
    candidates = [Path(name), package / name, package.parent / name]
    return list({path.resolve(): path for path in candidates if path.is_dir()}.values())


def cache() -> Path:
    """Return the user's folder for cached files: ZOO_CACHE of the environment, or ~/.cache/zoo."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo")
