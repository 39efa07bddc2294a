"""Train with Keras' own `fit`, on the one device that Keras uses by default."""

from collections.abc import Sequence
from typing import Any

import keras


def fit(
    model: keras.Model,
    *,
    batches: Any,
    validation: Any,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> keras.callbacks.History:
    """Call `model.fit`; the arguments are those of `zoo.training.loops.Loop`."""
    return model.fit(
        batches,
        validation_data=validation,
        initial_epoch=initial_epoch,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
