"""Losses are weighted, averaged and divided among replicas as Keras does it."""

import keras


def loss_object(loss):
    """Return the loss as a `keras.losses.Loss`, which scales itself under a strategy.

    Raises:
        ValueError: for no loss, or several.
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise ValueError(f"Compile with one loss, for all heads alike; received loss={loss!r}.")
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else _FunctionLoss(loss)


class _FunctionLoss(keras.losses.Loss):
    def __init__(self, function):
        super().__init__(name="head_loss")  # TensorFlow refuses "<lambda>" as a scope
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


class Mean(keras.losses.Loss):
    """The mean of values that are losses already, weighted and distributed as Keras does it."""

    def __init__(self):
        super().__init__(name="mean", dtype="float32")

    def call(self, y_true, y_pred):
        return y_pred


def replicas():
    """Return the number of replicas. Keras divides a loss by it, and a log must multiply again."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value):
    """Return the sum of a value over all replicas."""
    if replicas() == 1:
        return value
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    # It is None while Keras builds the model outside of a replica, where values do not matter.
    return value if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, value)
