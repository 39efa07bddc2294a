"""Knowledge of a teacher's outputs."""

import keras
from keras import ops

from zoo.losses import check_temperature, divergence, log_ratios, soft_target_loss
from zoo.objectives.feature_math import flat
from zoo.objectives.knowledge.base import Knowledge


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
            self.refuse(names, student, teacher, "logits, (batch, classes), of the same classes")

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
