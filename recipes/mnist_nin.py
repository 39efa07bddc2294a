"""NIN on MNIST, without companions, beside mnist_nin_dsn: not measured."""

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    data: str = "mnist"
    epochs: int = 12
    width: float = 0.5
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.2
    shift: int = 2
    """Training images are moved by up to so many pixels. The papers train on MNIST as it is."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=self.shift)

    def model(self, data, steps):
        return zoo.nin(data.image_shape, data.classes, width=self.width, dropout=self.dropout)
