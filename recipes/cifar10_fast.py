"""A NIN that learns CIFAR-10 in 16 epochs, 0.59 PFLOP: being measured."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """Whitened patches, residual mlpconv layers, orthogonal updates, alternating mirror images.

    The parts are those of Jordan, arXiv:2404.00498, and of the code that came after it.
    """

    data: str = "cifar10"
    epochs: int = 16
    batch_size: int = 500
    # Errors in 5,000 held-out images, half the width, 8 epochs, seed 0: 499 at 0.24 and 491 at 0.12
    # with the head's rate of the authors, 2.8; 504 at 0.12 and 497 at 0.06 with 0.1.
    learning_rate: float = 0.12
    """Learning rate of the first step. It falls in a line to zero."""
    weight_decay: float = 0.0
    width: float = 1.0
    """Factor on the widths of the net, 64, 256 and 256."""
    whitening: bool = True
    """Whiten the 2 x 2 patches of the images, with statistics of the training images."""
    muon: bool = True
    """Make the updates of the convolution kernels orthogonal. False: SGD with Nesterov momentum."""
    smoothing: float = 0.2
    """Share of each label that all classes have in common."""
    shift: int = 2
    """Move each training image by up to this many pixels, and repeat the edge."""
    flip: Literal["alternating", "random", "none"] = "alternating"
    """Mirror each training image in every second epoch (alternating), or half of them (random)."""
    # 16 epochs, half the width, seed 0: 438 errors in 5,000 held-out images without, 450 with 12.
    cutout: int = 0
    """Side, in pixels, of the square that is blackened at a random place in each training image."""

    def check(self):
        super().check()
        self.require("smoothing", 0 <= self.smoothing < 1, "a share in 0 <= share < 1")

    def search(self, hp):
        return replace(
            self,
            learning_rate=hp.Float("learning_rate", 0.05, 1.0, sampling="log"),
            smoothing=hp.Float("smoothing", 0.0, 0.3),
        )

    def augmentation(self):
        from zoo.data import Augmentation

        flip = {"none": False, "random": True}.get(self.flip, "alternating")
        return Augmentation(shift=self.shift, flip=flip, cutout=self.cutout)

    def model(self, data, steps):
        import keras

        layers = [keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale", dtype="float32")]
        if self.whitening:
            whitening = zoo.PatchWhitening(name="whitening")
            some = np.arange(0, data.examples, max(1, data.examples // 5000))
            whitening.adapt(layers[0](data.images[some]))
            layers += [whitening, keras.layers.ReLU(name="both_signs")]
        return zoo.nin(
            data.image_shape,
            data.classes,
            variant="fast",
            width=self.width,
            preprocessing=layers,
            normalization=zoo.BatchNormalization(momentum=0.6, scale=False),
        )

    def optimizer(self, steps):
        import keras

        if not self.muon:
            return super().optimizer(steps)
        schedule = keras.optimizers.schedules.PolynomialDecay(self.learning_rate, steps, 0.0)
        return zoo.Muon(schedule, plain_rate=0.4, weight_decay=self.weight_decay or None)

    def loss(self):
        return zoo.SoftmaxCrossEntropy(smoothing=self.smoothing)
