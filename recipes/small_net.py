"""Small nets for the papers' measurements, `zoo figure`: not measured on their own."""

from dataclasses import dataclass
from typing import Literal

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """A NIN without normalization, at a quarter of its width. Fields vary it as the papers do."""

    data: str = "cifar10"
    epochs: int = 6
    steps_per_epoch: int = 200
    # Accuracy on 10,000 held-out images, one seed: 40.4 % at 0.02, 42.5 % at 0.05, 40.6 % at 0.1;
    # zoo train small_net --validation 0.2 --epochs 1 --steps-per-epoch 300 --learning-rate RATE
    learning_rate: float = 0.05
    examples: int = 0
    """Number of training images, with the classes in proportion. 0: all."""
    own_examples: bool = False
    """Draw other training images for each seed. False: all seeds have the same --examples."""
    net: Literal["nin", "cnn", "normalized", "deep", "deep_normalized"] = "nin"
    """nin, cnn, normalized: variants "plain", "cnn" and "modern" of `nin`.
    deep: 24 convolutions with 16 filters each.
    deep_normalized: the same with batch normalization."""
    deviation: float = 0.0
    """Standard deviation of the initial kernels of the two deep nets. 0: He initialization."""
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net. It does not change the deep net."""
    dropout: float = 0.0
    """Share of the units that dropout zeroes."""
    head: Literal["pool", "dense"] = "pool"
    """pool: global average pooling. dense: a fully connected layer."""
    head_dropout: float = 0.0
    """Share of the inputs of the fully connected layer that dropout zeroes."""
    objective: Literal["softmax", "svm"] = "softmax"
    """Loss of every head: softmax cross-entropy, or the one-vs-all squared hinge (svm)."""
    companions: Literal["none", "kept", "fading", "removed"] = "none"
    """none: a plain net. kept: companions of a constant weight.
    fading: a cosine lowers the weight to zero.
    removed: the weight is zero after --removal of the steps."""
    companion_form: Literal["pool", "dense", "conv"] = "pool"
    """Form of the companion heads; see `CompanionHead`."""
    companion_weight: float = 0.3
    """Weight of each companion's loss, at the first step."""
    synergy: float = 0.0
    """Weight of the loss by which every head learns from every other; see `DeeplySupervised`."""
    smoothing: float = 0.0
    """Share of each label that all classes have in common, with --objective softmax."""
    removal: float = 0.5
    """Share of the steps after which --companions removed sets the weight to zero."""
    shift: int = 0
    """Move each training image by up to this many pixels."""
    measure_gradients: bool = False
    """Log the mean square gradient of every layer's kernel."""

    def check(self):
        super().check()
        softmax = self.objective == "softmax" or not self.smoothing
        self.require("smoothing", softmax and 0 <= self.smoothing < 1, "0, or a share with softmax")
        deep = self.net.startswith("deep") or not self.deviation
        self.require("deviation", deep, "0 where --net is not deep or deep_normalized")
        heads = self.companions != "none" or not self.synergy
        self.require("synergy", heads, "0 where --companions is none")

    def datasets(self):
        training, judging = super().datasets()
        if self.examples:
            training = training.subset(self.examples, self.seed if self.own_examples else 0)
        return training, judging

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=self.shift)

    def model(self, data, steps):
        if self.net.startswith("deep"):
            trunk, taps = self._deep(data)
        else:
            variant = {"nin": "plain", "normalized": "modern"}.get(self.net, self.net)
            trunk = zoo.nin(
                data.image_shape,
                data.classes,
                variant=variant,
                width=self.width,
                dropout=self.dropout,
                head=self.head,
                head_dropout=self.head_dropout,
            )
            taps = ("mlpconv1", "mlpconv2")
        if self.companions == "none":
            return trunk
        heads = {tap: zoo.CompanionHead(data.classes, self.companion_form) for tap in taps}
        return zoo.DeeplySupervised(
            trunk, heads, companion_weight=self._weight(steps), synergy=self.synergy
        )

    def _deep(self, data):
        """Return a net of eight mlpconv layers of three narrow convolutions each, and its taps."""
        import keras

        settings = {"kernel_initializer": "he_normal"}
        if self.deviation:
            settings["kernel_initializer"] = keras.initializers.RandomNormal(stddev=self.deviation)
        if self.net == "deep_normalized":
            settings["normalization"] = "batch"
        x = images = keras.Input(data.image_shape)
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x)
        for index in range(1, 9):
            x = zoo.MLPConv((16, 16, 16), 3, name=f"mlpconv{index}", **settings)(x)
            if index in (2, 4):
                x = keras.layers.MaxPooling2D(3, 2, "same", "channels_last", name=f"pool{index}")(x)
        head = zoo.GlobalAveragePoolingHead(data.classes)
        trunk = keras.Model(images, head.average(head.class_maps(x)), name="deep")
        return trunk, ("mlpconv2", "mlpconv4", "mlpconv6")

    def _weight(self, steps):
        from keras.optimizers import schedules

        if self.companions == "fading":
            return schedules.CosineDecay(self.companion_weight, steps)
        if self.companions == "removed":
            last = round(self.removal * steps) - 1
            return schedules.PiecewiseConstantDecay([last], [self.companion_weight, 0.0])
        return self.companion_weight

    def optimizer(self, steps):
        from zoo.optimizers import warm_cosine_sgd
        from zoo.optimizers.metered import MeteredSGD

        kind = {"kind": MeteredSGD} if self.measure_gradients else {}
        return warm_cosine_sgd(steps, self.learning_rate, self.weight_decay, **kind)

    def callbacks(self):
        from zoo.optimizers.metered import GradientMeter

        count = 8 if self.net.startswith("deep") else 3
        layers = [f"mlpconv{index}" for index in range(1, count + 1)]
        return [GradientMeter(layers)] if self.measure_gradients else []

    def loss(self):
        if self.objective == "svm":
            return zoo.OneVsAllSquaredHinge()
        return zoo.SoftmaxCrossEntropy(smoothing=self.smoothing)
