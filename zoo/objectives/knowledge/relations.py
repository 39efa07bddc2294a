"""Knowledge of relations: between the examples of a batch, or between two layers."""

import math

import keras
from keras import ops

from zoo.losses import divergence
from zoo.objectives.feature_math import cosines, distances, flat, flow, huber, similarities, unit
from zoo.objectives.knowledge.base import Knowledge, OfMaps, check_size, connector


class _OfExamples(Knowledge):
    """A knowledge of relations between examples. Features of any two shapes can be compared."""

    def connect(self, names, student, teacher):
        pass


@keras.saving.register_keras_serializable("zoo")
class SimilarityPreserving(_OfExamples):
    """The similarity of a batch's examples (SP): inner products of their features, row by row.

    Features (batch, ...) of any shapes -> (batch,), from 0, summed over the pairs of layers. Rows
    of the (batch, batch) matrices are scaled to length 1. The mean over the batch is
    ||difference||_F^2 / batch^2. Examples are compared with those of the same replica. Tung and
    Mori, arXiv:1907.09682, equations 2 to 4. Their weight is 3000: the loss is small, because a row
    of length 1 has small entries.
    """

    def of_pair(self, student, teacher):
        difference = similarities(student) - similarities(teacher)
        return ops.mean(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class Flow(OfMaps):
    """The flow between two maps (FSP): inner products of their channels over all places.

    Two or more successive maps (batch, h, w, c) of each model -> (batch,), from 0. The larger of
    two successive maps is averaged down to the size of the smaller. Their flow is G = sum over
    places F1 F2^T / (h w). The loss is the mean squared difference of the student's and the
    teacher's G, summed over the flows. Yim et al., A Gift from Knowledge Distillation, CVPR 2017,
    equations 1 and 2, for equal widths. If the widths differ, connectors, which are 1 x 1
    convolutions without bias, bring the student's maps to the teacher's width. The authors train
    with the flow alone, before the labels; the weight of RepDistiller is 50.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        if len(self.student_layers) < 2:
            raise ValueError(
                "Flow compares successive layers, two or more of each model; received "
                f"{', '.join(self.student_layers)}."
            )
        self.connectors = []

    def connect(self, names, student, teacher):
        super().connect(names, student, teacher)
        made = None
        if student[-1] != teacher[-1]:
            number = len(self.connectors) + 1
            made = connector(number, "connector", teacher[-1], student, use_bias=False)
        self.connectors.append(made)

    def loss(self, student, teacher, labels):
        student = [
            maps if connect is None else connect(maps)
            for connect, maps in zip(self.connectors, student, strict=True)
        ]
        errors = []
        for index in range(len(student) - 1):
            flows = [flow(*maps[index : index + 2]) for maps in (student, teacher)]
            errors.append(ops.mean(ops.square(flat(flows[0] - flows[1])), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class RelationalDistance(_OfExamples):
    """Distances between examples (RKD-D): the Huber loss of their differences.

    Features (batch, ...) of any shapes -> (batch,), from 0. A distance is measured in units of the
    mean distance. Examples that differ by less than about a thousandth of their own distance from
    the mean of the batch are at distance 0. The loss of an example is the mean over all examples,
    itself included, as in the authors' code. Examples are compared with those of the same replica.
    Park et al., arXiv:1904.05068, equations 5 to 7. Their weight is 25, beside a `RelationalAngle`
    of weight 50.
    """

    def of_pair(self, student, teacher):
        difference = distances(flat(student)) - distances(flat(teacher))
        return ops.mean(huber(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class RelationalAngle(_OfExamples):
    """Angles between examples (RKD-A): the Huber loss of the differences of their cosines.

    Features (batch, ...) of any shapes -> (batch,), from 0. The loss of an example is the mean over
    all pairs of examples, of the angle at the example. The cost grows with the cube of the batch.
    Examples are compared with those of the same replica; distances of 0 are as in
    `RelationalDistance`, and have no angle. Park et al., arXiv:1904.05068, equations 8 to 10. Their
    weight is 50.
    """

    def of_pair(self, student, teacher):
        difference = cosines(flat(student)) - cosines(flat(teacher))
        return ops.mean(huber(difference), axis=(1, 2))


@keras.saving.register_keras_serializable("zoo")
class ProbabilisticTransfer(_OfExamples):
    """Probabilistic knowledge transfer (PKT): the divergence of two probabilities of neighbours.

    Features (batch, ...) of any shapes -> (batch,), from 0, summed over the pairs of layers. The
    probability of example j beside example i is (1 + the cosine of their features) / 2, divided by
    the sum over all j, itself included. The loss of an example is
    KL(teacher's probabilities || student's) / batch. Examples are compared with those of the same
    replica. Passalis and Tefas, arXiv:1803.10837, with the cosine kernel, and the authors' code.
    The weight of RepDistiller is 30000: the loss is small, because the code divides the divergence
    by the batch once more.
    """

    def of_pair(self, student, teacher):
        logs = [self._log_probabilities(features) for features in (student, teacher)]
        batch = ops.cast(ops.shape(student)[0], "float32")
        return divergence(logs[1] - logs[0], *logs) / batch

    def _log_probabilities(self, features):
        vectors = unit(flat(features))
        similarity = (1 + ops.matmul(vectors, ops.transpose(vectors))) / 2
        probability = similarity / ops.sum(similarity, axis=1, keepdims=True)
        return ops.log(ops.maximum(probability, 0.0) + 1e-7)


@keras.saving.register_keras_serializable("zoo")
class CorrelationCongruence(Knowledge):
    """Correlation congruence (CC), as its authors' code has it: neighbours that err alike.

    Features (batch, ...) of any known shapes -> (batch,), from 0, summed over the pairs of layers.
    Dense connectors embed the student's and the teacher's features, both of them trained. The loss
    of an example is sum |difference of its embeddings| x |that of the next example in the batch|,
    averaged over the batch - 1 pairs of neighbours; the last example has no next. Peng et al.,
    Correlation Congruence for Knowledge Distillation, arXiv:1904.01802. The paper compares kernels
    of all pairs of examples; this is the code that its authors gave to RepDistiller. The weight
    there is 0.02.

    Raises:
        ValueError: for units that are not a whole number, 1 or more.
    """

    def __init__(self, student, teacher, *, units=128, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_size("number of units of CorrelationCongruence", units)
        self.units = units
        self.connectors = []

    def connect(self, names, student, teacher):
        if None in (*student[1:], *teacher[1:]):
            self.refuse(names, student, teacher, "features of known sizes")
        number = len(self.connectors) // 2 + 1
        for name, shape in (("student", student), ("teacher", teacher)):
            row = (None, math.prod(shape[1:]))
            self.connectors.append(connector(number, name, self.units, row))

    def loss(self, student, teacher, labels):
        losses = []
        for index, pair in enumerate(zip(student, teacher, strict=True)):
            connectors = self.connectors[2 * index : 2 * index + 2]
            embedded = [each(flat(part)) for each, part in zip(connectors, pair, strict=True)]
            error = ops.abs(embedded[0] - embedded[1])
            beside = ops.sum(error[:-1] * error[1:], axis=-1)
            batch = ops.cast(ops.shape(error)[0], "float32")
            losses.append(ops.pad(beside, (0, 1)) * batch / ops.maximum(batch - 1, 1.0))
        return sum(losses)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
