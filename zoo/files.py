"""Write files that are on disk whole or not at all, and check them."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give a partial path to write to. At the end the file is flushed, and renamed to `path`.

    After an error `path` is as it was, and nothing else is left.
    """
    path = Path(path)
    # The suffix stays, since Keras and others choose the format by it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    """Return {path below `folder`: SHA-256}, as its SHA256SUMS lists them."""
    lines = (Path(folder) / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def folders(name: str) -> list[Path]:
    """Return the folders of this name: here, in the package, and beside the package."""
    package = Path(__file__).parent
    candidates = [Path(name), package / name, package.parent / name]
    return list({path.resolve(): path for path in candidates if path.is_dir()}.values())


def cache() -> Path:
    """Return the user's folder for cached files: ZOO_CACHE of the environment, or ~/.cache/zoo."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo")
