"""Batch normalization on TensorFlow's fused kernel, and over all replicas of a batch."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("zoo")
class BatchNormalization(layers.BatchNormalization):
    """Normalizes each channel over the batch, with TensorFlow's fused kernel where it applies.

    (batch, height, width, channels) -> the same shape

    The variables, arguments and numbers are those of `keras.layers.BatchNormalization`. The kernel
    does not apply to other ranks and axes, to masks, `renorm` and `synchronized`, and on JAX and
    PyTorch; there the code of Keras runs. Keras normalizes in float32 with a chain of elementwise
    operations, which halves the training speed of a NIN on a CPU.

    In training under a tf.distribute strategy, the statistics are those of the whole batch instead
    of those of each replica's part, `synchronized` or not. With a mask or `renorm` they are those
    of Keras. Ioffe and Szegedy, arXiv:1502.03167.
    """

    def call(self, inputs, training=None, mask=None):
        replica = _replica() if training and self.trainable else None
        if replica is not None and mask is None and not self.renorm:
            return self._of_whole_batch(inputs, replica)
        fusable = (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and mask is None
            and not (self.renorm or self.synchronized)
            # The kernel keeps its statistics in float32, and clips smaller epsilons to this one.
            and self.variable_dtype == "float32"
            and self.compute_dtype in ("float32", "bfloat16", "float16")
            and self.epsilon > 1.001e-5
        )
        if not fusable:
            return super().call(inputs, training=training, mask=mask)
        return self._fused(ops.cast(inputs, self.compute_dtype), bool(training and self.trainable))

    def _of_whole_batch(self, inputs, replica):
        """Normalize with the statistics of all replicas' examples; a replica may have none."""
        import tensorflow as tf

        total = tf.distribute.ReduceOp.SUM
        inputs = tf.cast(inputs, "float32")
        axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
        count = tf.size(inputs) // inputs.shape[self.axis]
        sums, count = replica.all_reduce(
            total, [tf.reduce_sum(inputs, axes, keepdims=True), tf.cast(count, tf.float32)]
        )
        mean = sums / count
        # Keras' E(x^2) - E(x)^2 needs one pass over the inputs, not two, but loses digits.
        squares = tf.reduce_sum(tf.square(inputs - mean), axes, keepdims=True)
        variance = replica.all_reduce(total, squares) / count
        mean, variance = tf.reshape(mean, (-1,)), tf.reshape(variance, (-1,))
        self._update_moving_statistics(mean, variance)
        outputs = ops.batch_normalization(
            inputs,
            mean,
            variance,
            self.axis,
            offset=tf.convert_to_tensor(self.beta) if self.center else None,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else None,
            epsilon=self.epsilon,
        )
        return tf.cast(outputs, self.compute_dtype)

    def _update_moving_statistics(self, mean, variance):
        momentum = self.momentum
        self.moving_mean.assign(self.moving_mean * momentum + mean * (1 - momentum))
        self.moving_variance.assign(self.moving_variance * momentum + variance * (1 - momentum))

    def _fused(self, inputs, training):
        import tensorflow as tf

        channels = (inputs.shape[-1],)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            mean=None if training else tf.convert_to_tensor(self.moving_mean),
            variance=None if training else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            # The kernel returns the unbiased variance (n - 1); Keras averages the biased one (n).
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            variance *= (count - 1) / count
            self._update_moving_statistics(mean, variance)
        return outputs


def _replica():
    """Return the context of the running replica if a tf.distribute strategy has several."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None
