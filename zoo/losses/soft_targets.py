"""Soft targets at a temperature (arXiv:1503.02531)."""

import keras
from keras import ops

from zoo.losses.checks import check_temperature, shapes_differ


def soft_target_loss(student_logits, teacher_logits, temperature):
    """Return the divergence of a student's softened probabilities from those of a teacher.

    Two (batch, ..., classes) -> (batch, ...), float32, in nats, from 0, which equal logits give:
    T^2 KL(softmax(teacher / T) || softmax(student / T)), where T is the temperature. The gradient
    with respect to the student's logits is T (softmax(student / T) - softmax(teacher / T)). The
    factor T^2 keeps its size about equal at all temperatures. At high temperatures the gradient
    nears (student - teacher) / classes for logits of mean zero. The teacher gets no gradient.
    Hinton, Vinyals and Dean, arXiv:1503.02531, sections 2 and 2.1.

    Raises:
        ValueError: for a temperature that is not a finite number > 0, or logits whose shapes are
            not (batch, ..., classes) alike, of two classes or more.
    """
    check_temperature(temperature)
    student, teacher = map(ops.convert_to_tensor, (student_logits, teacher_logits))
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
    """`soft_target_loss`, weighted, masked, averaged and distributed as Keras does it."""

    def __init__(self, temperature):
        super().__init__(name="soft_targets")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return soft_target_loss(y_pred, y_true, self.temperature)
