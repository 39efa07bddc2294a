"""`mlp`: the fully connected nets of arXiv:1503.02531."""

import itertools
import math

import keras
from keras import layers

from zoo import memory
from zoo.layers import ImageClassifier


def mlp(
    input_shape=(28, 28, 1),
    classes=10,
    *,
    hidden=(1200, 1200),
    dropout=0.0,
    input_dropout=0.0,
    max_norm=None,
    name="mlp",
):
    """Build a multilayer perceptron: fully connected layers of rectified linear units on pixels.

    Raw images (batch, *input_shape), pixels 0..255 -> logits (batch, classes), float32

    The model is built, but not compiled. These layers have fixed names, so that
    `model.get_layer(name).output` returns their output: `hidden1`, `hidden2`, ... and `logits`.
    Hinton, Vinyals and Dean, arXiv:1503.02531, section 3, use such nets. Their teacher has
    `hidden=(1200, 1200)`, dropout and a `max_norm`, as in arXiv:1207.0580. Their student has
    `hidden=(800, 800)`, no dropout and no `max_norm`.

    Arguments:
        input_shape: the shape of an image, such as (height, width, channels).
        classes: the number of classes, 2 or more.
        hidden: the number of units of each hidden layer.
        dropout: the dropout rate after every hidden layer.
        input_dropout: the dropout rate of the pixels.
        max_norm: the largest L2 norm of the incoming weights of a hidden unit; None for no limit.

    Raises:
        ValueError: if there are fewer than 2 classes, if a layer has no units, or if a rate or norm
            is out of range.
    """
    if classes < 2:
        raise ValueError(f"A classifier needs at least 2 classes; received classes={classes}.")
    if any(units < 1 for units in hidden):
        raise ValueError(f"hidden is a list of numbers of units, 1 or more; received {hidden}.")
    for name_of_rate, rate in (("dropout", dropout), ("input_dropout", input_dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name_of_rate} is a rate in 0 <= rate < 1; received {rate}.")
    if max_norm is not None and not 0 < max_norm < math.inf:
        raise ValueError(f"max_norm is a positive number or None; received {max_norm}.")
    sizes = (math.prod(input_shape), *hidden, classes)
    weights = sum(inputs * units for inputs, units in itertools.pairwise(sizes))
    memory.require(
        4 * weights,
        f"The {weights:,} weights of a net with layers of {', '.join(map(str, sizes))}",
        "give fewer units",
    )
    images = x = keras.Input(input_shape, name="images", dtype="float32")
    x = layers.Rescaling(1 / 255, name="scale", dtype="float32")(x)
    x = layers.Flatten("channels_last", name="pixels")(x)
    if input_dropout:
        x = layers.Dropout(input_dropout, name="input_dropout")(x)
    for index, units in enumerate(hidden, 1):
        limit = keras.constraints.MaxNorm(max_norm, axis=0) if max_norm else None
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer="he_normal",
            kernel_constraint=limit,
            name=f"hidden{index}",
        )(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{index}")(x)
    x = layers.Dense(classes, name="logits", dtype="float32")(x)
    return ImageClassifier(images, x, name=name)
