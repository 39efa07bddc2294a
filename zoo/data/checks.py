"""Pixels, labels and counts that a training can use; everything else is a `DataError`."""

import numpy as np

from zoo.errors import ZooError

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None


class DataError(ZooError, ValueError):
    """Data that cannot be trained on; the message names the file or the index."""

    exit_code = 2


def whole_number(name, value, at_least):
    """Return the value as an int; raise DataError unless it is whole and `at_least` so large."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise DataError(f"{name} is a whole number of {at_least} or more; received {value!r}.")
    return int(value)


def as_uint8(images, where):
    """Return pixels as uint8; raise DataError unless they are whole numbers in 0..255."""
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
        raise DataError(
            f"{where}: pixels are floats in 0..1; expected raw ones, 0..255. The models scale."
        )
    return whole_numbers(images, 255, f"{where}: pixel").astype(np.uint8, copy=False)


def whole_numbers(values, largest, what):
    """Return the values; raise DataError unless all are whole numbers in 0..largest."""
    if values.dtype.kind not in "uif":
        raise DataError(f"{what}s of type {values.dtype}; expected whole numbers 0..{largest}.")
    if values.dtype == np.uint8 and largest == 255:
        return values
    right = (values >= 0) & (values <= largest) & (values == np.floor(values))
    if not right.all():
        place = np.unravel_index(right.argmin(), right.shape)
        raise DataError(
            f"{what} {values[place]} at index {', '.join(map(str, place))}; expected whole numbers "
            f"0..{largest}."
        )
    return values
