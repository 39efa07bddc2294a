"""Knowledge of maps with a channel for each class, whose means over the places are the logits."""

import math

import keras
from keras import ops

from zoo.losses import check_temperature, soft_target_loss
from zoo.objectives.feature_math import averaged, rows_of_places, unit
from zoo.objectives.knowledge.base import OfMaps, check_size, class_numbers
from zoo.objectives.teaching import two_or_more


@keras.saving.register_keras_serializable("zoo")
class ClassAttentionTransfer(OfMaps):
    """Class attention transfer (CAT-KD): the mean squared difference of small class maps.

    Maps with a channel for each class, (batch, h, w, classes), of any sizes -> (batch,), from 0:
    those of Network in Network, `class_maps`, or of any net that ends in a 1 x 1 convolution and
    global average pooling. Each map is averaged down to size x size windows, and with `normalize`
    scaled to length 1 over them. Guo et al., Class Attention Transfer Based Knowledge Distillation,
    arXiv:2304.12777. The authors' weights on CIFAR-100 are 0.7 to 15 without `normalize`, for nets
    of one kind, and 15 to 600 with it, for nets of different kinds, at a size of 2 or 4.

    Raises:
        ValueError: for a size that is not a whole number, 1 or more.
    """

    same_channels = True

    def __init__(self, student, teacher, *, size=2, normalize=True, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_size("size of ClassAttentionTransfer", size)
        self.size, self.normalize = size, normalize

    def of_pair(self, *maps):
        small = [rows_of_places(averaged(each, (self.size, self.size))) for each in maps]
        if self.normalize:
            small = [unit(ops.swapaxes(each, 1, 2)) for each in small]
        return ops.mean(ops.square(small[0] - small[1]), axis=(1, 2))

    def get_config(self):
        return {**super().get_config(), "size": self.size, "normalize": self.normalize}


@keras.saving.register_keras_serializable("zoo")
class ScaleDecoupledSoftTargets(OfMaps):
    """Soft targets of the whole image and of its parts (SDD).

    Maps with a channel for each class, (batch, h, w, classes), of any sizes, and labels ->
    (batch,), from 0: the mean of `soft_target_loss` over the windows of all scales. Scale 4 has
    4 x 4 windows; the logits of a window are the means of the class maps over it. A window counts
    twice if the teacher is right about it and wrong about the whole image, or the reverse. Labels
    are as in `DecoupledSoftTargets`. Wei, Luo and Luo, Scale Decoupled Distillation,
    arXiv:2403.13512, with `soft_target_loss` (SD-KD), and the authors' code. Their temperature is
    4, and their weight is 0.9 beside labels of weight 0.1.

    Raises:
        ValueError: for a temperature out of range; for scales that are not whole numbers, 1 or
            more, or do not begin with 1, the whole image.
    """

    same_channels = True
    needs_labels = True

    def __init__(
        self, student, teacher, *, temperature=4.0, scales=(1, 2, 4), weight=1.0, **kwargs
    ):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_temperature(temperature)
        self.temperature, self.scales = temperature, tuple(scales)
        for scale in self.scales:
            check_size("scale of ScaleDecoupledSoftTargets", scale)
        if self.scales[:1] != (1,):
            raise ValueError(
                "The scales of ScaleDecoupledSoftTargets begin with 1, the whole image; received "
                f"{self.scales}."
            )

    def loss(self, student, teacher, labels):
        return sum(self._of_pair(*pair, labels) for pair in zip(student, teacher, strict=True))

    def _of_pair(self, student, teacher, labels):
        student, teacher = map(self._logits, (student, teacher))
        losses = soft_target_loss(student, teacher, self.temperature)
        if labels is None:  # The Distiller checks shapes without labels, and labels in a step.
            return ops.mean(losses, axis=1)
        labels, known = class_numbers(labels, student.shape[-1])
        labels = ops.expand_dims(labels, 1)
        right = ops.equal(ops.cast(ops.argmax(teacher, axis=-1), "int32"), labels)
        unlike = ops.cast(ops.not_equal(right, right[:, :1]), "float32")
        return ops.where(known, ops.mean(losses * (1 + unlike), axis=1), math.nan)

    def _logits(self, maps):
        """Return the logits of all windows: (batch, h, w, classes) -> (batch, windows, classes)."""
        # The authors average the small scales over the windows of the largest.
        largest = averaged(maps, (max(self.scales),) * 2)
        windows = [rows_of_places(averaged(largest, (scale, scale))) for scale in self.scales]
        return two_or_more(ops.concatenate(windows, axis=1))

    def get_config(self):
        own = {"temperature": self.temperature, "scales": list(self.scales)}
        return {**super().get_config(), **own}
