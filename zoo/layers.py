"""Layers of Network in Network (arXiv:1312.4400) and Deeply-Supervised Nets (arXiv:1409.5185)."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("zoo")
class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, computed by TensorFlow's fused kernel where it applies.

    (batch, height, width, channels) -> the same shape. Variables, arguments and numbers are those
    of the stock layer; so is the arithmetic, wherever the kernel does not apply: other ranks and
    axes, masks, `renorm`, `synchronized`, JAX and PyTorch. Stock Keras normalizes in float32 with
    a chain of elementwise operations, which halves the training speed of a NIN on a CPU.

    Under a tf.distribute strategy the statistics in training are those of the whole batch, not of
    each replica's part of it, `synchronized` or not; with a mask or `renorm` they are stock Keras'.

    Ioffe and Szegedy, arXiv:1502.03167.
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
        """Training with the mean and variance over all replicas' examples; some may have none."""
        import tensorflow as tf

        total = tf.distribute.ReduceOp.SUM
        inputs = tf.cast(inputs, "float32")
        axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
        values = tf.size(inputs) // inputs.shape[self.axis]
        sums, values = replica.all_reduce(
            total, [tf.reduce_sum(inputs, axes, keepdims=True), tf.cast(values, tf.float32)]
        )
        mean = sums / values
        # Twice over the inputs, where Keras' E(x^2) - E(x)^2 would cancel digits.
        squares = tf.reduce_sum(tf.square(inputs - mean), axes, keepdims=True)
        mean, variance = (
            tf.reshape(each, (-1,)) for each in (mean, replica.all_reduce(total, squares) / values)
        )
        self._remember(mean, variance)
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

    def _remember(self, mean, variance):
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1 - keep))

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
            self._remember(mean, variance)
        return outputs


def _replica():
    """The replica that runs, if it is one of several under a tf.distribute strategy."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


@keras.saving.register_keras_serializable("zoo")
class MLPConv(layers.Layer):
    """A small network slid over the image: a k x k convolution, then 1 x 1 convolutions.

    (batch, height, width, channels) -> (batch, new height, new width, filters[-1])

    The 1 x 1 convolutions are the hidden layers of a multilayer perceptron that all receptive
    fields share ("cascaded cross channel parametric pooling"). An activation follows each
    convolution, after the normalization where there is one. Network in Network, section 3.1,
    equation 2.

    Arguments:
        filters: the widths, one a convolution: (192, 160, 96) is the first block of the paper.
        kernel_size, strides, padding: of the first convolution; the others are 1 x 1.
        activation: after each convolution but, if `final_activation` says otherwise, the last.
        final_activation: after the last one; "same" as the others, or None for linear maps.
        kernel_initializer: one for all convolutions, or a list of one each.
        kernel_regularizer: for all convolutions.
        normalization: None or "batch". Batch normalization takes the place of the biases.

    Raises:
        ValueError: for no filters, an unknown normalization, or a list of initializers that does
            not match the filters.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        *,
        strides=1,
        padding="same",
        activation="relu",
        final_activation="same",
        kernel_initializer="he_normal",
        kernel_regularizer=None,
        normalization=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = (filters,) if isinstance(filters, int) else tuple(filters)
        if not self.filters:
            raise ValueError(
                "MLPConv received no filters; it needs at least one, e.g. (96, 64, 48)."
            )
        if normalization not in (None, "batch"):
            raise ValueError(f'normalization is None or "batch"; received {normalization!r}.')
        self.kernel_size, self.strides, self.padding = kernel_size, strides, padding
        self.normalization = normalization
        self.activation = keras.activations.get(activation)
        self.final_activation = (
            self.activation
            if final_activation == "same"
            else keras.activations.get(final_activation)
        )
        if not isinstance(kernel_initializer, (list, tuple)):
            kernel_initializer = [kernel_initializer] * len(self.filters)
        if len(kernel_initializer) != len(self.filters):
            raise ValueError(
                f"MLPConv received {len(kernel_initializer)} initializers for {len(self.filters)} "
                "convolutions; give one for all, or one each."
            )
        self.kernel_initializer = [keras.initializers.get(i) for i in kernel_initializer]
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

        self.convolutions = [self._convolution(index) for index in range(len(self.filters))]
        self.normalizations = [
            # Keras' momentum of 0.99 needs some 500 steps before evaluation can be trusted: an
            # epoch of a small data set has ten.
            BatchNormalization(
                momentum=0.9, name=f"{convolution.name}_norm", dtype=self.dtype_policy
            )
            for convolution in self.convolutions
            if normalization == "batch"
        ]

    def _convolution(self, index):
        first = index == 0
        return layers.Conv2D(
            self.filters[index],
            self.kernel_size if first else 1,
            strides=self.strides if first else 1,
            padding=self.padding,
            use_bias=self.normalization is None,
            # A copy: a seeded initializer shared by two kernels would draw both alike.
            kernel_initializer=self.kernel_initializer[index].clone(),
            kernel_regularizer=self.kernel_regularizer,
            name="conv" if first else f"cccp{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        for index, convolution in enumerate(self.convolutions):
            convolution.build(input_shape)
            input_shape = convolution.compute_output_shape(input_shape)
            if self.normalizations:
                self.normalizations[index].build(input_shape)

    def call(self, inputs, training=None):
        x = inputs
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if self.normalizations:
                x = self.normalizations[index](x, training=training)
            last = index == len(self.convolutions) - 1
            x = (self.final_activation if last else self.activation)(x)
        return x

    def compute_output_shape(self, input_shape):
        for convolution in self.convolutions:
            input_shape = convolution.compute_output_shape(input_shape)
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "activation": keras.activations.serialize(self.activation),
            "final_activation": keras.activations.serialize(self.final_activation),
            "kernel_initializer": [
                keras.initializers.serialize(i) for i in self.kernel_initializer
            ],
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "normalization": self.normalization,
        }


@keras.saving.register_keras_serializable("zoo")
class GlobalAveragePoolingHead(layers.Layer):
    """One confidence map a class, and the mean of each map as the logit of its class.

    (batch, height, width, channels) -> (batch, classes), float32 under every dtype policy

    `class_maps`, the 1 x 1 convolution, and `average` are layers of their own: call `class_maps`
    alone for the confidence maps, (batch, height, width, classes). Network in Network,
    section 3.2. `activation` is None for linear maps, or "relu" as in the paper's released code.
    """

    def __init__(
        self,
        classes,
        *,
        activation=None,
        kernel_initializer="he_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.class_maps = layers.Conv2D(
            classes,
            1,
            activation=activation,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            name="class_maps",
            dtype=self.dtype_policy,
        )
        # The mean of bfloat16 maps, taken in bfloat16, would keep two decimal digits.
        self.average = layers.GlobalAveragePooling2D(name="logits", dtype="float32")

    def build(self, input_shape):
        self.class_maps.build(input_shape)
        self.average.build(self.class_maps.compute_output_shape(input_shape))

    def call(self, inputs):
        return self.average(self.class_maps(inputs))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.class_maps.filters)

    def get_config(self):
        maps = self.class_maps.get_config()
        kept = ("activation", "kernel_initializer", "kernel_regularizer")
        return {
            **super().get_config(),
            "classes": maps["filters"],
            **{key: maps[key] for key in kept},
        }


@keras.saving.register_keras_serializable("zoo")
class CompanionHead(layers.Layer):
    """The local classifier of a hidden layer, whose loss is the layer's companion objective.

    (batch, height, width, channels) -> (batch, classes)

    It computes in float32 under every dtype policy. Deeply-Supervised Nets, section 2.2.

    Arguments:
        classes: the number of classes.
        form: "pool" averages each map and classifies the means: channels x classes weights.
            "dense" classifies the flattened map, as the released code does: height x width times
            as many weights (2.58 million on the three taps of the CIFAR-10 net, 2.7 times the
            net itself).
        kernel_initializer, kernel_regularizer: of the classifier.

    Raises:
        ValueError: for an unknown form, or a feature that is not a map.
    """

    def __init__(
        self,
        classes,
        form="pool",
        *,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        if form not in ("dense", "pool"):
            raise ValueError(
                f'The form of a CompanionHead is "dense" or "pool"; received {form!r}.'
            )
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.form = form
        reduce = layers.Flatten if form == "dense" else layers.GlobalAveragePooling2D
        self.features = reduce(name="features", dtype="float32")
        self.classifier = layers.Dense(
            classes,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            name="classifier",
            dtype="float32",
        )

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"CompanionHead {self.name!r} received a feature of shape {tuple(input_shape)}; it "
                "expects maps, (batch, height, width, channels): attach it to a convolution."
            )
        self.features.build(input_shape)
        self.classifier.build(self.features.compute_output_shape(input_shape))

    def call(self, inputs):
        return self.classifier(self.features(inputs))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.classifier.units)

    def get_config(self):
        dense = self.classifier.get_config()
        kept = ("kernel_initializer", "kernel_regularizer")
        return {
            **super().get_config(),
            "classes": dense["units"],
            "form": self.form,
            **{key: dense[key] for key in kept},
        }


@keras.saving.register_keras_serializable("zoo")
class DecodingHead(layers.Layer):
    """The decoder of a hidden layer, a companion that needs no labels: back to an earlier map.

    [(batch, h, w, channels) hidden map, (batch, height, width, c) earlier map] ->
    (batch,) mean squared errors of the reconstruction

    `decode(hidden)` gives the reconstruction itself, (batch, height, width, c): a bilinear resize
    and a 3 x 3 convolution. It computes in float32 under every dtype policy, and the earlier map
    learns nothing from it. Zhang, Lee and Lee, arXiv:1606.06582 (layer-wise decoding).

    Arguments:
        of: the layer whose output is decoded, such as the one below; None for the images, as
            pixel values / 255.

    Raises:
        ValueError: for features that are not maps.
    """

    def __init__(self, of=None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.of = of

    def build(self, input_shape):
        hidden, earlier = input_shape
        if len(hidden) != 4 or len(earlier) != 4:
            raise ValueError(
                f"DecodingHead {self.name!r} received features of shapes {tuple(hidden)} and "
                f"{tuple(earlier)}; it expects maps, (batch, height, width, channels)."
            )
        self.size = tuple(earlier[1:3])
        self.convolution = layers.Conv2D(
            earlier[-1], 3, padding="same", name="convolution", dtype="float32"
        )
        self.convolution.build((*hidden[:1], *self.size, hidden[-1]))

    def decode(self, hidden):
        return self.convolution(ops.image.resize(hidden, self.size, interpolation="bilinear"))

    def call(self, inputs):
        hidden, earlier = inputs
        difference = self.decode(hidden) - ops.stop_gradient(earlier)
        return ops.mean(ops.square(difference), axis=(1, 2, 3))

    def compute_output_shape(self, input_shape):
        return input_shape[0][:1]

    def get_config(self):
        return {**super().get_config(), "of": self.of}
