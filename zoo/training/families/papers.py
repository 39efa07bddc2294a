"""The settings of the papers' tables, which the recipes `<data>_nin` and `<data>_dsn` share."""

from dataclasses import dataclass
from typing import Literal

from zoo.recipe import Plan, Precision, Recipe

Variant = Literal["mnist", "cifar10", "cifar100", "svhn"]
Preprocessing = Literal["mean", "gcn_zca", "gcn_lcn"]
Objective = Literal["svm", "softmax"]


@dataclass(frozen=True)
class PaperRecipe(Recipe):
    """Network, preprocessing and augmentation of both papers; plain float32."""

    precision: Precision = "float32"
    variant: Variant = "cifar10"
    """The released definition of the net."""
    preprocessing: Preprocessing = "gcn_zca"
    """Subtract the mean image; or global contrast normalization, then ZCA whitening (CIFAR) or
    local contrast normalization (SVHN)."""
    width: float = 1.0
    """Factor on the widths of the net; the papers' is 1."""
    augment: bool = False
    """Pad by 4 pixels, crop at random, mirror half the images: the papers' second CIFAR-10 row."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=4, flip=True) if self.augment else Augmentation()

    def preprocess(self, data):
        """The layers in front of the net, fitted to the training images."""
        import keras
        import numpy as np

        from zoo.layers import GlobalContrastNormalization, LocalContrastNormalization, ZCAWhitening

        if self.preprocessing == "mean":
            parts = range(0, data.examples, 5000)  # sums of whole numbers: exact in any order
            sums = [data.images[i : i + 5000].sum(axis=0, dtype="float64") for i in parts]
            mean = (sum(sums) / data.examples).astype("float32")
            variance = np.full(mean.shape, 255.0**2, "float32")  # to divide by 255
            return [
                keras.layers.Normalization((1, 2, 3), mean=mean, variance=variance, dtype="float32")
            ]
        if self.preprocessing == "gcn_lcn":
            return [GlobalContrastNormalization(1.0), LocalContrastNormalization()]
        contrast, whitening = GlobalContrastNormalization(), ZCAWhitening()
        parts = (data.images[i : i + 5000] for i in range(0, data.examples, 5000))
        whitening.adapt(
            np.concatenate([np.asarray(contrast(part.astype("float32"))) for part in parts])
        )
        return [contrast, whitening]


@dataclass(frozen=True)
class NetworkInNetwork(PaperRecipe):
    """Network in Network as released: 200 epochs, then 30 at a tenth, then 30 at a hundredth.

    The paper lowers the rate when the training accuracy stops improving; the released README of
    CIFAR-10 gives these numbers of epochs, and none for the other data sets.
    """

    epochs: int = 260
    weight_decay: float = 1e-4
    """As Caffe counts it: an L2 regularizer of half of it, of the kernels."""
    last_layer_factor: float = 0.1
    """Of the learning rate of the class maps' convolution."""

    def model(self, data, steps):
        import keras

        from zoo.models import nin

        return nin(
            data.image_shape,
            data.classes,
            variant=self.variant,
            width=self.width,
            preprocessing=self.preprocess(data),
            kernel_regularizer=keras.regularizers.L2(self.weight_decay / 2),
        )

    def optimizer(self, steps):
        import keras

        from zoo.optimizers import LayerwiseSGD

        first, second = round(steps * 200 / 260), round(steps * 230 / 260)
        rate = self.learning_rate
        return LayerwiseSGD(
            keras.optimizers.schedules.PiecewiseConstantDecay(
                [first - 1, second - 1], [rate, rate / 10, rate / 100]
            ),
            momentum=0.9,
            multipliers={"bias": 2.0, "class_maps": self.last_layer_factor},
        )


@dataclass(frozen=True)
class DeeplySupervisedNet(PaperRecipe):
    """Deeply-Supervised Nets with the objective and the schedule of a preset of `zoo.preset`.

    400 epochs in batches of 100, as released for CIFAR-10; nothing was released for the others.
    """

    preset: Literal["official", "paper"] = "official"
    objective: Objective = "svm"
    """On all heads: the preset's hinge, or softmax cross-entropy."""
    epochs: int = 400
    batch_size: int = 100
    learning_rate: float = 0.025

    def plan(self, data, steps):
        from zoo.models import nin_dsn, preset

        chosen = preset(
            self.preset,
            steps=steps,
            epochs=self.epochs,
            classes=data.classes,
            objective=self.objective,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        arguments = {**chosen.model, "variant": self.variant, "width": self.width}
        model = nin_dsn(
            data.image_shape, data.classes, preprocessing=self.preprocess(data), **arguments
        )
        return Plan(model, chosen.optimizer, chosen.loss, self.callbacks())
