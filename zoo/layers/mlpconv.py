"""The mlpconv layer of Network in Network (arXiv:1312.4400)."""

import keras
from keras import layers, ops

from zoo.freezing import freeze_held_layers
from zoo.layers.normalization import BatchNormalization


@keras.saving.register_keras_serializable("zoo")
class MLPConv(layers.Layer):
    """A small network that slides over the image: a k x k convolution, then 1 x 1 convolutions.

    (batch, height, width, channels) -> (batch, new height, new width, filters[-1])

    The 1 x 1 convolutions are the hidden layers of a multilayer perceptron that all receptive
    fields share ("cascaded cross channel parametric pooling"). An activation follows each
    convolution; a normalization, if there is one, stands between them. Network in Network,
    section 3.1, equation 2.

    Arguments:
        filters: the width of each convolution. The first block of the paper has (192, 160, 96).
        kernel_size: the kernel size of the first convolution. The others are 1 x 1.
        strides: the strides of the first convolution.
        padding: the padding of the first convolution.
        pool_size: the side of the windows of a max pooling right behind the first convolution, in
            front of its normalization and activation. 1 for none. The layers behind it then
            compute a quarter (for 2) of the places.
        residual: True adds the input to the maps of the last convolution, before its activation.
            The input then has their shape: He et al., arXiv:1512.03385.
        activation: the activation after each convolution.
        final_activation: the activation after the last convolution. "same" takes `activation`;
            None gives linear maps.
        kernel_initializer: one initializer for all convolutions, or a list with one for each.
        kernel_regularizer: the regularizer of all convolutions.
        normalization: None, "batch", or a Keras layer or layer class that keeps the shape of its
            input, such as `keras.layers.GroupNormalization(8)`. Each convolution gets its own copy,
            made from the configuration, in the dtype policy of this layer. "batch" is
            `zoo.BatchNormalization(momentum=0.9)`. With a normalization the convolutions have no
            biases.

    Raises:
        ValueError: if there are no filters, if the normalization is none of the above, if the list
            of initializers does not match the filters, or if the input of a residual layer has
            another shape than its output.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        *,
        strides=1,
        padding="same",
        pool_size=1,
        residual=False,
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
        prototype = normalization_layer(normalization)
        self.kernel_size, self.strides, self.padding = kernel_size, strides, padding
        self.pool_size, self.residual = pool_size, residual
        self.pool = None
        if pool_size > 1:
            self.pool = layers.MaxPooling2D(
                pool_size, data_format="channels_last", name="pool", dtype=self.dtype_policy
            )
        # A layer stands here as its class: Keras would save the layer itself as a part of this one.
        self.normalization = normalization if normalization in (None, "batch") else type(prototype)
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
                "convolutions; give one for all, or one for each."
            )
        self.kernel_initializer = [
            keras.initializers.get(initializer) for initializer in kernel_initializer
        ]
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

        self.convolutions = [self._convolution(index) for index in range(len(self.filters))]
        self.normalizations = [
            copy_of(prototype, name=f"{convolution.name}_norm", dtype=self.dtype_policy)
            for convolution in self.convolutions
            if prototype is not None
        ]

    def _convolution(self, index):
        first = index == 0
        return layers.Conv2D(
            self.filters[index],
            self.kernel_size if first else 1,
            strides=self.strides if first else 1,
            padding=self.padding,
            data_format="channels_last",
            use_bias=self.normalization is None,
            # A copy: two kernels that share a seeded initializer would start with equal values.
            kernel_initializer=self.kernel_initializer[index].clone(),
            kernel_regularizer=self.kernel_regularizer,
            name="conv" if first else f"cccp{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        if self.residual and tuple(input_shape) != self.compute_output_shape(input_shape):
            raise ValueError(
                "A residual MLPConv adds its input to its output, so both have one shape; "
                f"received {tuple(input_shape)}, which becomes "
                f"{self.compute_output_shape(input_shape)}."
            )
        for index, convolution in enumerate(self.convolutions):
            convolution.build(input_shape)
            input_shape = self._shape_behind(index, input_shape)
            if self.normalizations:
                self.normalizations[index].build(input_shape)
        freeze_held_layers(self)

    def call(self, inputs, training=None):
        x = inputs
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if index == 0 and self.pool:
                x = self.pool(x)
            if self.normalizations:
                x = self.normalizations[index](x, training=training)
            last = index == len(self.convolutions) - 1
            if last and self.residual:
                x = x + ops.cast(inputs, x.dtype)
            x = (self.final_activation if last else self.activation)(x)
        return x

    def _shape_behind(self, index, input_shape):
        shape = self.convolutions[index].compute_output_shape(input_shape)
        return self.pool.compute_output_shape(shape) if index == 0 and self.pool else shape

    def compute_output_shape(self, input_shape):
        for index in range(len(self.convolutions)):
            input_shape = self._shape_behind(index, input_shape)
        return input_shape

    def get_config(self):
        normalization = self.normalization
        # All normalizations may be frozen alone, as is usual when a trained net is trained on.
        frozen = self.trainable and not any(layer.trainable for layer in self.normalizations)
        if self.normalizations and (normalization != "batch" or frozen):
            normalization = keras.saving.serialize_keras_object(self.normalizations[0])
            # The shape of the first copy; the others have shapes of their own.
            normalization.pop("build_config", None)
        # Older nets lack these two, and keep their configuration and fingerprint.
        newer = {"pool_size": (self.pool_size, 1), "residual": (self.residual, False)}
        return {
            **super().get_config(),
            **{name: value for name, (value, default) in newer.items() if value != default},
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "activation": keras.activations.serialize(self.activation),
            "final_activation": keras.activations.serialize(self.final_activation),
            "kernel_initializer": [
                keras.initializers.serialize(initializer) for initializer in self.kernel_initializer
            ],
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "normalization": normalization,
        }

    @classmethod
    def from_config(cls, config):
        normalization = config.get("normalization")
        if isinstance(normalization, dict):
            normalization = keras.saving.deserialize_keras_object(normalization)
        return super().from_config({**config, "normalization": normalization})


def normalization_layer(normalization):
    """Return the layer that the normalizations of an MLPConv are copies of; None for no layer."""
    if normalization is None:
        return None
    if normalization == "batch":
        # Keras' momentum of 0.99 needs some 500 steps before evaluation can be trusted. An epoch of
        # a small data set has ten. Keras counts the layers without a name, so an unnamed one would
        # change the default names of the caller's own layers.
        return BatchNormalization(momentum=0.9, name="batch_normalization")
    if isinstance(normalization, type) and issubclass(normalization, layers.Layer):
        return normalization()
    if isinstance(normalization, layers.Layer):
        return normalization
    raise ValueError(
        'normalization is None, "batch", or a Keras layer or layer class, such as '
        f"keras.layers.GroupNormalization(8); received {normalization!r}."
    )


def copy_of(layer, **changes):
    """Return a layer of the same configuration, except for the changes."""
    return type(layer).from_config({**layer.get_config(), **changes})
