"""Keras' own `fit`, on the one device that Keras takes by itself."""


def fit(model, batches, *, validation, initial_epoch, epochs, steps_per_epoch, callbacks):
    """`model.fit` over batches whose order is already random."""
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
