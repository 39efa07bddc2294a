"""The mlpconv layer of Network in Network (arXiv:1312.4400)."""

import keras
from keras import layers

from zoo.layers.normalization import BatchNormalization


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
