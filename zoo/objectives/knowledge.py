"""A teacher's other lessons beside soft targets: responses, features and relations.

Each is a layer. A `Distiller` calls it with the outputs of named layers of student and teacher. It
returns one loss an example, (batch,), float32, whose mean over the batch is the value in the
papers. The Distiller multiplies it by its `weight`. The teacher gets no gradient. Connectors are
trained and saved with the Distiller, and are no part of the student.
"""

import math

import keras
from keras import layers, ops

from zoo.freezing import freeze_held_layers
from zoo.losses import check_temperature, divergence, log_ratios, soft_target_loss
from zoo.objectives.feature_math import (
    cosines,
    distances,
    flat,
    flow,
    huber,
    of_one_size,
    resized,
    similarities,
    unit,
)


class Knowledge(layers.Layer):
    """A lesson: layers of the student and the teacher, and a loss of their outputs.

    Arguments:
        student, teacher: the name of a layer, or a sequence of names. "output" is the model's
            output, the logits; "backbone/conv3" is a layer of the model "backbone" within.
        weight: a number, 0 or more.

    Raises:
        ValueError: for a weight that is negative or not finite, or numbers of layers that differ;
            when the Distiller is made, for features that do not fit.
    """

    needs_labels = False

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"The weight of {type(self).__name__} is {weight}; it is a finite number >= 0."
            )
        self.student_layers = _names(student)
        self.teacher_layers = _names(teacher)
        self.weight = weight
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"{type(self).__name__} pairs layers of the student with as many layers of the "
                f"teacher; received {', '.join(self.student_layers)} and "
                f"{', '.join(self.teacher_layers)}."
            )

    def build(self, student_shape, teacher_shape):
        for names, shapes in zip(
            zip(self.student_layers, self.teacher_layers, strict=True),
            zip(student_shape, teacher_shape, strict=True),
            strict=True,
        ):
            self.connect(names, *map(tuple, shapes))
        freeze_held_layers(self)

    def connect(self, names, student, teacher):
        """Check the shapes of a pair of features, and make their connector, if they need one."""
        if student[1:] != teacher[1:]:
            self._refuse(names, student, teacher, "features of one shape")

    def call(self, student, teacher, labels=None):
        teacher = [ops.stop_gradient(ops.cast(features, "float32")) for features in teacher]
        student = [ops.cast(features, "float32") for features in student]
        return self.loss(student, teacher, labels)

    def loss(self, student, teacher, labels):
        """Return the sum over the pairs of features: two lists of features -> (batch,)."""
        return sum(self.of_pair(*pair) for pair in zip(student, teacher, strict=True))

    def compute_output_shape(self, student_shape, teacher_shape):
        return (student_shape[0][0],)

    def get_config(self):
        return {
            **super().get_config(),
            "student": list(self.student_layers),
            "teacher": list(self.teacher_layers),
            "weight": self.weight,
        }

    def _refuse(self, names, student, teacher, expected):
        raise ValueError(
            f"{type(self).__name__} received {names[0]!r} of the student, {student}, and "
            f"{names[1]!r} of the teacher, {teacher}; it expects {expected}."
        )


@keras.saving.register_keras_serializable("zoo")
class LogitRegression(Knowledge):
    """Half the squared distance of the logits: the gradient is student - teacher.

    (batch, classes) twice -> (batch,). Ba and Caruana, arXiv:1312.6184. With `centered` the mean of
    each example's logits is subtracted on both sides. At high temperatures `soft_target_loss`
    nears this value divided by the number of classes (arXiv:1503.02531, section 2.1).
    """

    def __init__(self, student="output", teacher="output", *, centered=False, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.centered = centered

    def loss(self, student, teacher, labels):
        difference = student[0] - teacher[0]
        if self.centered:
            difference = difference - ops.mean(difference, axis=-1, keepdims=True)
        return ops.sum(ops.square(flat(difference)), axis=-1) / 2

    def get_config(self):
        return {**super().get_config(), "centered": self.centered}


@keras.saving.register_keras_serializable("zoo")
class DecoupledSoftTargets(Knowledge):
    """Soft targets in two parts: the true class against all others, and the others alone.

    (batch, classes) twice and labels -> (batch,): target_weight TCKD + other_weight NCKD, both
    times temperature^2. TCKD is the divergence of the true class against all others, NCKD that
    among the others. `soft_target_loss` is TCKD + (1 - the teacher's probability of the true
    class) NCKD, so NCKD counts little if the teacher is sure. Zhao et al., arXiv:2203.08679,
    equations 6 and 7. Labels are whole numbers, (batch,) or (batch, 1), or rows, (batch, classes).
    """

    needs_labels = True

    def __init__(
        self,
        temperature=4.0,
        target_weight=1.0,
        other_weight=8.0,
        *,
        student="output",
        teacher="output",
        weight=1.0,
        **kwargs,
    ):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_temperature(temperature)
        self.temperature = temperature
        self.target_weight, self.other_weight = target_weight, other_weight

    def connect(self, names, student, teacher):
        if len(student) != 2 or student[1:] != teacher[1:] or (student[-1] or 0) < 2:
            self._refuse(names, student, teacher, "logits, (batch, classes), of the same classes")

    def loss(self, student, teacher, labels):
        (student,), (teacher,) = student, teacher
        if labels is None:  # The Distiller checks shapes without labels, and labels in a step.
            return soft_target_loss(student, teacher, self.temperature)
        classes = student.shape[-1]
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == 2:
            rows = labels.shape[-1] == classes and classes > 1
            labels = ops.argmax(labels, axis=-1) if rows else ops.squeeze(labels, -1)
        truth = ops.one_hot(ops.cast(labels, "int32"), classes, dtype="float32")

        ratios, *logs = log_ratios(student, teacher, self.temperature)
        # Subtracting 1e9 from the scaled logit removes the true class from the softmax.
        removed = 1e9 * self.temperature * truth
        among_others = log_ratios(student - removed, teacher - removed, self.temperature)
        other_part = divergence(*among_others)

        def of_target_and_rest(log, rest):
            return ops.stack([ops.sum(truth * log, axis=-1), rest], axis=-1)

        # The ratio of a class is that among the others, plus that of all others together.
        of_rest = ops.sum(ops.exp(among_others[2]) * (ratios - among_others[0]), axis=-1)
        rests = [ops.logsumexp(log - 1e9 * truth, axis=-1) for log in logs]
        target_part = divergence(
            of_target_and_rest(ratios, of_rest), *map(of_target_and_rest, logs, rests)
        )
        weighted = self.target_weight * target_part + self.other_weight * other_part
        return self.temperature**2 * weighted

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "target_weight": self.target_weight,
            "other_weight": self.other_weight,
        }


@keras.saving.register_keras_serializable("zoo")
class Hint(Knowledge):
    """The mean squared difference of a teacher's feature and the student's, through a connector.

    Maps (batch, h, w, c), or vectors (batch, units), of any size and width on either side ->
    (batch,), summed over the pairs of layers. The student's map is resized to the teacher's height
    and width, if they differ. The connector, a 1 x 1 convolution, or a dense layer for vectors,
    maps it to the teacher's channels. Romero et al., FitNets, arXiv:1412.6550, equation 3. Their
    connector is a convolution large enough to change the size by itself.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.connectors = []
        self.sizes = []

    def connect(self, names, student, teacher):
        if len(student) != len(teacher) or len(student) not in (2, 4) or None in teacher[1:]:
            self._refuse(names, student, teacher, "two maps, or two vectors, of known sizes")
        number, channels = len(self.connectors) + 1, teacher[-1]
        if len(student) == 2:
            connector = layers.Dense(channels, name=f"connector{number}", dtype="float32")
        else:
            connector = layers.Conv2D(
                channels,
                1,
                data_format="channels_last",
                name=f"connector{number}",
                dtype="float32",
            )
        connector.build((*teacher[:-1], student[-1]))
        self.connectors.append(connector)
        self.sizes.append(teacher[1:-1] if teacher[1:-1] != student[1:-1] else None)

    def loss(self, student, teacher, labels):
        errors = []
        pairs = zip(student, teacher, self.connectors, self.sizes, strict=True)
        for hidden, target, connector, size in pairs:
            difference = flat(connector(resized(hidden, size) if size else hidden) - target)
            errors.append(ops.mean(ops.square(difference), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class AttentionTransfer(Knowledge):
    """Attention transfer: the squared difference of attention maps, averaged over places.

    Maps (batch, h, w, c) of any width -> (batch,), summed over the pairs of layers. Attention is
    the mean over channels of |activation|^power. The larger of two attention maps is resized to
    the size of the smaller; then both are scaled to length 1 over all places. Zagoruyko and
    Komodakis, arXiv:1612.03928, section 3.1, and the authors' code.
    """

    def __init__(self, student, teacher, *, power=2, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.power = power

    def connect(self, names, student, teacher):
        if not _are_maps(student, teacher):
            self._refuse(names, student, teacher, "two maps of known sizes")

    def of_pair(self, *maps):
        student, teacher = of_one_size(*map(self._attention, maps))
        difference = unit(flat(student)) - unit(flat(teacher))
        return ops.mean(ops.square(difference), axis=-1)

    def _attention(self, maps):
        return ops.mean(ops.abs(maps) ** self.power, axis=-1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "power": self.power}


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
        if not _are_maps(student, teacher):
            self._refuse(names, student, teacher, "two maps of known sizes")
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


def _names(names):
    return (names,) if isinstance(names, str) else tuple(names)


def _are_maps(*shapes):
    return all(len(shape) == 4 and None not in shape[1:] for shape in shapes)
