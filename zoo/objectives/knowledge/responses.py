"""Knowledge of a teacher's outputs."""

import math

import keras
from keras import ops

from zoo.losses import check_temperature, divergence, log_ratios, soft_target_loss
from zoo.objectives.feature_math import correlations, flat
from zoo.objectives.knowledge.base import Knowledge, check_weight, class_numbers
from zoo.objectives.teaching import two_or_more


class _OfLogits(Knowledge):
    """A knowledge of one pair of logits. A single logit is that of the second of two classes."""

    def __init__(self, student="output", teacher="output", *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        if len(self.student_layers) != 1:
            raise ValueError(
                f"{type(self).__name__} compares one layer of logits; received "
                f"{', '.join(self.student_layers)}. Give each its own knowledge."
            )

    def connect(self, names, student, teacher):
        if len(student) != 2 or student[1:] != teacher[1:] or not student[-1]:
            self.refuse(names, student, teacher, "logits, (batch, classes), of the same classes")

    def loss(self, student, teacher, labels):
        return self.of_logits(two_or_more(student[0]), two_or_more(teacher[0]), labels)


@keras.saving.register_keras_serializable("zoo")
class LogitRegression(Knowledge):
    """Half the squared distance of the logits: the gradient is student - teacher.

    (batch, classes) twice -> (batch,). Ba and Caruana, arXiv:1312.6184, equation 1: their whole
    loss, so their weight is 1 at `soft_weight=0` without labels. With `centered` the mean of each
    example's logits is subtracted on both sides. At high temperatures `soft_target_loss` nears this
    value divided by the number of classes (arXiv:1503.02531, section 2.1). The weight 2 / classes
    gives the mean squared error.
    """

    def __init__(self, student="output", teacher="output", *, centered=False, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.centered = centered

    def of_pair(self, student, teacher):
        difference = two_or_more(student) - two_or_more(teacher)
        if self.centered:
            difference = difference - ops.mean(difference, axis=-1, keepdims=True)
        return ops.sum(ops.square(flat(difference)), axis=-1) / 2

    def get_config(self):
        return {**super().get_config(), "centered": self.centered}


@keras.saving.register_keras_serializable("zoo")
class SoftTargets(_OfLogits):
    """Soft targets of their own temperature and weight, beside those of the `Distiller`.

    (batch, classes) twice -> (batch,), from 0: `soft_target_loss`. Hinton, Vinyals and Dean,
    arXiv:1503.02531, section 2. RepDistiller and mdistiller use temperature 4 and weight 0.9 beside
    labels of weight 0.1. That alone is `soft_weight=0.9` of the `Distiller`.

    With `standardize` each example's logits get mean 0 and standard deviation 1 first, on both
    sides, so that the student need not have the teacher's range. Equal logits have no gradient. The
    deviation divides by classes - 1, as in the authors' code. Sun et al., Logit Standardization in
    Knowledge Distillation, arXiv:2403.01427. Their temperature is 2, and their weight is 9 beside
    labels of weight 0.1.

    Raises:
        ValueError: for a temperature that is not a finite number > 0.
    """

    def __init__(
        self,
        temperature=4.0,
        standardize=False,
        *,
        student="output",
        teacher="output",
        weight=1.0,
        **kwargs,
    ):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_temperature(temperature)
        self.temperature, self.standardize = temperature, standardize

    def of_logits(self, student, teacher, labels):
        if self.standardize:
            student, teacher = _standardized(student), _standardized(teacher)
        return soft_target_loss(student, teacher, self.temperature)

    def get_config(self):
        own = {"temperature": self.temperature, "standardize": self.standardize}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("zoo")
class DecoupledSoftTargets(_OfLogits):
    """Soft targets in two parts: the true class against all others, and the others alone (DKD).

    (batch, classes) twice and labels -> (batch,): target_weight TCKD + other_weight NCKD, both
    times temperature^2. TCKD is the divergence of the true class against all others, NCKD that
    among the others. `soft_target_loss` is TCKD + (1 - the teacher's probability of the true
    class) NCKD, so NCKD counts little if the teacher is sure. Zhao et al., arXiv:2203.08679,
    equations 6 and 7. The authors' parts weigh 1 and 8 at temperature 4 on CIFAR-100, 1 and 0.5 or
    2 at temperature 1 on ImageNet. Their `weight` rises from 0 to 1 in the first 20 epochs. Labels
    are whole numbers, (batch,) or (batch, 1), or rows, (batch, classes). A whole number that is no
    class makes the loss of its example NaN.

    Raises:
        ValueError: for a temperature, target_weight or other_weight out of range.
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
        check_weight("target_weight of DecoupledSoftTargets", target_weight)
        check_weight("other_weight of DecoupledSoftTargets", other_weight)
        self.temperature = temperature
        self.target_weight, self.other_weight = target_weight, other_weight

    def of_logits(self, student, teacher, labels):
        if labels is None:  # The Distiller checks shapes without labels, and labels in a step.
            return soft_target_loss(student, teacher, self.temperature)
        labels, known = class_numbers(labels, student.shape[-1])
        truth = ops.one_hot(labels, student.shape[-1], dtype="float32")
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
        return ops.where(known, self.temperature**2 * weighted, math.nan)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "target_weight": self.target_weight,
            "other_weight": self.other_weight,
        }


@keras.saving.register_keras_serializable("zoo")
class RelationalMatching(_OfLogits):
    """Correlations instead of equal probabilities (DIST): between classes, and between examples.

    (batch, classes) twice -> (batch,), from 0 to 2 temperature^2 (inter_weight + intra_weight):
    temperature^2 (inter_weight (1 - the Pearson correlation of the example's two rows of
    probabilities) + intra_weight (1 - the correlation of the two columns of a class, averaged over
    the classes)). The second part is that of the batch, and the same for all its examples. Examples
    are compared with those of the same replica. The student may keep probabilities of another
    range. Huang et al., Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536, and the
    authors' code. The weight on ImageNet is 2, at temperature 1.

    Raises:
        ValueError: for a temperature, inter_weight or intra_weight out of range.
    """

    def __init__(
        self,
        temperature=1.0,
        inter_weight=1.0,
        intra_weight=1.0,
        *,
        student="output",
        teacher="output",
        weight=1.0,
        **kwargs,
    ):
        super().__init__(student, teacher, weight=weight, **kwargs)
        check_temperature(temperature)
        check_weight("inter_weight of RelationalMatching", inter_weight)
        check_weight("intra_weight of RelationalMatching", intra_weight)
        self.temperature = temperature
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def of_logits(self, student, teacher, labels):
        p, q = (ops.softmax(logits / self.temperature) for logits in (student, teacher))
        inter = 1 - correlations(p, q, axis=1)
        intra = 1 - ops.mean(correlations(p, q, axis=0))
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "inter_weight": self.inter_weight,
            "intra_weight": self.intra_weight,
        }


@keras.saving.register_keras_serializable("zoo")
class MultiLevelLogits(_OfLogits):
    """Soft targets of examples, of classes and of the batch, at several temperatures (MLKD).

    (batch, classes) twice -> (batch,): the sum over the temperatures of `soft_target_loss`, of
    ||P P^T - Q Q^T||^2 / batch (examples), and of ||P^T P - Q^T Q||^2 / classes (classes), where P
    and Q are the probabilities of the batch. The last part is that of the batch, and the same for
    all its examples. Examples are compared with those of the same replica. Jin, Wang and Lin,
    Multi-Level Logit Distillation, CVPR 2023, and the authors' code. Their weight is 0.9, beside
    labels of weight 0.1.

    The authors compare two views of each image, a weak and a strong augmentation, and leave out
    examples and classes of which the teacher is sure. Here is one view, and all of them count.

    Raises:
        ValueError: for no temperatures, or one out of range.
    """

    def __init__(
        self,
        temperature=(2.0, 3.0, 4.0, 5.0, 6.0),
        *,
        student="output",
        teacher="output",
        weight=1.0,
        **kwargs,
    ):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.temperature = tuple(temperature)
        if not self.temperature:
            raise ValueError("MultiLevelLogits takes one temperature or more; received none.")
        for each in self.temperature:
            check_temperature(each)

    def of_logits(self, student, teacher, labels):
        losses = []
        for temperature in self.temperature:
            p, q = (ops.softmax(logits / temperature) for logits in (student, teacher))
            columns, others = ops.transpose(p), ops.transpose(q)
            of_batch = ops.square(ops.matmul(p, columns) - ops.matmul(q, others))
            of_classes = ops.square(ops.matmul(columns, p) - ops.matmul(others, q))
            losses += [soft_target_loss(student, teacher, temperature)]
            losses += [ops.sum(of_batch, axis=1) + ops.sum(of_classes) / p.shape[-1]]
        return sum(losses)

    def get_config(self):
        return {**super().get_config(), "temperature": list(self.temperature)}


def _standardized(logits):
    """Return each example's logits with mean 0 and standard deviation 1."""
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    vary = variance > 1e-12
    deviation = ops.sqrt(ops.where(vary, variance, 1.0))
    return ops.where(vary, centered / (deviation + 1e-7), 0.0)
