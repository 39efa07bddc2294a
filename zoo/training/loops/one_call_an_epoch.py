"""Train with Keras' `fit` on JAX and PyTorch, with one call of it for each epoch."""

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
    """Call `model.fit` once an epoch; the arguments are those of `zoo.training.loops.Loop`.

    Within one call, Keras counts the epochs of a PyDataset, and refuses to continue after an epoch
    that a callback ended early. A resumed training begins with such an epoch.

    `batches` are `zoo.data.numpy_batches.TrainingBatches`.
    """
    callback_list = keras.callbacks.CallbackList(
        callbacks, add_history=True, model=model, epochs=epochs, steps=steps_per_epoch
    )
    taken = 0
    callback_list.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        relay = _Relay(callback_list, epoch)
        model.fit(
            _Slice(batches, taken, steps_per_epoch),
            validation_data=validation,
            callbacks=[relay],
            shuffle=False,
            verbose=0,
        )
        taken += relay.steps
        if model.stop_training:
            break
    callback_list.on_train_end()
    return model.history


class _Slice(keras.utils.PyDataset):
    """`count` batches, from batch number `first` on."""

    def __init__(self, batches, first, count):
        super().__init__()
        self.batches, self.first, self.count = batches, first, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.batches[self.first + index]


class _Relay(keras.callbacks.Callback):
    """Pass the events of one call of `fit` on, with the true number of the epoch."""

    def __init__(self, callbacks, epoch):
        super().__init__()
        self.callbacks, self.epoch, self.steps = callbacks, epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.callbacks.on_epoch_begin(self.epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.callbacks.on_epoch_end(self.epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self.callbacks.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.callbacks.on_train_batch_end(batch, logs)
