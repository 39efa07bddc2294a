"""The answers of a model to its test images: how often it is right, and its nearest mistakes."""

from dataclasses import dataclass

import keras
import numpy as np

from zoo import measures
from zoo.data import ImageData
from zoo.data.packs import damage_told
from zoo.text import percent

_MOST = 10_000  # test images; the others of a larger set change little, and would take minutes


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong.

    Attributes:
        pixels: uint8 (h, w, c).
        true: the class of the image.
        said: the class that the model gives.
        probability: that of its answer, 0..1.
    """

    pixels: np.ndarray
    true: int
    said: int
    probability: float


class Hindsight:
    """The answers of a model to its test images, of which at most 10,000 are asked.

    Arguments:
        model: raw pixels (batch, h, w, c) -> logits (batch, classes).
        images: the test images.
    """

    def __init__(self, model: keras.Model, images: ImageData) -> None:
        self.images = images if images.examples <= _MOST else images.subset(_MOST)
        with damage_told():
            logits = model.predict(self.images.batches(256), verbose=0)
        self._logits = _centred(logits)
        self._said = logits.argmax(axis=1)
        self._confidence = measures.softmax(logits).max(axis=1)
        self._right = self._said == self.images.labels

    def nearest_mistakes(self, logits: np.ndarray, count: int = 6) -> list[Mistake]:
        """Return the wrong answers whose logits are nearest to these, (classes,), nearest first.

        The distance is Euclidean, without the constant that a softmax ignores.
        """
        wrong = np.flatnonzero(~self._right)
        distances = np.square(self._logits[wrong] - _centred(logits)).sum(axis=1)
        chosen = wrong[np.argsort(distances, kind="stable")[:count]]
        return [
            Mistake(
                self.images.images[index],
                int(self.images.labels[index]),
                int(self._said[index]),
                float(self._confidence[index]),
            )
            for index in chosen
        ]

    def right_near(self, probability: float) -> str:
        """Say how many test answers are right whose probability lies in the same tenth.

        Arguments:
            probability: that of an answer, 0..1.
        """
        tenth = min(int(10 * probability), 9)
        in_tenth = np.minimum((10 * self._confidence).astype(int), 9) == tenth
        span = f"{10 * tenth} to {10 * tenth + 10} %"
        count = int(in_tenth.sum())
        if not count:
            return f"No test image got an answer with {span}."
        share = float(self._right[in_tenth].mean())
        low, high = measures.wilson_interval(share, count)
        return (
            f"Of {count:,} test answers given with {span}, {percent(share, 1)} were right "
            f"(95 % interval: {percent(low, 1)} to {percent(high, 1)})."
        )


def _centred(logits):
    logits = np.asarray(logits, "float64")
    return logits - logits.mean(axis=-1, keepdims=True)
