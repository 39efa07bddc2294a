"""A teacher's other lessons beside soft targets: responses, features and relations.

Each is a layer that a `Distiller` calls with what named layers of student and teacher give, and
that answers with one loss an example, (batch,), float32, whose mean over the batch is the
literature's value; its `weight` is the Distiller's to apply. The teacher gets no gradient.
Connectors are trained and saved with the Distiller, and are no part of the student.
"""

import math

import keras
from keras import layers, ops

from zoo.losses import check_temperature, soft_target_loss


class Knowledge(layers.Layer):
    """A lesson: layers of the student and the teacher, and a loss of their outputs.

    Arguments:
        student, teacher: the names of layers: one, or a sequence of them. "output" is the model's
            output, the logits; "backbone/conv3" a layer of a model within.
        weight: 0 or more.

    Raises:
        ValueError: for a weight that is negative or not finite; and, when the Distiller is made,
            for features that do not fit.
    """

    needs_labels = False

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"The weight of {type(self).__name__} is {weight}; it is 0 or more.")
        self.student_layers = _names(student)
        self.teacher_layers = _names(teacher)
        self.weight = weight
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"{type(self).__name__} pairs layers of the student with layers of the teacher; "
                f"received {', '.join(self.student_layers)} and {', '.join(self.teacher_layers)}."
            )

    def build(self, student_shape, teacher_shape):
        for names, shapes in zip(
            zip(self.student_layers, self.teacher_layers, strict=True),
            zip(student_shape, teacher_shape, strict=True),
            strict=True,
        ):
            self.connect(names, *map(tuple, shapes))

    def connect(self, names, student, teacher):
        """Check the shapes of a pair of features, and make what connects them."""
        if student[1:] != teacher[1:]:
            self._refuse(names, student, teacher, "features of one shape")

    def call(self, student, teacher, labels=None):
        taught = [ops.stop_gradient(ops.cast(each, "float32")) for each in teacher]
        learnt = [ops.cast(each, "float32") for each in student]
        return self.loss(learnt, taught, labels)

    def loss(self, student, teacher, labels):
        """Lists of features -> (batch,): the sum over the pairs."""
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

    (batch, classes) twice -> (batch,). Ba and Caruana, arXiv:1312.6184. With `centered` each
    example's mean is taken away on both sides: what `soft_target_loss` nears, times the number of
    classes, at high temperatures (arXiv:1503.02531, section 2.1).
    """

    def __init__(self, student="output", teacher="output", *, centered=False, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.centered = centered

    def loss(self, student, teacher, labels):
        difference = student[0] - teacher[0]
        if self.centered:
            difference = difference - ops.mean(difference, axis=-1, keepdims=True)
        return ops.sum(ops.square(_flat(difference)), axis=-1) / 2

    def get_config(self):
        return {**super().get_config(), "centered": self.centered}


@keras.saving.register_keras_serializable("zoo")
class DecoupledSoftTargets(Knowledge):
    """Soft targets in two parts: of the true class against all others, and among the others.

    (batch, classes) twice and labels -> (batch,): target_weight TCKD + other_weight NCKD, both
    times temperature^2. `soft_target_loss` is TCKD + (1 - the teacher's probability of the true
    class) NCKD, which hides the second where the teacher is sure. Zhao et al., arXiv:2203.08679,
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
        if labels is None:  # the symbolic call of a Distiller, which checks that there are some
            return soft_target_loss(student, teacher, self.temperature)
        classes = student.shape[-1]
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == 2:
            rows = labels.shape[-1] == classes and classes > 1
            labels = ops.argmax(labels, axis=-1) if rows else ops.squeeze(labels, -1)
        truth = ops.one_hot(ops.cast(labels, "int32"), classes, dtype="float32")

        def parts(logits):
            log = ops.log_softmax(logits / self.temperature)
            target = ops.sum(truth * log, axis=-1, keepdims=True)
            # Without the true class: exp(-1e9) is 0, and so is its part of the sum below.
            others = ops.log_softmax(log - 1e9 * truth)
            rest = ops.logsumexp(log - 1e9 * truth, axis=-1, keepdims=True)
            return ops.concatenate([target, rest], axis=-1), others

        (said, others_said), (given, others_given) = parts(student), parts(teacher)
        targets = ops.sum(ops.exp(given) * (given - said), axis=-1)
        among = (1 - truth) * ops.exp(others_given) * (others_given - others_said)
        weighted = self.target_weight * targets + self.other_weight * ops.sum(among, axis=-1)
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
    (batch,). The student's map is resized to the teacher's height and width, if they differ, and a
    1 x 1 convolution, for vectors a dense layer, maps it to the teacher's channels. Of several
    pairs of layers the sum. Romero et al., FitNets, arXiv:1412.6550, equation 3, whose connector is
    a convolution large enough to change the size by itself.
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
            kind = layers.Dense(channels, name=f"connector{number}", dtype="float32")
        else:
            kind = layers.Conv2D(channels, 1, name=f"connector{number}", dtype="float32")
        kind.build((*teacher[:-1], student[-1]))
        self.connectors.append(kind)
        self.sizes.append(teacher[1:-1] if teacher[1:-1] != student[1:-1] else None)

    def loss(self, student, teacher, labels):
        errors = []
        for learnt, taught, connector, size in zip(
            student, teacher, self.connectors, self.sizes, strict=True
        ):
            difference = _flat(connector(_resized(learnt, size) if size else learnt) - taught)
            errors.append(ops.mean(ops.square(difference), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class AttentionTransfer(Knowledge):
    """Attention transfer: the squared difference of attention maps, averaged over places.

    Maps (batch, h, w, c) of any width -> (batch,). Attention is the mean over channels of
    |activation|^power, scaled to length 1 over all places; the larger of two is resized to the
    size of the smaller before that. Of several pairs of layers the sum. Zagoruyko and Komodakis,
    arXiv:1612.03928, section 3.1, and the authors' code.
    """

    def __init__(self, student, teacher, *, power=2, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.power = power

    def connect(self, names, student, teacher):
        if not _are_maps(student, teacher):
            self._refuse(names, student, teacher, "two maps of known sizes")

    def of_pair(self, *maps):
        learnt, taught = _of_one_size(*map(self._attention, maps))
        difference = _unit(_flat(learnt)) - _unit(_flat(taught))
        return ops.mean(ops.square(difference), axis=-1)

    def _attention(self, maps):
        return ops.mean(ops.abs(maps) ** self.power, axis=-1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable("zoo")
class SimilarityPreserving(Knowledge):
    """The similarity of a batch's examples: inner products of their features, row by row.

    Features (batch, ...) of any shapes -> (batch,). Rows of the (batch, batch) matrices are scaled
    to length 1. The mean over the batch is ||difference||_F^2 / batch^2. Of several pairs of layers
    the sum. Pairs are those of one replica's part of a batch. Tung and Mori, arXiv:1907.09682,
    equations 2 to 4.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, learnt, taught):
        difference = _similarities(learnt) - _similarities(taught)
        return ops.mean(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class Flow(Knowledge):
    """The flow between two maps (FSP): inner products of their channels over all places.

    Two or more successive maps (batch, h, w, c) of each -> (batch,). Between each two, the larger
    one averaged down to the size of the smaller, G = sum over places F1 F2^T / (h w), and the loss
    is the mean squared difference of student's and teacher's G, summed over the flows. Yim et al.,
    A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2, where the widths agree; for
    others, 1 x 1 convolutions without bias bring the student's maps to the teacher's width.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        if len(self.student_layers) < 2:
            raise ValueError(
                "Flow is between successive layers, two or more of each model; received "
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
                teacher[-1], 1, use_bias=False, name=f"connector{number}", dtype="float32"
            )
        connector.build(student)
        self.connectors.append(connector)

    def loss(self, student, teacher, labels):
        student = [c(maps) for c, maps in zip(self.connectors, student, strict=True)]
        errors = []
        for index in range(len(student) - 1):
            learnt, taught = (_flow(*maps[index : index + 2]) for maps in (student, teacher))
            errors.append(ops.mean(ops.square(_flat(learnt - taught)), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class RelationalDistance(Knowledge):
    """Distances between examples (RKD-D): their Huber loss, in units of the mean distance.

    Features (batch, ...) of any shapes -> (batch,), the mean over the other examples and itself, as
    in the authors' code. Pairs are those of one replica's part of a batch. Park et al.,
    arXiv:1904.05068, equations 5 to 7; they weigh it 25.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, learnt, taught):
        difference = _distances(_flat(learnt)) - _distances(_flat(taught))
        return ops.mean(_huber(difference), axis=-1)


@keras.saving.register_keras_serializable("zoo")
class RelationalAngle(Knowledge):
    """The angles that examples form: the Huber loss of the cosines at each example, RKD-A.

    Features (batch, ...) of any shapes -> (batch,), the mean over all pairs; the cost grows with
    the cube of the batch. Triplets are those of one replica's part of a batch. Park et al.,
    arXiv:1904.05068, equations 8 to 10; they weigh it 50.
    """

    def connect(self, names, student, teacher):
        pass

    def of_pair(self, learnt, taught):
        difference = _cosines(_flat(learnt)) - _cosines(_flat(taught))
        return ops.mean(_huber(difference), axis=(1, 2))


def _names(given):
    return (given,) if isinstance(given, str) else tuple(given)


def _flat(features):
    """(batch, ...) -> (batch, numbers)"""
    return ops.reshape(features, (ops.shape(features)[0], math.prod(features.shape[1:])))


def _unit(vectors):
    """Scale vectors to length 1. Zeros stay zeros and have no gradient."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    there = square > 1e-24
    return ops.where(there, vectors * ops.rsqrt(ops.where(there, square, 1.0)), 0.0)


def _are_maps(*shapes):
    return all(len(shape) == 4 and None not in shape[1:] for shape in shapes)


def _resized(maps, size):
    return ops.image.resize(maps, size, interpolation="bilinear", antialias=True)


def _of_one_size(one, other):
    """Two maps, the larger resized to the height and width of the smaller."""
    size = tuple(map(min, one.shape[1:3], other.shape[1:3]))
    return [m if tuple(m.shape[1:3]) == size else _resized(m, size) for m in (one, other)]


def _flow(first, second):
    """(batch, h, w, c), (batch, h', w', d) -> (batch, c, d)"""
    first, second = _of_one_size(first, second)
    places = first.shape[1] * first.shape[2]
    return ops.einsum("bhwc,bhwd->bcd", first, second) / places


def _similarities(features):
    """(batch, ...) -> (batch, batch), rows of length 1"""
    features = _flat(features)
    return _unit(ops.matmul(features, ops.transpose(features)))


def _distances(vectors):
    """(batch, numbers) -> (batch, batch), in units of the mean of those that are not 0"""
    difference = vectors[:, None] - vectors[None]
    square = ops.sum(ops.square(difference), axis=-1)
    apart = square > 0
    # The root has no gradient at 0: it must not be taken there.
    distance = ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)
    count = ops.maximum(ops.sum(ops.cast(apart, "float32")), 1.0)
    return ops.divide_no_nan(distance, ops.sum(distance) / count)


def _cosines(vectors):
    """(batch, numbers) -> (batch, batch, batch): at i, the cosine between j - i and k - i"""
    towards = _unit(vectors[None] - vectors[:, None])
    return ops.einsum("ijn,ikn->ijk", towards, towards)


def _huber(difference):
    size = ops.abs(difference)
    return ops.where(size < 1, ops.square(difference) / 2, size - 0.5)
