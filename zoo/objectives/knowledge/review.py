"""Knowledge review: each layer of a student learns from the teacher with what later layers know."""

import keras
from keras import layers, ops

from zoo.objectives.feature_math import averaged, flat
from zoo.objectives.knowledge.base import Knowledge


@keras.saving.register_keras_serializable("zoo")
class KnowledgeReview(Knowledge):
    """Knowledge review (ReviewKD): later layers of the student help earlier ones to match.

    Two or more successive layers of each model, maps (batch, h, w, c) of known sizes and widths, or
    vectors (batch, units), which are maps of 1 x 1 -> (batch,), from 0, summed over the pairs. From
    the last layer to the first, a layer is brought to a common width, and fused with what comes
    from the layer after it; two attention maps are the shares. A 3 x 3 convolution makes from it
    what is compared with the teacher. The comparison is the mean squared difference of the maps and
    of their averages over 4 x 4, 2 x 2 and 1 window, each weighing half of the one before. Chen et
    al., Distilling Knowledge via Knowledge Review, arXiv:2104.09044, and the code of mdistiller.
    Their weight is 1 to 8, on CIFAR-100 5 for resnet32x4 and resnet8x4, and rises from 0 in the
    first 20 epochs. They take the teacher's maps before the last ReLU of a stage, and add the
    pooled features as the last layer.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        if len(self.student_layers) < 2:
            raise ValueError(
                "KnowledgeReview fuses successive layers, two or more of each model; received "
                f"{', '.join(self.student_layers)}. Hint compares one."
            )
        # One entry for each pair of layers.
        self.narrow, self.shares, self.widen, self.norms = [], [], [], []

    def build(self, student_shape, teacher_shape):
        self.middle = min(512, tuple(student_shape[-1])[-1] or 512)
        super().build(student_shape, teacher_shape)

    def connect(self, names, student, teacher):
        for shape in (student, teacher):
            if len(shape) not in (2, 4) or None in shape[1:]:
                self.refuse(names, student, teacher, "maps of known sizes, or vectors")
        number, last = len(self.widen) + 1, len(self.widen) + 1 == len(self.student_layers)
        own, size = _as_maps(student), _as_maps(teacher)[1:3]
        self.narrow.append(self._convolution(f"narrow{number}", self.middle, 1, own))
        common = (None, *own[1:3], 2 * self.middle)
        share = None if last else self._convolution(f"share{number}", 2, 1, common, bias=True)
        self.shares.append(share)
        self.widen.append(
            self._convolution(f"widen{number}", teacher[-1], 3, (None, *size, self.middle))
        )
        for name, width in (("narrow", self.middle), ("widen", teacher[-1])):
            norm = layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, name=f"{name}_norm{number}", dtype="float32"
            )
            norm.build((None, None, None, width))
            self.norms.append(norm)

    def _convolution(self, name, width, size, shape, bias=False):
        layer = layers.Conv2D(
            width,
            size,
            padding="same",
            data_format="channels_last",
            use_bias=bias,
            activation="sigmoid" if bias else None,
            name=name,
            dtype="float32",
        )
        layer.build(shape)
        return layer

    def loss(self, student, teacher, labels):
        later, total = None, 0.0
        for index in reversed(range(len(student))):
            own, target = (_map_of(features[index]) for features in (student, teacher))
            fused = self.norms[2 * index](self.narrow[index](own), training=True)
            if later is not None:
                later = _nearest(later, fused.shape[1:3])
                shares = self.shares[index](ops.concatenate([fused, later], axis=-1))
                fused = fused * shares[..., :1] + later * shares[..., 1:]
            later = _nearest(fused, target.shape[1:3])
            found = self.norms[2 * index + 1](self.widen[index](later), training=True)
            total = total + _hierarchical(found, target)
        return total


def _as_maps(shape):
    return (shape[0], 1, 1, shape[-1]) if len(shape) == 2 else shape


def _map_of(features):
    return features if len(features.shape) == 4 else features[:, None, None]


def _nearest(maps, size):
    """Repeat or leave out places, to a size: place i of n takes place floor(i m / n) of m."""
    for axis, places in ((1, size[0]), (2, size[1])):
        own = maps.shape[axis]
        if own != places:
            maps = ops.take(maps, [index * own // places for index in range(places)], axis=axis)
    return maps


def _hierarchical(student, teacher):
    """Return the hierarchical context loss of two maps of one size: -> (batch,)."""
    total, weights, weight = 0.0, 0.0, 1.0
    difference = student - teacher
    height, width = difference.shape[1:3]
    for size in ((height, width), *((size, size) for size in (4, 2, 1) if size < height)):
        error = ops.square(averaged(difference, size))
        total = total + weight * ops.mean(flat(error), axis=-1)
        weights, weight = weights + weight, weight / 2
    return total / weights
