"""Preprocessing inside the model, so that training, evaluation and serving cannot differ.

The layers take raw pixels or each other's outputs, and compute in float32 under every dtype policy.
The constants of the first two and of the last are those of the pylearn2 scripts of maxout, which
Network in Network (arXiv:1312.4400, section 4) follows: global contrast normalization and ZCA
whitening for CIFAR, local contrast normalization for SVHN.
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
    """Subtracts from each image its mean over all values, divides by its norm, and scales it.

    (batch, height, width, channels) -> the same shape

    It is `global_contrast_normalize` of pylearn2.

    Arguments:
        scale: the L2 norm of every output image. 55 makes the root mean square of the 3,072 values
            of a CIFAR image 0.992.
        use_std: True divides by the standard deviation, with n - 1 in its denominator, instead of
            the norm.
        sqrt_bias: a number that is added to the squared norm or the variance.
        min_divisor: an image with a smaller divisor, such as one of a single grey, is not divided.
    """

    def __init__(self, scale=55.0, *, use_std=False, sqrt_bias=0.0, min_divisor=1e-8, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.use_std = float(scale), use_std
        self.sqrt_bias, self.min_divisor = float(sqrt_bias), float(min_divisor)

    def call(self, images):
        images = ops.cast(images, "float32")  # Keras does not cast images of whole numbers
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
    """Subtracts the mean image and multiplies by the inverse square root of the covariance.

    (batch, height, width, channels) -> the same shape

    The output is (x - mean) V diag(1 / sqrt(e)) V', where e and V are the eigenvalues and
    eigenvectors of X'X / n + `filter_bias` I. X are the n images of `adapt`, with their mean
    subtracted. The matrix has (height x width x channels)^2 values: 37.7 MB for CIFAR. It is
    `ZCA(filter_bias=0.1)` of pylearn2.

    Arguments:
        filter_bias: the number added to the variances.

    Raises:
        ValueError: if the layer is called before `adapt`.
    """

    def __init__(self, filter_bias=0.1, **kwargs):
        # "adapted" comes from a saved configuration, after which the weights are loaded.
        self.adapted = kwargs.pop("adapted", False)
        super().__init__(**kwargs)
        self.filter_bias = float(filter_bias)

    def build(self, input_shape):
        size = int(np.prod(input_shape[1:]))
        self.mean = self.add_weight((size,), "zeros", name="mean", trainable=False)
        self.matrix = self.add_weight((size, size), "zeros", name="matrix", trainable=False)

    def adapt(self, images):
        """Compute the mean and the matrix from images, as this layer will receive them.

        After a global contrast normalization, for example, give the images that it returns.

        Arguments:
            images: an array (examples, height, width, channels), or an iterable of such arrays or
                of pairs (images, labels).

        Raises:
            ValueError: if there are no images.
        """
        mean, covariance, shape = _moments(
            self, images, lambda batch: batch.reshape(len(batch), -1)
        )
        values, vectors = np.linalg.eigh(covariance + self.filter_bias * np.eye(len(mean)))
        if not self.built:
            self.build(shape)
            self.built = True
        self.mean.assign(mean.astype("float32"))
        self.matrix.assign(((vectors / np.sqrt(values)) @ vectors.T).astype("float32"))
        self.adapted = True

    def call(self, images):
        _require_adapted(self)
        images = ops.cast(images, "float32")
        x = ops.reshape(images, (ops.shape(images)[0], self.mean.shape[0]))
        return ops.reshape(ops.matmul(x - self.mean, self.matrix), ops.shape(images))

    def get_config(self):
        config = {"filter_bias": self.filter_bias, "adapted": self.adapted}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("zoo")
class LocalContrastNormalization(_Float32Layer):
    """Subtracts from each pixel the mean of its neighbours and divides by their deviation.

    (batch, height, width, channels) -> the same shape

    Each channel is normalized by itself. The neighbours are weighted by a Gaussian of deviation 2;
    outside the image they are zero. The divisor is at least the mean deviation of the channel. It
    is `LeCunLCN` of pylearn2.

    Arguments:
        kernel_size: the height and width of the neighbourhood, in pixels.
        threshold: the smallest divisor.
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
            return ops.depthwise_conv(x, self.window, padding="same", data_format="channels_last")

        images = ops.cast(images, "float32")
        centred = images - neighbourhood_mean(images)
        deviation = ops.sqrt(ops.maximum(neighbourhood_mean(ops.square(centred)), 0.0))
        floor = ops.mean(deviation, axis=(1, 2), keepdims=True)
        return centred / ops.maximum(ops.maximum(deviation, floor), self.threshold)

    def get_config(self):
        config = {"kernel_size": self.kernel_size, "threshold": self.threshold}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("zoo")
class PatchWhitening(_Float32Layer):
    """Turns each small patch of an image into values that do not correlate, of variance 1.

    (batch, height, width, channels) -> (batch, height - k + 1, width - k + 1, 2 k^2 channels)

    It is a convolution whose kernels are the eigenvectors of the patches' covariance, each divided
    by the square root of its eigenvalue, and the negatives of these kernels, so that a ReLU behind
    it passes both signs. `adapt` computes the kernels from training images; training does not
    change them. Behind such a layer a net learns in fewer steps: Jordan, arXiv:2404.00498, section
    3.2.

    Arguments:
        kernel_size: the side k of a patch, in pixels.
        filter_bias: the number added to the variances.

    Raises:
        ValueError: for a kernel size below 1 or a negative bias; if the layer is called before
            `adapt`.
    """

    def __init__(self, kernel_size=2, *, filter_bias=1e-4, **kwargs):
        self.adapted = kwargs.pop("adapted", False)
        super().__init__(**kwargs)
        if not (isinstance(kernel_size, int) and kernel_size > 0 and filter_bias >= 0):
            raise ValueError(
                f"kernel_size is a whole number >= 1, and filter_bias a number >= 0; received "
                f"{kernel_size!r} and {filter_bias!r}."
            )
        self.kernel_size, self.filter_bias = kernel_size, float(filter_bias)

    def build(self, input_shape):
        size = self.kernel_size
        kernels = 2 * size * size * input_shape[-1]
        shape = (size, size, input_shape[-1], kernels)
        self.kernel = self.add_weight(shape, "zeros", name="kernel", trainable=False)
        self.bias = self.add_weight((kernels,), "zeros", name="bias", trainable=False)

    def adapt(self, images):
        """Compute the kernels from images, as this layer will receive them.

        Arguments:
            images: as `ZCAWhitening.adapt` takes them. Some thousand images suffice.

        Raises:
            ValueError: if there are no images.
        """
        mean, covariance, shape = _moments(self, images, self._patches)
        values, vectors = np.linalg.eigh(covariance)
        kernel = vectors / np.sqrt(np.maximum(values, 0) + self.filter_bias)
        kernel = np.concatenate([kernel, -kernel], axis=1)
        if not self.built:
            self.build(shape)
            self.built = True
        self.kernel.assign(kernel.reshape(self.kernel.shape).astype("float32"))
        self.bias.assign(-(mean @ kernel).astype("float32"))
        self.adapted = True

    def _patches(self, images):
        """Return all patches of images as rows, in the order of the values of a kernel."""
        size = self.kernel_size
        windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * images.shape[-1])

    def call(self, images):
        _require_adapted(self)
        images = ops.cast(images, "float32")
        return ops.conv(images, self.kernel, data_format="channels_last") + self.bias

    def compute_output_shape(self, input_shape):
        height, width = (n and n - self.kernel_size + 1 for n in input_shape[1:3])
        return (input_shape[0], height, width, 2 * self.kernel_size**2 * input_shape[-1])

    def get_config(self):
        config = {key: getattr(self, key) for key in ("kernel_size", "filter_bias", "adapted")}
        return {**super().get_config(), **config}


def _moments(layer, images, rows_of):
    """Return mean and covariance of the rows that `rows_of` makes of images, and their shape.

    Arguments:
        layer: the layer that adapts.
        images: an array of images, or an iterable of such arrays or of pairs (images, labels).
        rows_of: a function, images (batch, height, width, channels) -> (rows, values).
    """
    batches = [images] if hasattr(images, "shape") else images
    count, total, outer, shape = 0, 0.0, 0.0, None
    for batch in batches:
        batch = batch[0] if isinstance(batch, (tuple, list)) else batch
        batch = np.asarray(ops.convert_to_numpy(batch))
        shape = (None, *batch.shape[1:])
        for start in range(0, len(batch), 1000):
            x = rows_of(batch[start : start + 1000].astype("float64"))
            count, total, outer = count + len(x), total + x.sum(0), outer + x.T @ x
    if not count:
        raise ValueError(f"{type(layer).__name__}.adapt received no images; it needs at least one.")
    mean = total / count
    return mean, outer / count - np.outer(mean, mean), shape


def _require_adapted(layer):
    if not layer.adapted:
        raise ValueError(
            f"The {type(layer).__name__} layer {layer.name!r} was called before adapt; call "
            "adapt(training_images) first, with the images as this layer will receive them."
        )
