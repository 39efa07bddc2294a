"""The width of a student that has so many parameters, or takes so long for an image."""

from collections.abc import Callable

from zoo.errors import UsageError
from zoo.models import nin
from zoo.training.measuring import milliseconds

# Widths are whole multiples of this: each changes at least one layer of the net.
STEP = 1 / 96
_MOST = 192


def width_of_size(image_shape: tuple[int, int, int], classes: int, most: float) -> float:
    """Return the largest width of `nin` with at most so many parameters, up to 2.

    Raises:
        UsageError: if the narrowest net has more.
    """

    def count(width):
        return nin(image_shape, classes, width=width).count_params()

    return _largest(lambda width: count(width) <= most, f"{count(STEP):,} parameters")


def width_of_latency(image_shape: tuple[int, int, int], classes: int, most: float) -> float:
    """Return the largest width of `nin` that takes at most so many ms for one image here, up to 2.

    Raises:
        UsageError: if the narrowest net takes longer.
    """

    def latency(width):
        (found,) = milliseconds([nin(image_shape, classes, width=width)], image_shape)
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
