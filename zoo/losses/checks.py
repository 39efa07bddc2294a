"""Arguments of losses are checked here, before the first step."""

import math


def check_share(name, value):
    """Raise ValueError, naming the argument, for a value that is not in 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share in 0..1; received {value!r}.")


def check_temperature(temperature):
    """Raise ValueError for a temperature that is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"The temperature is a finite number > 0; received {temperature!r}.")


def shapes_differ(shape, other):
    """Return True if two shapes of one rank differ in a size that both know."""
    return any(a != b for a, b in zip(shape, other, strict=True) if None not in (a, b))
