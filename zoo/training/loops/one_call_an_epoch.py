"""Keras' `fit` on JAX and PyTorch: one call an epoch."""

import keras


def fit(model, batches, *, validation, initial_epoch, epochs, steps_per_epoch, callbacks):
    """`model.fit` over `TrainingBatches`, one call an epoch.

    Within one call, Keras keeps count of the epochs of a PyDataset, and refuses to go on after an
    epoch that a callback ended, as the first of a resumed training is.
    """
    callbacks = keras.callbacks.CallbackList(
        callbacks, add_history=True, model=model, epochs=epochs, steps=steps_per_epoch
    )
    taken = 0
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        relay = _Relay(callbacks, epoch)
        model.fit(
            _Part(batches, taken, steps_per_epoch),
            validation_data=validation,
            callbacks=[relay],
            shuffle=False,
            verbose=0,
        )
        taken += relay.steps
        if model.stop_training:
            break
    callbacks.on_train_end()
    return model.history


class _Part(keras.utils.PyDataset):
    """So many batches from one on."""

    def __init__(self, batches, first, count):
        super().__init__()
        self.batches, self.first, self.count = batches, first, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.batches[self.first + index]


class _Relay(keras.callbacks.Callback):
    """Of an epoch that Keras takes for the first and only one."""

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
