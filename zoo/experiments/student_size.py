"""The width of a student that has so many parameters, or takes so long for an image."""

from collections.abc import Callable

import keras

from zoo.errors import UsageError
from zoo.training.measuring import milliseconds

# Widths are whole multiples of this: each changes at least one layer of the net.
STEP = 1 / 96
_MOST = 384

# A width -> a built student.
Build = Callable[[float], keras.Model]


def width_of_size(build: Build, most: float) -> float:
    """Return the largest width of a student with at most so many parameters, up to 4.

    Raises:
        UsageError: if the narrowest student has more.
    """

    def count(width):
        return build(width).count_params()

    return _largest(lambda width: count(width) <= most, f"{count(STEP):,} parameters")


def width_of_latency(build: Build, most: float) -> float:
    """Return the largest width of a student that takes at most so many ms an image here, up to 4.

    Raises:
        UsageError: if the narrowest student takes longer.
    """

    def latency(width):
        student = build(width)
        (found,) = milliseconds([student], student.input_shape[1:])
        return found

    return _largest(lambda width: latency(width) <= most, f"{latency(STEP):.2g} ms here")


def _largest(suits: Callable[[float], bool], least: str) -> float:
    """Return the largest width that suits, by halving: what suits gets worse with the width."""
    if not suits(STEP):
        raise UsageError(
            f"No student is so small: the narrowest net has {least}. Give another --size, "
            "--latency-ms or --width."
        )
    low, high = 1, _MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if suits(middle * STEP) else (low, middle)
    return low * STEP
