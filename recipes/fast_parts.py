"""The net of cifar10_fast with parts left out, half as wide: not measured."""

from dataclasses import dataclass

import keras

import zoo
from zoo.training.families.fast import FastRecipe


@dataclass(frozen=True)
class Recipe(FastRecipe):
    """All parts by default. Each field of its own, and some of `cifar10_fast`, leave one out."""

    data: str = "cifar10"
    epochs: int = 8
    batch_size: int = 500
    width: float = 0.5
    """Factor on the widths of the net."""
    residual: bool = True
    """Add the input of each mlpconv layer to its output."""
    dirac: bool = True
    """Start each convolution as the identity. False: He initialization."""
    stock_normalization: bool = False
    """Normalize with factors that are learned, and with averages over ten steps instead of two."""
    averaging: float = 0.0
    """Momentum of the average of the weights that the net ends with. 0: the last weights."""

    def check(self):
        super().check()
        self.require("variant", self.variant == "fast", "fast: the study is of this net")
        self.require("averaging", 0 <= self.averaging < 1, "a momentum in 0 <= momentum < 1")

    def optimizer(self, steps):
        optimizer = super().optimizer(steps)
        optimizer.use_ema, optimizer.ema_momentum = self.averaging > 0, self.averaging
        return optimizer

    def model(self, data, steps):
        """Return the net of `nin(variant="fast")`, written out."""
        settings = {
            "kernel_initializer": zoo.layers.Dirac() if self.dirac else "he_normal",
            "normalization": zoo.BatchNormalization(momentum=0.6, scale=False),
        }
        if self.stock_normalization:
            settings["normalization"] = "batch"
        x = images = keras.Input(data.image_shape, name="images")
        for layer in self.preprocessing(data):
            x = layer(x)
        for filters in (64, 256, 256):
            filters = round(self.width * filters)
            x = zoo.MLPConv((filters,), 3, pool_size=2, **settings)(x)
            x = zoo.MLPConv((filters, filters), 3, residual=self.residual, **settings)(x)
        head = zoo.GlobalAveragePoolingHead(data.classes)
        return keras.Model(images, head.average(head.class_maps(x)), name="fast_parts")
