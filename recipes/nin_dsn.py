"""NIN-DSN on your own images, `zoo train nin_dsn --data FOLDER`: not measured."""

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """A start for photographs. Give your folder of images as --data."""

    width: float = 0.5
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.2
    """Share of the units that dropout zeroes."""
    companion_weight: float = 0.3
    """Weight of each hidden layer's loss at the first step. A cosine lowers it to zero."""
    pad_and_crop: int = 4
    """Pad each training image by this many pixels, and crop it at random. 0: do neither."""
    flip: bool = True
    """Mirror half of the training images, left to right. Turn it off for images of writing."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=self.pad_and_crop, flip=self.flip)

    def model(self, data, steps):
        import keras

        return zoo.nin_dsn(
            data.image_shape,
            data.classes,
            width=self.width,
            dropout=self.dropout,
            companion_weight=keras.optimizers.schedules.CosineDecay(self.companion_weight, steps),
        )
