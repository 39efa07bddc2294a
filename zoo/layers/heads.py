"""The classifier of Network in Network, and the classifiers and decoders of hidden layers."""

import keras
from keras import layers, ops

from zoo.freezing import freeze_held_layers
from zoo.layers.mlpconv import MLPConv


@keras.saving.register_keras_serializable("zoo")
class GlobalAveragePoolingHead(layers.Layer):
    """Computes one confidence map for each class; the mean of a map is the logit of its class.

    (batch, height, width, channels) -> (batch, classes)

    The logits are float32 under every dtype policy. The 1 x 1 convolution `class_maps` and the
    pooling `average` are layers of their own: call `class_maps` alone for the confidence maps,
    (batch, height, width, classes). Network in Network, section 3.2.

    Arguments:
        classes: the number of classes.
        activation: the activation of the confidence maps. None gives linear maps; the paper's
            released code has "relu".
        kernel_initializer: the initializer of the 1 x 1 convolution.
        kernel_regularizer: the regularizer of the 1 x 1 convolution.
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
            data_format="channels_last",
            activation=activation,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            name="class_maps",
            dtype=self.dtype_policy,
        )
        # A mean that is computed in bfloat16 has only two decimal digits.
        self.average = layers.GlobalAveragePooling2D(
            "channels_last", name="logits", dtype="float32"
        )

    def build(self, input_shape):
        self.class_maps.build(input_shape)
        self.average.build(self.class_maps.compute_output_shape(input_shape))
        freeze_held_layers(self)

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
    """The local classifier of a hidden layer; its loss is the layer's companion objective.

    (batch, height, width, channels) -> (batch, classes)

    It computes in float32 under every dtype policy. Deeply-Supervised Nets, section 2.2.

    Arguments:
        classes: the number of classes.
        form: "pool" averages each map and classifies the means, with channels x classes weights.
            "dense" classifies the flattened map, as the released code does. That takes
            height x width times as many weights: 2.58 million on the three taps of the CIFAR-10
            net, which is 2.7 times the net itself. "conv" puts an mlpconv layer of its own in front
            of "pool": a 3 x 3 convolution of stride 2 and a 1 x 1 convolution, of as many channels
            as the map has, with batch normalization. Be Your Own Teacher, arXiv:1905.08094, and
            Deeply-supervised Knowledge Synergy, arXiv:1906.00675, have such heads.
        kernel_initializer: the initializer of the classifier.
        kernel_regularizer: the regularizer of the classifier, and of the convolutions of "conv".

    Raises:
        ValueError: if the form is unknown, or if the input is not a map.
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
        if form not in ("pool", "dense", "conv"):
            raise ValueError(
                f'The form of a CompanionHead is "pool", "dense" or "conv"; received {form!r}.'
            )
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.form, self.mlpconv = form, None
        reduce = layers.Flatten if form == "dense" else layers.GlobalAveragePooling2D
        self.features = reduce("channels_last", name="features", dtype="float32")
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
                "expects maps, (batch, height, width, channels). Attach it to a convolution."
            )
        if self.form == "conv":
            self.mlpconv = MLPConv(
                [input_shape[-1]] * 2,
                3,
                strides=2,
                normalization="batch",
                kernel_regularizer=self.classifier.kernel_regularizer,
                name="mlpconv",
                dtype="float32",
            )
            self.mlpconv.build(input_shape)
            input_shape = self.mlpconv.compute_output_shape(input_shape)
        self.features.build(input_shape)
        self.classifier.build(self.features.compute_output_shape(input_shape))
        freeze_held_layers(self)

    def call(self, inputs, training=None):
        if self.mlpconv:
            inputs = self.mlpconv(inputs, training=training)
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
    """The decoder of a hidden layer: a companion that reconstructs an earlier map, without labels.

    [(batch, h, w, channels) hidden map, (batch, height, width, c) earlier map] -> (batch,)

    The output is the mean squared error of the reconstruction. `decode(hidden)` returns the
    reconstruction itself, (batch, height, width, c): a bilinear resize and a 3 x 3 convolution. The
    layer computes in float32 under every dtype policy. The earlier map receives no gradient. Zhang,
    Lee and Lee, arXiv:1606.06582 (layer-wise decoding).

    Arguments:
        of: the name of the layer whose output is reconstructed, such as the layer below. With None
            the images are reconstructed, as pixel values / 255.

    Raises:
        ValueError: if one of the inputs is not a map.
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
            earlier[-1],
            3,
            padding="same",
            data_format="channels_last",
            name="convolution",
            dtype="float32",
        )
        self.convolution.build((*hidden[:1], *self.size, hidden[-1]))
        freeze_held_layers(self)

    def decode(self, hidden):
        """Reconstruct the earlier map: (batch, h, w, channels) -> (batch, height, width, c)."""
        resized = ops.image.resize(
            hidden, self.size, interpolation="bilinear", data_format="channels_last"
        )
        return self.convolution(resized)

    def call(self, inputs):
        hidden, earlier = inputs
        difference = self.decode(hidden) - ops.stop_gradient(earlier)
        return ops.mean(ops.square(difference), axis=(1, 2, 3))

    def compute_output_shape(self, input_shape):
        return input_shape[0][:1]

    def get_config(self):
        return {**super().get_config(), "of": self.of}
