"""Losses of labels and of soft targets: one float32 value for each example."""

import keras  # noqa: F401 (before our own: importing Keras registers them, see zoo/__init__.py)

from zoo.losses.checks import check_share, check_temperature
from zoo.losses.labels import (
    MulticlassSquaredHinge,
    OneVsAllSquaredHinge,
    SoftmaxCrossEntropy,
    multiclass_squared_hinge,
    one_vs_all_squared_hinge,
    smoothed_softmax_cross_entropy,
    softmax_cross_entropy,
)
from zoo.losses.reduction import Mean, loss_object, replicas, sum_over_replicas
from zoo.losses.soft_targets import (
    SoftTargets,
    binary_soft_target_loss,
    divergence,
    log_ratios,
    soft_target_loss,
)

__all__ = [
    "Mean",
    "MulticlassSquaredHinge",
    "OneVsAllSquaredHinge",
    "SoftTargets",
    "SoftmaxCrossEntropy",
    "binary_soft_target_loss",
    "check_share",
    "check_temperature",
    "divergence",
    "log_ratios",
    "loss_object",
    "multiclass_squared_hinge",
    "one_vs_all_squared_hinge",
    "replicas",
    "smoothed_softmax_cross_entropy",
    "soft_target_loss",
    "softmax_cross_entropy",
    "sum_over_replicas",
]
