"""Checks of pixels, labels and counts. Each raises a `DataError` for values that cannot be used."""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError

_SCALED = (
    "all pixels are in 0..1; expected raw ones, 0..255, which the models scale themselves. "
    "Multiply them by 255 and round."
)

_KINDS = {
    **{stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"},
    **{stat.S_IFCHR: "device", stat.S_IFBLK: "device"},
}


class DataError(ZooError, ValueError):
    """Data that cannot be trained on. The message names the file or the index."""

    exit_code = 2


def refuse_special_file(path: str | Path) -> None:
    """Raise DataError for a FIFO, a socket or a device, which could be read for ever."""
    try:
        kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):  # the one who opens it says what is wrong
        return
    if kind:
        raise DataError(f"{path} is a {kind}, not a file; give a file.")


def refuse_odd_names(names: Iterable[object], where: str) -> None:
    """Raise DataError for names of classes that no file of labels can hold, one a line in UTF-8."""
    for name in map(str, names):
        odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
        if odd or name.splitlines() != [name]:
            raise DataError(
                f"{where}: a class has the name {name!r}; expected one line of text in UTF-8, "
                "without control characters. Rename the class."
            )


def refuse_one_class(labels: np.ndarray, where: str) -> None:
    """Raise DataError if all labels are equal."""
    if (labels == labels[0]).all():
        raise DataError(f"{where}: every label is {labels[0]}; expected two classes or more.")


def whole_number(name: str, value: Any, at_least: int) -> int:
    """Return the value as an int.

    Raises:
        DataError: if the value is not a whole number, or is smaller than `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise DataError(f"{name} is a whole number of {at_least} or more; received {value!r}.")
    return int(value)


def as_uint8(images: np.ndarray, where: str | Path) -> np.ndarray:
    """Return pixels as uint8.

    Arguments:
        images: pixels of any shape.
        where: a name of the images, for the message.

    Raises:
        DataError: if a pixel is not a whole number in 0..255, or all pixels are floats in 0..1.
    """
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
        raise DataError(f"{where}: {_SCALED}")
    return whole_numbers(images, 255, f"{where}: pixel").astype(np.uint8, copy=False)


def refuse_zeros_and_ones(images: np.ndarray, where: str) -> None:
    """Raise DataError if all pixels of a data set are 0 or 1. A single image may be that dark."""
    if images.max() == 1:
        raise DataError(f"{where}: {_SCALED}")


def whole_numbers(values: np.ndarray, largest: int, what: str) -> np.ndarray:
    """Return the values unchanged.

    Arguments:
        values: an array of any shape.
        largest: the largest value allowed.
        what: a name of one value, such as "label", for the message.

    Raises:
        DataError: if a value is not a whole number in 0..largest. The message gives its index.
    """
    if values.dtype.kind not in "uif":
        raise DataError(f"{what}s of type {values.dtype}; expected whole numbers 0..{largest}.")
    if values.dtype == np.uint8 and largest == 255:
        return values
    allowed = (values >= 0) & (values <= largest) & (values == np.floor(values))
    if not allowed.all():
        index = np.unravel_index(allowed.argmin(), allowed.shape)
        raise DataError(
            f"{what} {values[index]} at index {', '.join(map(str, index))}; expected whole numbers "
            f"0..{largest}."
        )
    return values
