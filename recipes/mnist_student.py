"""A small net on MNIST, taught by mnist_nin_dsn: not measured."""

from dataclasses import dataclass
from typing import Literal

from zoo.training.families.students import FastStudentRecipe


@dataclass(frozen=True)
class Recipe(FastStudentRecipe):
    """A net of a ninth of its teacher's parameters. --soft-weight 0: no teacher."""

    data: str = "mnist"
    teachers: tuple[str, ...] = ("saved_models/mnist_nin_dsn",)
    epochs: int = 20
    batch_size: int = 500
    width: float = 0.5
    """Factor on the widths of the student."""
    views: int = 4
    smoothing: float = 0.0
    """Share of each label that all classes have in common."""
    flip: Literal["alternating", "random", "none"] = "none"
    """Mirror each training image in every second epoch (alternating), or half of them (random)."""
