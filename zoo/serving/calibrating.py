"""Temperature scaling: one number that makes the probabilities of an export as sure as it is right.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", arXiv:1706.04599,
section 4.2: the probabilities are softmax(logits / T). T > 0 changes no answer, since it changes
no order. It is fitted on images that the model was neither trained on nor is judged on.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo import measures
from zoo.exports import ExportError

_LEAST, _MOST = 0.01, 100.0  # temperatures; a trained net has one between 0.5 and 5


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of the smallest cross-entropy, to four significant digits.

    (n, classes) logits and (n,) labels -> T in 0.01..100. The mean cross-entropy of
    softmax(logits / T) is convex in 1 / T, so its only minimum is found by halving.

    Raises:
        ExportError: if no temperature is best: the model gets every image right, or guesses.
    """
    logits = np.asarray(logits, "float64")
    of_label = np.take_along_axis(logits, np.asarray(labels)[:, np.newaxis], axis=1)[:, 0]

    def slope(inverse):
        """The derivative of the mean cross-entropy by 1 / T."""
        expected = (measures.softmax(logits * inverse) * logits).sum(axis=1)
        return (expected - of_label).mean()

    if not (logits.max(axis=1) > of_label).any() or slope(1 / _LEAST) < 0:
        raise ExportError(
            f"A temperature cannot be fitted: of the {len(logits)} held-out images the model gets "
            "all or nearly all right, so the surer the better. Hold out more images."
        )
    if slope(1 / _MOST) >= 0:
        raise ExportError(
            f"A temperature cannot be fitted: on the {len(logits)} held-out images the model is no "
            "better than a guess. Are its labels those of the images?"
        )
    low, high = math.log(1 / _MOST), math.log(1 / _LEAST)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return float(f"{math.exp(-low):.4g}")


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats: (n, classes) logits and (n,) labels -> a number."""
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(axis=1, keepdims=True)
    of_label = np.take_along_axis(shifted, np.asarray(labels)[:, np.newaxis], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - of_label).mean())


def calibration(
    held_out: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Fit a temperature, and measure what it does; return the facts for the card.

    Arguments:
        held_out: logits (n, classes) and labels (n,) of the images to fit it on.
        test: the same of the images to measure it on.

    Returns:
        {"temperature", "fitted_on", "measured_on"}. Each of the last two has the number of images
        and, before and after, the cross-entropy; the last also the expected calibration error.

    Raises:
        ExportError: if no temperature is best.
    """
    fitted = temperature(*held_out)

    def both(measure, logits, labels):
        return {"before": measure(logits, labels), "after": measure(logits / fitted, labels)}

    return {
        "temperature": fitted,
        "fitted_on": {
            "images": "validation",
            "examples": len(held_out[1]),
            "loss": both(cross_entropy, *held_out),
        },
        "measured_on": {
            "images": "test",
            "examples": len(test[1]),
            "loss": both(cross_entropy, *test),
            "calibration_error": both(measures.calibration_error, *test),
        },
    }


def temperature_of(calibration: Mapping[str, Any] | None) -> float:
    """Return the temperature of a `calibration`, such as that of a card; 1 if there is none.

    Raises:
        ExportError: if it is not a number in 0.01..100.
    """
    if calibration is None:
        return 1.0
    number: Any = calibration.get("temperature") if isinstance(calibration, Mapping) else None
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not _LEAST <= number <= _MOST:
        raise ExportError(
            f"Received the temperature {number!r}; expected a number from {_LEAST} to {_MOST:g}."
        )
    return float(number)
