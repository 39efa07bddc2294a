"""Files that are on disk whole or not at all, and what tells whether they are."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; what is written there becomes `path` by one rename, flushed.

    After an error `path` is as it was, and nothing else is left.
    """
    path = Path(path)
    # The ending stays, by which Keras and others tell what to write.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path | str, text_or_bytes: str | bytes) -> None:
    """A `whole` file of this content; text is UTF-8."""
    content = text_or_bytes.encode() if isinstance(text_or_bytes, str) else text_or_bytes
    with whole(path) as partial:
        partial.write_bytes(content)


def flush(path: Path | str) -> None:
    """Have a file, or the names in a folder, on the disk and not in its cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CHECKSUMS = "SHA256SUMS"


def listed_checksums(folder: Path | str) -> dict[str, str]:
    """{path below `folder`: SHA-256}, as its SHA256SUMS lists them."""
    lines = (Path(folder) / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def folders(name: str) -> list[Path]:
    """Find folders of this name: here, in the package, and beside it in its repository."""
    package = Path(__file__).parent
    found = [Path(name), package / name, package.parent / name]
    return list({path.resolve(): path for path in found if path.is_dir()}.values())


def cache() -> Path:
    """The user's folder for cached files: the environment's ZOO_CACHE, else ~/.cache/zoo."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo")
