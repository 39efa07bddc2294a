"""NIN-DSN on Fashion-MNIST, a quarter of the paper's width: 7.87 % test error, 1 seed."""

from dataclasses import dataclass, replace

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """A quarter of the width of the CIFAR-10 net, twelve epochs; for less error take more."""

    data: str = "fashion_mnist"
    epochs: int = 12  # with --epochs 8 --validation 0.1, 8.3 % of 6,000 held-out images, seed 0
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.0
    companion_weight: float = 0.3
    """Of each hidden layer's loss at the first step; a cosine takes it to zero. 0: a plain NIN."""
    shift: int = 2
    """Training images are moved by up to so many pixels."""
    flip: bool = True
    """Half of the training images are mirrored: shoes point both ways."""

    def search(self, hp):
        return replace(
            self,
            learning_rate=hp.Float("learning_rate", 0.02, 1.0, sampling="log"),
            companion_weight=hp.Float("companion_weight", 0.0, 1.0),
            dropout=hp.Float("dropout", 0.0, 0.5),
        )

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=self.shift, flip=self.flip)

    def model(self, data, steps):
        import keras

        net = {"width": self.width, "dropout": self.dropout}
        if not self.companion_weight:
            return zoo.nin(data.image_shape, data.classes, **net)
        weight = keras.optimizers.schedules.CosineDecay(self.companion_weight, steps)
        return zoo.nin_dsn(data.image_shape, data.classes, companion_weight=weight, **net)
