"""Measures of a classifier's answers, and their uncertainty. They need NumPy alone."""

import math
from statistics import NormalDist

import numpy as np


def wilson_interval(share, n, confidence=0.95):
    """Return the interval (low, high) of the true share, given the share 0..1 among n draws.

    This is the score interval of Wilson (1927), "Probable inference, the law of succession, and
    statistical inference". It stays within 0..1, and is not empty when no mistake was seen.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def softmax(logits):
    """Return the probabilities of logits: (..., classes) -> the same shape, float64."""
    logits = np.asarray(logits, "float64")
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def calibration_error(logits, labels, bins=15):
    """Return the expected calibration error, 0..1: how far confidence is from accuracy.

    (n, classes) logits and (n,) labels -> a number. The probabilities of the predicted classes are
    put into bins of equal width. The result is the mean over the bins of |accuracy - mean
    confidence|, weighted by their images. Guo, Pleiss, Sun and Weinberger, arXiv:1706.04599,
    equation 3.
    """
    logits = np.asarray(logits, "float64")
    confidence = softmax(logits).max(axis=1)
    right = logits.argmax(axis=1) == labels
    # The bins are (0, 1/bins], (1/bins, 2/bins], ...
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def confusion_counts(labels, predictions, classes):
    """Count the images: (n,) true and (n,) predicted classes -> (true, predicted) counts."""
    pairs = np.asarray(labels, "int64") * classes + np.asarray(predictions, "int64")
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def per_class(counts, names):
    """Return a dictionary for each class: its name, number of images, recall and precision.

    `counts` are (true, predicted). The recall is None for a class without images, and the precision
    for a class that was never predicted.
    """
    right, true, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    return [
        {
            "name": str(name),
            "count": int(true[index]),
            "recall": float(right[index] / true[index]) if true[index] else None,
            "precision": float(right[index] / predicted[index]) if predicted[index] else None,
        }
        for index, name in enumerate(names)
    ]


def balanced_accuracy(counts):
    """Return the mean recall of the classes that have images, from (true, predicted) counts.

    The result is None if no class has more than twice the images of another, since the accuracy
    says the same then.
    """
    right, true = np.diagonal(counts), counts.sum(axis=1)
    present = true > 0
    if true[present].max() <= 2 * true[present].min():
        return None
    return float((right[present] / true[present]).mean())


def confusions(counts, names, most=3):
    """Return the most frequent mistakes, made twice or more: (true, predicted, images)."""
    mistakes = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [
        (str(names[true]), str(names[predicted]), int(mistakes[true, predicted]))
        for true, predicted in pairs
        if mistakes[true, predicted] > 1
    ]
