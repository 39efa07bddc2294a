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
    Hinton, Vinyals and Dean, arXiv:1503.02531, sections 2 and 2.1. The temperature is a number, or
    a tensor of one number, which is not checked.

    Raises:
        ValueError: for a temperature that is not a finite number > 0, or logits whose shapes are
            not (batch, ..., classes) alike, of two classes or more.
    """
    if not ops.is_tensor(temperature):
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
    student, teacher = ops.cast(student, "float32"), ops.stop_gradient(ops.cast(teacher, "float32"))
    ratios, log_student, log_teacher = log_ratios(student, teacher, temperature)
    return temperature**2 * divergence(ratios, log_student, log_teacher)


def binary_soft_target_loss(student_logits, teacher_logits, temperature):
    """Return the divergence of independent labels, each of which an example has or has not.

    Two (batch, ..., labels) -> (batch, ...), float32, in nats, from 0, which equal logits give:
    T^2 times the sum over the labels of KL(p || q), where p and q are the probabilities
    sigmoid(logit / T) of teacher and student that the example has the label. It is
    `soft_target_loss` with the classes "has not" and "has", of logits 0 and z, for each label. The
    gradient with respect to the student's logits is T (q - p). The teacher gets no gradient.

    Raises:
        ValueError: for a temperature that is not a finite number > 0, or logits whose shapes are
            not (batch, ..., labels) alike.
    """
    student, teacher = map(ops.convert_to_tensor, (student_logits, teacher_logits))
    alike = len(student.shape) == len(teacher.shape) > 1
    if not alike or shapes_differ(student.shape, teacher.shape):
        raise ValueError(
            f"The student's logits are of shape {tuple(student.shape)}, the teacher's of "
            f"{tuple(teacher.shape)}; both are (batch, labels), of the same labels."
        )
    pairs = (ops.stack([ops.zeros_like(z), z], axis=-1) for z in (student, teacher))
    return ops.sum(soft_target_loss(*pairs, temperature), axis=-1)


def log_ratios(student, teacher, temperature):
    """Return log(p / q), log q and log p of the softmaxes q and p of two logits at a temperature.

    The ratios near 0 as the temperature grows. The difference of the logarithms, which near
    -log(classes), would have no right digit left in float32.
    """
    student, teacher = _below_0(student), _below_0(teacher)
    log_student = ops.log_softmax(student / temperature)
    log_teacher = ops.log_softmax(teacher / temperature)
    # Of values up to 0, `expm1` does not overflow, and the terms of the mean do not cancel.
    difference = _below_0(teacher - student) / temperature
    mean = ops.sum(ops.exp(log_student) * ops.expm1(difference), axis=-1, keepdims=True)
    near = difference - ops.log1p(ops.maximum(mean, -0.5))
    return ops.where(mean > -0.5, near, log_teacher - log_student), log_student, log_teacher


def _below_0(logits):
    return logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))


def divergence(ratios, log_student, log_teacher):
    """Return KL(p || q) from the results of `log_ratios`: (..., classes) -> (...), from 0.

    It is the sum of p (r + exp(-r) - 1), where r is log(p / q). No term is below 0, so none cancel.
    """
    p, q = ops.exp(log_teacher), ops.exp(log_student)
    small = ops.abs(ratios) < 1
    r = ops.where(small, ratios, 0.0)
    series = 1.0
    for n in range(11, 2, -1):  # exp(-r) = 1 - r + r^2 / 2 (1 - r / 3 (1 - r / 4 (1 - ...
        series = 1 - r / n * series
    terms = ops.where(small, p * ops.square(r) / 2 * series, p * (ratios - 1) + q)
    return ops.sum(terms, axis=-1)


class SoftTargets(keras.losses.Loss):
    """`soft_target_loss`, weighted, masked, averaged and distributed as Keras does it."""

    def __init__(self, temperature):
        super().__init__(name="soft_targets", dtype="float32")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return soft_target_loss(y_pred, y_true, self.temperature)
