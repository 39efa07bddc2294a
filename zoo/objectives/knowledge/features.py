"""Knowledge of a teacher's hidden layers: what each of them gives for an example."""

import math

import keras
from keras import ops

from zoo.objectives.feature_math import (
    flat,
    normalized,
    of_one_size,
    pooled,
    resized,
    rows_of_places,
    unit,
)
from zoo.objectives.knowledge.base import Knowledge, OfMaps, connector


@keras.saving.register_keras_serializable("zoo")
class Hint(Knowledge):
    """The mean squared difference of a teacher's feature and the student's, through a connector.

    Maps (batch, h, w, c), tokens or maps of one dimension (batch, n, c), or vectors (batch, units),
    of any size and width on either side -> (batch,), from 0, summed over the pairs of layers. The
    student's feature is resized to the teacher's places, if they differ. The connector, a 1 x 1
    convolution or a dense layer, maps it to the teacher's channels. Only the channels must be
    known. Romero et al., FitNets, arXiv:1412.6550, equation 3. Their connector is a convolution
    large enough to change the size by itself, and they train with the hint alone, before the
    labels. RepDistiller and mdistiller train with both at once; their weight is 100.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.connectors = []

    def connect(self, names, student, teacher):
        known = None not in (student[-1], teacher[-1])
        if len(student) != len(teacher) or len(student) not in (2, 3, 4) or not known:
            expected = "two maps, or two vectors, or two times tokens, of known channels"
            self.refuse(names, student, teacher, expected)
        number = len(self.connectors) + 1
        self.connectors.append(connector(number, "connector", teacher[-1], student))

    def loss(self, student, teacher, labels):
        errors = []
        for hidden, target, connect in zip(student, teacher, self.connectors, strict=True):
            size = ops.shape(target)[1:-1]
            known = all(isinstance(each, int) for each in size)
            if size and not (known and size == tuple(hidden.shape[1:-1])):
                hidden = resized(hidden, size)
            errors.append(ops.mean(ops.square(flat(connect(hidden) - target)), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class MapRegression(OfMaps):
    """The mean squared difference of two maps of as many channels, without a connector.

    Maps (batch, h, w, c) of any sizes -> (batch,), from 0, summed over the pairs of layers. The
    larger of two maps is averaged down to the size of the smaller. It is the loss of SimKD, for the
    maps that `zoo.with_teacher_head` projects: Chen et al., Knowledge Distillation with the Reused
    Teacher Classifier, arXiv:2203.14001, and the authors' code. Their weight is 1, without labels
    and soft targets.
    """

    def connect(self, names, student, teacher):
        super().connect(names, student, teacher)
        if student[-1] != teacher[-1]:
            self.refuse(names, student, teacher, "two maps of as many channels")

    def of_pair(self, student, teacher):
        student, teacher = of_one_size(student, teacher)
        return ops.mean(ops.square(flat(student - teacher)), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class ProjectedFeatures(Knowledge):
    """Projected and normalized features, compared in the logarithm (SRD, a simple recipe).

    Maps (batch, h, w, c), tokens (batch, n, c) or vectors (batch, units), of any size and width on
    either side -> (batch,), from log(1e-5), about -11.5, summed over the pairs of layers. Maps and
    tokens are averaged over their places. A dense layer projects the student's features to the
    teacher's width. Both are normalized over the batch, (x - mean) / sqrt(variance + 1e-4), without
    scale and shift, and the loss is

        log(1e-5 + sum over batch and channels of |student - teacher|^4)

    It is that of the batch, and the same for all its examples. Examples are compared with those of
    the same replica. The projector has no bias, because the normalization takes it away. Miles and
    Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation,
    arXiv:2303.11098, and the authors' code: the loss and the 1e-4 of ResNet on ImageNet, and the
    1e-5 of their transformers. Their weight for ResNet is 2, on the maps of the last stage, beside
    labels and soft targets of temperature 1 and weight 1.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.projectors = []

    def connect(self, names, student, teacher):
        for shape in (student, teacher):
            if len(shape) not in (2, 3, 4) or shape[-1] is None:
                self.refuse(names, student, teacher, "maps, tokens or vectors of known channels")
        number, vectors = len(self.projectors) + 1, (student[0], student[-1])
        self.projectors.append(connector(number, "projector", teacher[-1], vectors, use_bias=False))

    def loss(self, student, teacher, labels):
        total = 0.0
        for own, target, project in zip(student, teacher, self.projectors, strict=True):
            own, target = normalized(project(pooled(own))), normalized(pooled(target))
            total = total + ops.log(1e-5 + ops.sum((own - target) ** 4))
        return ops.broadcast_to(total, ops.shape(student[0])[:1])


@keras.saving.register_keras_serializable("zoo")
class AttentionTransfer(OfMaps):
    """Attention transfer (AT): the squared difference of attention maps, averaged over places.

    Maps (batch, h, w, c) of any sizes and widths -> (batch,), from 0, summed over the pairs of
    layers. The larger of two maps is averaged down to the size of the smaller. Attention is the
    mean over channels of |activation|^power; it is scaled to length 1 over all places. Zagoruyko
    and Komodakis, arXiv:1612.03928, section 3.1, and the authors' code; the sizes as in
    RepDistiller. The weight of the authors' code and of RepDistiller is 1000. At a weight of 1 this
    adds almost nothing to the loss.

    Raises:
        ValueError: for a power that is not a finite number > 0.
    """

    def __init__(self, student, teacher, *, power=2, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        if not 0 < power < math.inf:
            raise ValueError(
                f"The power of AttentionTransfer is {power}; it is a finite number > 0, such as 2."
            )
        self.power = power

    def of_pair(self, student, teacher):
        student, teacher = map(self._attention, of_one_size(student, teacher))
        return ops.mean(ops.square(unit(flat(student)) - unit(flat(teacher))), axis=-1)

    def _attention(self, maps):
        size = ops.abs(maps)
        # A power below 1 has an infinite gradient at 0.
        active = size > 0
        powers = ops.where(active, ops.where(active, size, 1.0) ** self.power, 0.0)
        return ops.mean(powers, axis=-1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable("zoo")
class NeuronSelectivityTransfer(OfMaps):
    """Neuron selectivity transfer (NST): the distance of two distributions of a map's channels.

    Maps (batch, h, w, c) of any sizes and widths -> (batch,), from 0, summed over the pairs of
    layers. The larger of two maps is averaged down to the size of the smaller. Each channel, as a
    vector over its places, is scaled to length 1. The loss is the squared maximum mean discrepancy
    of the student's and the teacher's channels, with the kernel (x . y)^2. Huang and Wang,
    arXiv:1707.01219, section 4, the polynomial kernel. The weight of RepDistiller is 50.
    """

    def of_pair(self, student, teacher):
        rows = [ops.swapaxes(rows_of_places(each), 1, 2) for each in of_one_size(student, teacher)]
        student, teacher = map(unit, rows)

        def kernel(one, other):
            products = ops.matmul(one, ops.swapaxes(other, 1, 2))
            return ops.mean(ops.square(products), axis=(1, 2))

        own = kernel(student, student) + kernel(teacher, teacher)
        return own - 2 * kernel(student, teacher)


@keras.saving.register_keras_serializable("zoo")
class VariationalInformation(OfMaps):
    """Variational information distillation (VID): how unlikely the teacher's maps are.

    Maps (batch, h, w, c) of any sizes and widths -> (batch,), summed over the pairs of layers:
    the mean over places and channels of ((mean - teacher)^2 / variance + log variance) / 2. Three
    1 x 1 convolutions with a ReLU between make the mean from the student's map. Each channel of the
    teacher has a variance, softplus(s) + 1e-5, which is trained too and begins at 5. So the value
    can be below 0. The larger of two maps is averaged down to the size of the smaller. Ahn et al.,
    Variational Information Distillation for Knowledge Transfer, arXiv:1904.05835, section 2, and
    the authors' code in RepDistiller. The weight there is 1.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.connectors, self.scales = [], []

    def connect(self, names, student, teacher):
        super().connect(names, student, teacher)
        number, width = len(self.scales) + 1, teacher[-1]
        between = (*teacher[:-1], width)
        kinds = (("first", student, "relu"), ("second", between, "relu"), ("third", between, None))
        for name, shape, activation in kinds:
            made = connector(number, name, width, shape, activation=activation, use_bias=False)
            self.connectors.append(made)
        begin = keras.initializers.Constant(math.log(math.expm1(5 - 1e-5)))
        scale = self.add_weight(shape=(width,), initializer=begin, name=f"scale{number}")
        self.scales.append(scale)

    def loss(self, student, teacher, labels):
        errors = []
        for index, pair in enumerate(zip(student, teacher, strict=True)):
            mean, target = of_one_size(*pair)
            for connect in self.connectors[3 * index : 3 * index + 3]:
                mean = connect(mean)
            variance = ops.softplus(self.scales[index]) + 1e-5
            error = ops.square(mean - target) / variance + ops.log(variance)
            errors.append(ops.mean(flat(error), axis=-1) / 2)
        return sum(errors)
