"""Preprocessing inside the model, so that training, evaluation and serving cannot differ.

All three layers take raw pixels or each other's outputs, (batch, height, width, channels) to the
same shape, and compute in float32 under every dtype policy. Their constants are those of maxout's
pylearn2 scripts, which Network in Network (arXiv:1312.4400, section 4) follows: global contrast
normalization and ZCA whitening for CIFAR, local contrast normalization for SVHN.
"""

import keras
import numpy as np
from keras import layers, ops


class _Float32Layer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("zoo")
class GlobalContrastNormalization(_Float32Layer):
    """Subtract each image's mean over all its values and divide by its norm, then scale.

    (batch, height, width, channels) -> the same shape; the L2 norm of every image is `scale`: 55
    for CIFAR, which makes the root mean square of its 3,072 values 0.992. With `use_std` the
    standard deviation (n - 1 in its denominator) takes the place of the norm. An image whose
    divisor is below `min_divisor`, one of a single grey, is not divided.

    pylearn2, `global_contrast_normalize`.
    """

    def __init__(self, scale=55.0, *, use_std=False, sqrt_bias=0.0, min_divisor=1e-8, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.use_std = float(scale), use_std
        self.sqrt_bias, self.min_divisor = float(sqrt_bias), float(min_divisor)

    def call(self, images):
        images = ops.cast(images, "float32")  # pixels may be whole numbers, which Keras leaves
        x = ops.reshape(images, (ops.shape(images)[0], -1))
        x = x - ops.mean(x, axis=1, keepdims=True)
        power = ops.sum(ops.square(x), axis=1, keepdims=True)
        if self.use_std:
            power = power / (np.prod(images.shape[1:]) - 1)
        divisor = ops.sqrt(self.sqrt_bias + power) / self.scale
        x = x / ops.where(divisor < self.min_divisor, 1.0, divisor)
        return ops.reshape(x, ops.shape(images))

    def get_config(self):
        config = {key: getattr(self, key) for key in ("scale", "use_std", "sqrt_bias")}
        return {**super().get_config(), **config, "min_divisor": self.min_divisor}


@keras.saving.register_keras_serializable("zoo")
class ZCAWhitening(_Float32Layer):
    """Subtract the mean image and multiply by the inverse square root of the covariance.

    (batch, height, width, channels) -> the same shape: (x - mean) V diag(1 / sqrt(e)) V', with e
    and V the eigenvalues and vectors of X'X / n + `filter_bias` I over the images given to
    `adapt`, which come as the layer will see them: after global contrast normalization, if that
    stands before it. The matrix has (height x width x channels)^2 values: 37.7 MB for CIFAR.

    pylearn2, `ZCA(filter_bias=0.1)`.

    Raises:
        ValueError: when called before `adapt`.
    """

    def __init__(self, filter_bias=0.1, **kwargs):
        # Only a saved configuration says so: its weights follow from the file.
        self.adapted = kwargs.pop("adapted", False)
        super().__init__(**kwargs)
        self.filter_bias = float(filter_bias)

    def build(self, input_shape):
        size = int(np.prod(input_shape[1:]))
        self.mean = self.add_weight((size,), "zeros", name="mean", trainable=False)
        self.matrix = self.add_weight((size, size), "zeros", name="matrix", trainable=False)

    def adapt(self, images):
        """Fit mean and matrix to an array of images, or to batches, with or without labels."""
        batches = [images] if hasattr(images, "shape") else images
        count, total, outer, shape = 0, 0.0, 0.0, None
        for batch in batches:
            batch = batch[0] if isinstance(batch, (tuple, list)) else batch
            batch = np.asarray(ops.convert_to_numpy(batch), "float64")
            shape = (None, *batch.shape[1:])
            x = batch.reshape(len(batch), -1)
            count, total, outer = count + len(x), total + x.sum(0), outer + x.T @ x
        if not count:
            raise ValueError("ZCAWhitening.adapt received no images.")
        mean = total / count
        covariance = outer / count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance + self.filter_bias * np.eye(len(mean)))
        if not self.built:
            self.build(shape)
            self.built = True
        self.mean.assign(mean.astype("float32"))
        self.matrix.assign(((vectors / np.sqrt(values)) @ vectors.T).astype("float32"))
        self.adapted = True

    def call(self, images):
        if not self.adapted:
            raise ValueError(
                f"{self.name!r} was called before it knew any image; call "
                "adapt(training_images) first, with the images as this layer will see them."
            )
        images = ops.cast(images, "float32")
        x = ops.reshape(images, (ops.shape(images)[0], self.mean.shape[0]))
        return ops.reshape(ops.matmul(x - self.mean, self.matrix), ops.shape(images))

    def get_config(self):
        config = {"filter_bias": self.filter_bias, "adapted": self.adapted}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("zoo")
class LocalContrastNormalization(_Float32Layer):
    """Subtract from each pixel the Gaussian mean of its neighbourhood and divide by its deviation.

    (batch, height, width, channels) -> the same shape, each channel by itself. The deviation is
    nowhere taken smaller than its mean over the channel, nor than `threshold`. Outside the image
    is zero, as in pylearn2's `LeCunLCN` (Gaussian of deviation 2 in a 7 x 7 window).
    """

    def __init__(self, kernel_size=7, *, threshold=1e-4, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size, self.threshold = int(kernel_size), float(threshold)

    def build(self, input_shape):
        offsets = np.arange(self.kernel_size) - self.kernel_size // 2
        window = np.exp(-(offsets**2) / (2.0 * 2.0**2))
        window = np.outer(window, window) / window.sum() ** 2
        self.window = np.repeat(window[:, :, None, None], input_shape[-1], 2).astype("float32")

    def call(self, images):
        def neighbourhood_mean(x):
            return ops.depthwise_conv(x, self.window, padding="same")

        images = ops.cast(images, "float32")
        centred = images - neighbourhood_mean(images)
        deviation = ops.sqrt(ops.maximum(neighbourhood_mean(ops.square(centred)), 0.0))
        floor = ops.mean(deviation, axis=(1, 2), keepdims=True)
        return centred / ops.maximum(ops.maximum(deviation, floor), self.threshold)

    def get_config(self):
        config = {"kernel_size": self.kernel_size, "threshold": self.threshold}
        return {**super().get_config(), **config}
