"""What the tests of serving share: a small net, images, and the answers in NumPy."""

import io

import keras
import numpy as np
from keras import layers
from oracles import softmax
from PIL import Image

GREY, COLOUR = (8, 8, 1), (12, 12, 3)
LABELS = ["ant", "bée", "cat", "dog", "elk", "fox", "gnu"]


def network(image=COLOUR, classes=7, dtype="float32", seed=3):
    """A small net with every layer that behaves otherwise in training, and weights that matter."""
    keras.utils.set_random_seed(seed)
    images = x = keras.Input(image, name="pixels")
    x = layers.Rescaling(1 / 255, dtype=dtype)(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", dtype=dtype, name="conv")(x)
    x = layers.BatchNormalization(dtype=dtype)(x)
    x = layers.Dropout(0.5, dtype=dtype)(x)
    x = layers.Conv2D(classes, 1, dtype=dtype)(x)
    model = keras.Model(images, layers.GlobalAveragePooling2D(dtype=dtype, name="mean")(x))
    random = np.random.default_rng(4)
    model.set_weights([random.uniform(0.2, 1.5, w.shape) * (w + 0.1) for w in model.get_weights()])
    return model


def pixels(image=COLOUR, count=5, seed=5):
    return np.random.default_rng(seed).integers(0, 256, (count, *image), "uint8")


def probabilities_of(model, images):
    return softmax(model(images.astype("float32"), training=False))


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, form, **options)
    return file.getvalue()
