"""A net of `keras.applications` as the trunk: raw pixels in, a pooling head with maps on top."""

import functools
import inspect
import types
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers

from zoo.layers import GlobalAveragePoolingHead, ImageClassifier
from zoo.text import did_you_mean, one_line


def backbone(name, input_shape, classes, *, weights="imagenet"):
    """Build an image classifier on a net of `keras.applications`.

    Raw images (batch, *input_shape), pixels 0..255 -> logits (batch, classes), float32

    The net's preprocessing is part of the model. The layers keep the names that they have in
    `keras.applications`, so that companions and knowledge find them. The head is a
    `GlobalAveragePoolingHead`: its layers `class_maps` and `logits` are those of a `nin`.

    Arguments:
        name: the name of the net, such as "mobilenet_v2", "MobileNetV2" or "efficientnet_b0".
        input_shape: (height, width, 3). The nets have a least size, 32 for most.
        classes: the number of classes, 2 or more.
        weights: "imagenet" has Keras download them. The path of a weights file reads it: one that
            `save_weights` wrote for the net with `include_top=False`. None gives random weights.

    Raises:
        ValueError: if there is no such net or file, if the shape does not suit the net, or if the
            weights cannot be had or do not fit.
    """
    build, module = _find(name)
    if classes < 2:
        raise ValueError(f"A classifier needs at least 2 classes; received classes={classes}.")
    if tuple(input_shape[2:]) != (3,):
        raise ValueError(f"{name} takes (height, width, 3); received {tuple(input_shape)}.")
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise ValueError(f'The weights are "imagenet" or a file; there is no {str(weights)!r}.')
    images = keras.Input(input_shape, name="images", dtype="float32")
    net = _built(build, name, tuple(input_shape), weights, _preprocessed(images, module))
    head = GlobalAveragePoolingHead(classes)
    logits = head.average(head.class_maps(net.output))
    return ImageClassifier(images, logits, name=net.name)


def _find(name):
    nets = _nets()
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in nets:
        hint = did_you_mean(plain, nets, f"There are {', '.join(nets)}.")
        raise ValueError(f"keras.applications has no net {name!r}. {hint}")
    return nets[plain]


@functools.cache
def _nets():
    """Return {plain name: (function that builds it, module with its preprocessing)}."""
    nets = {}
    for module in vars(keras.applications).values():
        if isinstance(module, types.ModuleType) and hasattr(module, "preprocess_input"):
            for name, build in vars(module).items():
                if _builds(build):
                    nets[name.lower()] = (build, module)
    for name, build in vars(keras.applications).items():
        if _builds(build):  # MobileNetV3 is in no module; it has its preprocessing inside
            nets.setdefault(name.lower(), (build, keras.applications.mobilenet_v3))
    return dict(sorted(nets.items()))


def _builds(value):
    return inspect.isfunction(value) and "include_top" in inspect.signature(value).parameters


def _preprocessed(images, module):
    """Return the pixels as the net was trained on them, by layers of Keras.

    `preprocess_input` of a module may reverse the channels, and then scales and shifts each. Its
    answers to a few pixels say how. Most nets differ here; some do all of it inside.
    """
    probes = np.zeros((1, 4, 1, 3), "float32")  # black, then red, green and blue
    probes[0, 1:, 0] = 255 * np.eye(3)
    answers = module.preprocess_input(probes.copy(), data_format="channels_last")
    black, *colours = np.asarray(answers)[0, :, 0].astype("float64")
    matrix = (np.stack(colours) - black) / 255  # row: channel in, column: channel out
    reversed_ = abs(matrix[0, 2]) > abs(matrix[0, 0])
    if reversed_:
        images, matrix = keras.ops.flip(images, axis=-1), matrix[::-1]
    scale, offset = np.diag(matrix).tolist(), black.tolist()
    if np.allclose(scale, 1) and np.allclose(offset, 0):
        return images
    return layers.Rescaling(scale, offset, name="scale", dtype="float32")(images)


def _built(build, name, input_shape, weights, pixels):
    """Return the net without its top, on top of `pixels`, with its weights.

    A file is read into a net that stands alone, as it was written. Some nets have one more layer
    for "imagenet", so Keras must know that these are the weights.
    """
    arguments = {"include_top": False, "input_shape": input_shape}
    in_file = weights not in (None, "imagenet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each layer that does not fit has one, and some sizes
        try:
            net = build(weights=None if in_file else weights, input_tensor=pixels, **arguments)
            if in_file:
                net.set_weights(build(weights=str(weights), **arguments).get_weights())
        except Exception as error:  # Keras raises many types: a size, no network, another file
            raise ValueError(
                f"{name} for images of {input_shape} with the weights {str(weights)!r} cannot be "
                f"built: {one_line(error):.300}"
            ) from error
    return net
