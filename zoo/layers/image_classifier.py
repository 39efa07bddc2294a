"""The class of the models that `zoo.nin` and `zoo.mlp` return."""

import keras

from zoo.pixel_range import RawPixels


@keras.saving.register_keras_serializable("zoo")
class ImageClassifier(RawPixels, keras.Model):
    """A functional model of raw pixels: (batch, h, w, c) in 0..255 -> logits (batch, classes).

    It is an ordinary functional model of Keras, with a warning for pixels in -1..1.
    """
