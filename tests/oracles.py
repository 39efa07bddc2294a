"""Formulas in NumPy, in float64, that several test files compare the code with."""

import numpy as np


def log_softmax(scores):
    """(..., classes) -> logarithms of probabilities, of the same shape, over the last axis."""
    scores = np.asarray(scores, "float64")
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def softmax(scores):
    """(..., classes) -> probabilities of the same shape, over the last axis."""
    return np.exp(log_softmax(scores))
