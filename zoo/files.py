"""Files that are on disk whole or not at all, and what tells whether they are."""

import contextlib
import hashlib
import os
from pathlib import Path


@contextlib.contextmanager
def whole(path):
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


def write(path, text_or_bytes):
    """A `whole` file of this content; text is UTF-8."""
    content = text_or_bytes.encode() if isinstance(text_or_bytes, str) else text_or_bytes
    with whole(path) as partial:
        partial.write_bytes(content)


def flush(path):
    """Have a file, or the names in a folder, on the disk and not in its cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
