"""NIN-DSN on Fashion-MNIST, mirrored and moved: not measured here."""

from dataclasses import dataclass, replace

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """Half the width of the CIFAR-10 net, thirty epochs."""

    data: str = "fashion_mnist"
    epochs: int = 30
    # This rate, the companion weight and no dropout are the best of 24 trials that have companions,
    # each of 200 steps at an eighth of the widths: docs/results/tuning_fashion_mnist.md. Nothing is
    # known of longer trainings; `search` is there to find out.
    learning_rate: float = 0.337
    width: float = 0.5
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.0
    companion_weight: float = 0.654
    """Of each hidden layer's loss at the first step; a cosine takes it to zero."""
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

        return zoo.nin_dsn(
            data.image_shape,
            data.classes,
            width=self.width,
            dropout=self.dropout,
            companion_weight=keras.optimizers.schedules.CosineDecay(self.companion_weight, steps),
        )
