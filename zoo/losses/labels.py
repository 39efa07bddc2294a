"""Losses that compare scores with labels, such as those of arXiv:1409.5185.

All take labels and scores (batch, classes), and return one float32 value an example, (batch,).
They compute in float32, whatever the type of the scores. Labels are whole numbers from 0 to
classes - 1, (batch,) or (batch, 1), or one-hot rows or probabilities, (batch, classes). A whole
number out of that range makes the loss of its example NaN. Other shapes raise a ValueError.
"""

import math

import keras
from keras import ops

from zoo.losses.checks import check_share, shapes_differ


def softmax_cross_entropy(labels, scores):
    """Return the negative log-likelihood of the labels under softmax(scores), in nats.

    Labels (batch,), (batch, 1) or (batch, classes), scores (batch, classes) -> (batch,), float32,
    from 0; ln(classes) for equal scores. For rows of probabilities the value is
    -sum_k labels_k log softmax(scores)_k. Network in Network, section 3.2. The authors of
    Deeply-Supervised Nets use it on all heads for CIFAR-100 and SVHN.

    Raises:
        ValueError: for labels that do not fit the scores.
    """
    targets, scores = _targets_and_scores(labels, scores)
    return -ops.sum(targets * ops.log_softmax(scores), axis=-1)


def one_vs_all_squared_hinge(labels, scores):
    """Return the squared hinge losses of each class against the rest, summed over the classes.

    Labels (batch,), (batch, 1) or (batch, classes), scores (batch, classes) -> (batch,), float32,
    from 0: sum_k max(0, 1 - t_k scores_k)^2, where t is +1 for the true class and -1 for the
    others. The true class of a row of probabilities is its argmax, the first of equals. Zero scores
    give `classes`. For 10 classes the best constant score is -0.8, which gives 3.6.

    It is the loss of the code released with Deeply-Supervised Nets (`SquaredHingeLossLayer` of its
    `loss_layer.cpp`), and the L2-SVM of Tang, arXiv:1306.0239. It is `classes` times
    `keras.losses.SquaredHinge`, which takes the mean. The equations of the paper describe
    `multiclass_squared_hinge` instead.

    Raises:
        ValueError: for labels that do not fit the scores.
    """
    truth, scores = _truth_and_scores(labels, scores)
    return ops.sum(ops.square(ops.relu(1 - (2 * truth - 1) * scores)), axis=-1)


def multiclass_squared_hinge(labels, scores):
    """Return the squared hinge losses of the true class's lead over each other class, summed.

    Labels (batch,), (batch, 1) or (batch, classes), scores (batch, classes) -> (batch,), float32,
    from 0: sum_{k != y} max(0, 1 - (scores_y - scores_k))^2, where y is the true class. The true
    class of a row of probabilities is its argmax, the first of equals. Equal scores give
    classes - 1. A number added to all scores changes nothing. Deeply-Supervised Nets, equations 4
    (output) and 5 (companions): the loss of Weston and Watkins (1999), squared.

    Raises:
        ValueError: for labels that do not fit the scores.
    """
    truth, scores = _truth_and_scores(labels, scores)
    lead = ops.sum(truth * scores, axis=-1, keepdims=True) - scores
    return ops.sum((1 - truth) * ops.square(ops.relu(1 - lead)), axis=-1)


def smoothed_softmax_cross_entropy(labels, scores, smoothing):
    """Return the cross-entropy with smoothed labels, in nats.

    Labels (batch,), (batch, 1) or (batch, classes), scores (batch, classes) -> (batch,), float32:
    (1 - w) L(labels, p) + w L(u, p), where w is the smoothing, p = softmax(scores), u gives every
    class the same probability and L is `softmax_cross_entropy`. It equals distillation at
    temperature 1 from a teacher that gives u. Szegedy et al., arXiv:1512.00567, section 7.

    Raises:
        ValueError: for a smoothing out of 0..1, or labels that do not fit the scores.
    """
    check_share("smoothing", smoothing)
    targets, scores = _targets_and_scores(labels, scores)
    softened = (1 - smoothing) * targets + smoothing / scores.shape[-1]
    return -ops.sum(softened * ops.log_softmax(scores), axis=-1)


class _LabelLoss(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        if y_true is None:
            raise ValueError(
                f"{type(self).__name__} compares scores with labels; received none. Give fit or "
                "evaluate the labels of the images."
            )
        return super().__call__(y_true, y_pred, sample_weight=sample_weight)


@keras.saving.register_keras_serializable("zoo")
class SoftmaxCrossEntropy(_LabelLoss):
    """`softmax_cross_entropy` for `Model.compile`: Keras weights the examples and reduces.

    With `smoothing`, in 0..1, it is `smoothed_softmax_cross_entropy`. The other arguments are those
    of `keras.losses.Loss`. The functions say what is raised.
    """

    def __init__(
        self,
        reduction="sum_over_batch_size",
        name="softmax_cross_entropy",
        dtype=None,
        *,
        smoothing=0.0,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        if not self.smoothing:
            return softmax_cross_entropy(y_true, y_pred)
        return smoothed_softmax_cross_entropy(y_true, y_pred, self.smoothing)

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}


@keras.saving.register_keras_serializable("zoo")
class OneVsAllSquaredHinge(_LabelLoss):
    """`one_vs_all_squared_hinge` for `Model.compile`: Keras weights the examples and reduces.

    The arguments are those of `keras.losses.Loss`. The function says what is raised.
    """

    def __init__(
        self, reduction="sum_over_batch_size", name="one_vs_all_squared_hinge", dtype=None
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        return one_vs_all_squared_hinge(y_true, y_pred)


@keras.saving.register_keras_serializable("zoo")
class MulticlassSquaredHinge(_LabelLoss):
    """`multiclass_squared_hinge` for `Model.compile`: Keras weights the examples and reduces.

    The arguments are those of `keras.losses.Loss`. The function says what is raised.
    """

    def __init__(
        self, reduction="sum_over_batch_size", name="multiclass_squared_hinge", dtype=None
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        return multiclass_squared_hinge(y_true, y_pred)


def _truth_and_scores(labels, scores):
    """Return one-hot rows of the true class, and the scores, both (batch, classes), float32."""
    labels, scores = _rows_or_whole_numbers(labels, scores)
    return _one_hot(ops.argmax(labels, axis=-1) if len(labels.shape) == 2 else labels, scores)


def _targets_and_scores(labels, scores):
    """Return rows of target probabilities, and scores, both (batch, classes), float32."""
    labels, scores = _rows_or_whole_numbers(labels, scores)
    if len(labels.shape) == 2:
        return ops.cast(labels, "float32"), scores
    return _one_hot(labels, scores)


def _one_hot(labels, scores):
    classes = scores.shape[-1]
    labels = ops.cast(labels, "int32")
    known = ops.expand_dims((labels >= 0) & (labels < classes), -1)
    # For a label that is no class, `one_hot` returns zeros, or raises an error on PyTorch.
    rows = ops.one_hot(ops.clip(labels, 0, classes - 1), classes, dtype="float32")
    return ops.where(known, rows, math.nan), scores


def _rows_or_whole_numbers(labels, scores):
    """Return the labels, (batch, classes) or (batch,), and the scores, after a check of shapes."""
    scores, labels = _scores(scores), ops.convert_to_tensor(labels)
    if getattr(labels.shape, "rank", 0) is None:  # only a shape of TensorFlow has a rank
        raise ValueError(
            "The labels come without a shape. Give tf.data.Dataset.from_generator an "
            "output_signature, such as tf.TensorSpec((None,), tf.int64) for labels."
        )
    classes, rank = scores.shape[-1], len(labels.shape)
    rows = rank == 2 and labels.shape[-1] == classes
    column = rank == 2 and labels.shape[-1] == 1
    # Backends would broadcast one example against many.
    if not (rows or column or rank == 1) or shapes_differ(labels.shape[:1], scores.shape[:1]):
        raise ValueError(
            f"Labels of shape {tuple(labels.shape)} do not fit scores of shape "
            f"{tuple(scores.shape)}: they are whole numbers, (batch,) or (batch, 1), or one-hot "
            f"rows or probabilities, (batch, {classes})."
        )
    return (ops.squeeze(labels, -1) if column else labels), scores


def _scores(scores):
    scores = ops.convert_to_tensor(scores)
    if len(scores.shape) != 2 or scores.shape[-1] is None or scores.shape[-1] < 2:
        raise ValueError(
            f"Scores are (batch, classes), of two classes or more; received {tuple(scores.shape)}."
        )
    return ops.cast(scores, "float32")
