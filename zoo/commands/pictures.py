"""The images that `zoo predict` is given: files, folders, and standard input."""

import mimetypes
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import UsageError


def find(inputs: Sequence[str], scratch: Path) -> list[Path]:
    """Return the image files that are meant, in their order.

    Arguments:
        inputs: paths of files; folders, which stand for all images below them, sorted; and "-" for
            the bytes of one image on standard input.
        scratch: an empty folder for the file of standard input.

    Raises:
        UsageError: if there is no such file, no image in a folder, or nothing to read.
    """
    images: list[Path] = []
    for name in inputs:
        path = Path(name)
        if "://" in name:
            raise UsageError(
                f"An image is a file; received the URL {name!r}. Fetch it first: "
                "curl -L URL | zoo predict MODEL -"
            )
        if name == "-":
            images.append(_standard_input(scratch))
        elif path.is_dir():
            below = sorted(file for file in path.rglob("*") if _is_image_below(file, path))
            if not below:
                raise UsageError(f"The folder {name!r} has no image files below it.")
            images += below
        elif path.is_file():
            images.append(path)
        else:
            raise UsageError(f"There is no image {name!r}.")
    return images


def _is_image_below(file: Path, folder: Path) -> bool:
    """Return whether a file has the suffix of an image, and no part of its path is hidden."""
    kind, _ = mimetypes.guess_type(file.name, strict=False)
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and (kind or "").startswith("image/") and file.is_file()


def _standard_input(scratch: Path) -> Path:
    file = scratch / "-"
    if file.exists():
        raise UsageError("Standard input has one image; received - more than once.")
    if sys.stdin.isatty():
        raise UsageError("- is an image on standard input: cat IMAGE | zoo predict MODEL -")
    content = sys.stdin.buffer.read()
    if not content:
        raise UsageError("- is an image on standard input, which is empty.")
    file.write_bytes(content)
    return file
