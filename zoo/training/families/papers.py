"""The settings of the papers' tables: the base of the recipes `<data>_nin` and `<data>_dsn`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zoo.recipe import Plan, Precision, Recipe

if TYPE_CHECKING:
    import keras

    from zoo.data import Augmentation, ImageData

Variant = Literal["mnist", "cifar10", "cifar100", "svhn"]
Preprocessing = Literal["mean", "gcn_zca", "gcn_lcn"]
Objective = Literal["svm", "softmax"]


@dataclass(frozen=True)
class PaperRecipe(Recipe):
    """The network, preprocessing and augmentation of both papers, in float32."""

    precision: Precision = "float32"
    variant: Variant = "cifar10"
    """Data set whose released network is used."""
    preprocessing: Preprocessing = "gcn_zca"
    """mean: subtract the mean image.
    gcn_zca (CIFAR): global contrast normalization, then ZCA whitening.
    gcn_lcn (SVHN): global contrast normalization, then local contrast normalization."""
    width: float = 1.0
    """Factor on the widths of the net. The papers have 1."""
    augment: bool = False
    """Pad by 4 pixels, crop at random, mirror half the images: the papers' second CIFAR-10 row."""

    def augmentation(self) -> "Augmentation":
        """Return the augmentation of the papers' second CIFAR-10 row, or none."""
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=4, flip=True) if self.augment else Augmentation()

    def preprocess(self, data: "ImageData") -> "list[keras.Layer]":
        """Return the layers in front of the net, fitted to the training images."""
        import keras
        import numpy as np

        from zoo.layers import GlobalContrastNormalization, LocalContrastNormalization, ZCAWhitening

        if self.preprocessing == "mean":
            starts = range(0, data.examples, 5000)  # sums of whole numbers are exact in any order
            sums = [data.images[i : i + 5000].sum(axis=0, dtype="float64") for i in starts]
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
    """Network in Network as released.

    It trains 200 epochs, then 30 at a tenth of the rate, then 30 at a hundredth. The paper lowers
    the rate when the training accuracy stops improving. The released README of CIFAR-10 gives these
    numbers of epochs, and none for the other data sets.
    """

    epochs: int = 260
    weight_decay: float = 1e-4
    """Weight decay of the kernels, as Caffe counts it: an L2 regularizer of half this factor."""
    last_layer_factor: float = 0.1
    """Factor on the learning rate of the class maps' convolution."""

    def model(self, data: "ImageData", steps: int) -> "keras.Model":
        """Return the network of the variant, with its preprocessing and weight decay."""
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

    def optimizer(self, steps: int) -> "keras.optimizers.Optimizer":
        """Return SGD with momentum 0.9 and the released schedule, scaled to `steps` steps."""
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

    It trains 400 epochs in batches of 100, as released for CIFAR-10. Nothing was released for the
    other data sets.
    """

    preset: Literal["official", "paper"] = "official"
    """Objective and schedule: of the released code (official), or of the paper's text."""
    objective: Objective = "svm"
    """Loss of all heads: the preset's hinge (svm), or softmax cross-entropy."""
    epochs: int = 400
    batch_size: int = 100
    learning_rate: float = 0.025

    def plan(self, data: "ImageData", steps: int) -> Plan:
        """Return the model, optimizer and loss of the preset."""
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
