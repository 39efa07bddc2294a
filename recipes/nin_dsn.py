"""NIN-DSN on your own images, `zoo train nin_dsn --data FOLDER`: not measured, it is yours."""

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """For photographs; a folder of your own is its `data`."""

    width: float = 0.5
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.2
    companion_weight: float = 0.3
    """Of each hidden layer's loss at the first step; a cosine takes it to zero."""
    pad_and_crop: int = 4
    """Training images are padded with so many pixels and cropped at random. 0 leaves them."""
    flip: bool = True
    """Half of the training images are mirrored, left and right. Not for writing."""

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
