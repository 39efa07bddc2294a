"""The net of cifar10_fast on CIFAR-100: 25.57 ± 0.23 % test error, 3 seeds, 0.89 PFLOP."""

from dataclasses import dataclass

from zoo.training.families.fast import FastRecipe


@dataclass(frozen=True)
class Recipe(FastRecipe):
    """A short training of CIFAR-100."""

    # Errors in 5,000 held-out images, half the width, 8 epochs, seed 0: 1759 with labels smoothed
    # by 0.2, 1762 by 0.1.
    data: str = "cifar100"
    epochs: int = 24
    batch_size: int = 500
