"""The preprocessing of `keras.applications`, as a layer of the model that needs it."""

import keras
import numpy as np
from keras import layers, ops

from zoo.text import did_you_mean

# By mode: (x[reversed channels] - mean) / deviation, as keras.applications.imagenet_utils has it.
_MODES = {
    "tf": (False, (127.5,) * 3, (127.5,) * 3),
    "caffe": (True, (103.939, 116.779, 123.68), (1.0,) * 3),
    "torch": (
        False,
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (255 * 0.229, 255 * 0.224, 255 * 0.225),
    ),
    "none": (False, (0.0,) * 3, (1.0,) * 3),
}
# The mode of each module of keras.applications. Some have their preprocessing in the model.
_MODE_OF = {
    **dict.fromkeys(("resnet", "resnet50", "vgg16", "vgg19"), "caffe"),
    **dict.fromkeys(("inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2"), "tf"),
    **dict.fromkeys(("nasnet", "resnet_v2", "xception"), "tf"),
    "densenet": "torch",
    **dict.fromkeys(("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"), "none"),
    **{mode: mode for mode in ("caffe", "tf", "torch")},
}
NAMES = tuple(sorted(_MODE_OF))


def check_name(name):
    """Raise ValueError for a name without a preprocessing; the message lists all names."""
    if name not in _MODE_OF:
        hint = did_you_mean(str(name), NAMES, "")
        raise ValueError(
            f"There is no preprocessing {name!r}. {hint} The names are those of the modules of "
            f"keras.applications and their modes: {', '.join(NAMES)}."
        )


@keras.saving.register_keras_serializable("zoo")
class ApplicationPreprocessing(layers.Layer):
    """Prepares raw pixels for a model of `keras.applications`.

    (batch, height, width, 3), RGB in 0..255 -> the same shape, float32 under every dtype policy

    It computes what `keras.applications.<name>.preprocess_input` does, within the model, so that
    the model takes raw pixels. "tf" gives -1..1. "caffe" turns RGB into BGR and subtracts the mean
    of ImageNet. "torch" subtracts the mean and divides by the deviation. EfficientNet, ConvNeXt and
    MobileNetV3 have their preprocessing in the model; for these names the pixels stay as they are.

    Arguments:
        application: the name of a module, such as "resnet50", or "tf", "caffe" or "torch".

    Raises:
        ValueError: for another name; and, when it is built, for images that are not RGB.
    """

    def __init__(self, application, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_name(application)
        self.application = application

    def build(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] != 3:
            raise ValueError(
                f"The preprocessing {self.application!r} takes RGB images (batch, height, width, "
                f"3); received {tuple(input_shape)}."
            )

    def call(self, images):
        reverse, mean, deviation = _MODES[_MODE_OF[self.application]]
        images = ops.cast(images, "float32")
        if reverse:
            images = ops.flip(images, axis=-1)
        return (images - np.array(mean, "float32")) / np.array(deviation, "float32")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "application": self.application}
