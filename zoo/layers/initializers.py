"""Initial weights under which a layer passes its input on."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("zoo")
class Dirac(keras.initializers.VarianceScaling):
    """A convolution kernel whose first filters pass one input channel each, and change nothing.

    Filter i, for every i below the smaller number of channels, is 1 at the centre of channel i and
    0 elsewhere. Further filters are uniform in -1..1 / sqrt(height x width x input channels).
    Information then passes a new net from its first to its last layer: Jordan, arXiv:2404.00498,
    section 3.3; `torch.nn.init.dirac_`.

    Arguments:
        seed: the seed of the further filters, or a `keras.random.SeedGenerator`.

    Raises:
        ValueError: if it is called with a shape that is not (height, width, input, output).
    """

    def __init__(self, seed=None):
        super().__init__(1 / 3, "fan_in", "uniform", seed)

    def __call__(self, shape, dtype=None):
        if len(shape) != 4:
            raise ValueError(
                f"Dirac makes kernels (height, width, input, output); received the shape {shape}."
            )
        random = super().__call__(shape, dtype)
        passed = np.arange(min(shape[-2:]))
        identity = np.zeros(shape, "float32")
        identity[shape[0] // 2, shape[1] // 2, passed, passed] = 1
        first = np.arange(shape[-1]) < len(passed)
        return ops.where(first, ops.cast(identity, random.dtype), random)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
