"""Formulas in NumPy, in float64, that several test files compare the code with."""

from decimal import Decimal, localcontext

import numpy as np


def log_softmax(scores):
    """(..., classes) -> logarithms of probabilities, of the same shape, over the last axis."""
    scores = np.asarray(scores, "float64")
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def softmax(scores):
    """(..., classes) -> probabilities of the same shape, over the last axis."""
    return np.exp(log_softmax(scores))


def exact_probabilities(logits, temperature):
    """(classes,) logits -> their softmax at a temperature, as a list of Decimals of 60 digits."""
    with localcontext(prec=60):
        powers = [(Decimal(float(logit)) / Decimal(temperature)).exp() for logit in logits]
        return [power / sum(powers) for power in powers]


def exact_divergence(student, teacher, temperature):
    """T^2 KL(teacher || student) in 60 digits: two lists of Decimals -> a float.

    In float64, nothing is left of it at a temperature of 1e8.
    """
    with localcontext(prec=60):
        terms = [p * (p / q).ln() for p, q in zip(teacher, student, strict=True)]
        return float(Decimal(temperature) ** 2 * sum(terms))
