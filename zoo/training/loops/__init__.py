"""The loops of a training: on one device, with one call of `fit` an epoch, and on replicas.

All take the arguments of `Loop` and return the `keras.callbacks.History` of Keras' `fit`.
`replicas.fit` takes more arguments, which its caller binds first.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import keras


class Loop(Protocol):
    """The signature that all loops share."""

    def __call__(
        self,
        model: keras.Model,
        *,
        batches: Any,
        validation: Any,
        initial_epoch: int,
        epochs: int,
        steps_per_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> keras.callbacks.History:
        """Train a compiled model.

        Arguments:
            model: a compiled model.
            batches: an endless stream of (images, labels), already in random order.
            validation: batches to evaluate on after each epoch.
            initial_epoch: the number of epochs that were done before.
            epochs: the number of the last epoch.
            steps_per_epoch: the number of batches in an epoch.
            callbacks: Keras callbacks.
        """
