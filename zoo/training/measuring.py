"""Measure a model over labelled images."""

import keras
import numpy as np

from zoo.data import ImageData
from zoo.data.packs import damage_told


def measure(model: keras.Model, images: ImageData) -> tuple[np.ndarray, float]:
    """Return a model's logits (n, classes) and its mean cross-entropy in nats, over n images."""
    with damage_told():
        logits = model.predict(images.batches(256), verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(images.labels, logits, from_logits=True)
    return logits, float(keras.ops.mean(losses))
