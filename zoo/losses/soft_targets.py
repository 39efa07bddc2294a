"""Soft targets at a temperature (arXiv:1503.02531)."""

import math

import keras
from keras import ops

from zoo.losses.labels import shapes_differ


def check_temperature(temperature):
    """Raise ValueError for a temperature that is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"The temperature is a finite number > 0; received {temperature!r}.")


def soft_target_loss(student_logits, teacher_logits, temperature):
    """The divergence of a student's softened probabilities from those of a teacher.

    Two (..., classes) -> (...), float32, in nats, 0 where the logits are equal; of two
    (batch, classes) one value an example: T^2 KL(softmax(teacher / T) || softmax(student / T)),
    T the temperature. The factor keeps the gradient with respect to the student's logits,
    T (softmax(student / T) - softmax(teacher / T)), of one size at all temperatures; at high ones
    it nears (student - teacher) / classes for logits of mean zero. The teacher gets no gradient.
    Hinton, Vinyals and Dean, arXiv:1503.02531, sections 2 and 2.1.

    Raises:
        ValueError: for a temperature that is not a finite number > 0, or logits whose shapes are
            not (batch, ..., classes) alike, of two classes or more.
    """
    check_temperature(temperature)
    student, teacher = (ops.convert_to_tensor(each) for each in (student_logits, teacher_logits))
    alike = len(student.shape) == len(teacher.shape) and not shapes_differ(
        student.shape, teacher.shape
    )
    if not alike or len(student.shape) < 2 or (student.shape[-1] or 0) < 2:
        raise ValueError(
            f"The student's logits are of shape {tuple(student.shape)}, the teacher's of "
            f"{tuple(teacher.shape)}; both are (batch, classes), of the same two classes or more."
        )
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    log_student = ops.log_softmax(student / temperature)
    log_teacher = ops.stop_gradient(ops.log_softmax(teacher / temperature))
    divergence = ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    return temperature**2 * divergence


class SoftTargets(keras.losses.Loss):
    """`soft_target_loss`, as Keras weighs, masks, averages and distributes losses."""

    def __init__(self, temperature):
        super().__init__(name="soft_targets")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return soft_target_loss(y_pred, y_true, self.temperature)
