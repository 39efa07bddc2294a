"""Knowledge of relations: between the examples of a batch, or between two layers."""

import keras
from keras import layers, ops

from zoo.objectives.feature_math import cosines, distances, flat, flow, huber, similarities
from zoo.objectives.knowledge.base import Knowledge, are_maps


@keras.saving.register_keras_serializable("zoo")
class SimilarityPreserving(Knowledge):
    """The similarity of a batch's examples: inner products of their features, row by row.

    Features (batch, ...) of any shapes -> (batch,), summed over the pairs of layers. Rows of the
    (batch, batch) matrices are scaled to length 1. The mean over the batch is
    ||difference||_F^2 / batch^2. Examples are compared with those of the same replica. Tung and
    Mori, arXiv:1907.09682, equations 2 to 4.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, student, teacher):
        difference = similarities(student) - similarities(teacher)
        return ops.mean(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class Flow(Knowledge):
    """The flow between two maps (FSP): inner products of their channels over all places.

    Two or more successive maps (batch, h, w, c) of each model -> (batch,). The larger of two
    successive maps is averaged down to the size of the smaller. Their flow is G = sum over places
    F1 F2^T / (h w). The loss is the mean squared difference of the student's and the teacher's G,
    summed over the flows. Yim et al., A Gift from Knowledge Distillation, CVPR 2017, equations 1
    and 2, for equal widths. If the widths differ, connectors, which are 1 x 1 convolutions without
    bias, bring the student's maps to the teacher's width.
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
        if not are_maps(student, teacher):
            self.refuse(names, student, teacher, "two maps of known sizes")
        number = len(self.connectors) + 1
        if student[-1] == teacher[-1]:
            connector = layers.Identity(name=f"connector{number}", dtype="float32")
        else:
            connector = layers.Conv2D(
                teacher[-1],
                1,
                data_format="channels_last",
                use_bias=False,
                name=f"connector{number}",
                dtype="float32",
            )
        connector.build(student)
        self.connectors.append(connector)

    def loss(self, student, teacher, labels):
        student = [
            connector(maps) for connector, maps in zip(self.connectors, student, strict=True)
        ]
        errors = []
        for index in range(len(student) - 1):
            flows = [flow(*maps[index : index + 2]) for maps in (student, teacher)]
            errors.append(ops.mean(ops.square(flat(flows[0] - flows[1])), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class RelationalDistance(Knowledge):
    """Distances between examples (RKD-D): the Huber loss of their differences.

    Features (batch, ...) of any shapes -> (batch,). A distance is measured in units of the mean
    distance. The loss of an example is the mean over all examples, itself included, as in the
    authors' code. Examples are compared with those of the same replica. Park et al.,
    arXiv:1904.05068, equations 5 to 7; their weight is 25.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, student, teacher):
        difference = distances(flat(student)) - distances(flat(teacher))
        return ops.mean(huber(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class RelationalAngle(Knowledge):
    """Angles between examples (RKD-A): the Huber loss of the differences of their cosines.

    Features (batch, ...) of any shapes -> (batch,). The loss of an example is the mean over all
    pairs of examples, of the angle at the example. The cost grows with the cube of the batch.
    Examples are compared with those of the same replica. Park et al., arXiv:1904.05068, equations
    8 to 10; their weight is 50.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, student, teacher):
        difference = cosines(flat(student)) - cosines(flat(teacher))
        return ops.mean(huber(difference), axis=(1, 2))
