"""Single images to one array, in memory or on disk."""

import itertools

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data import packs
from zoo.data.checks import DataError, as_uint8
from zoo.data.decoding import resize

# Beyond it images stay on disk: training and evaluation hold up to three copies in memory.
STREAM_BYTES = 2 * 2**30


def stack(examples, count, image_size, stream, origin, skipped):
    """Triples (where, image, label) -> images uint8 (n, h, w, c), labels (n,), what was skipped.

    There are `count` of them, less those that they skip. `origin` is a pair of a name and of a
    function that describes where they come from, for the pack that they go to if streamed.
    """
    rows = _alike(examples, image_size)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{origin[0]}: no images.")
    rows = itertools.chain([first], rows)
    shape, size = first[0].shape, count * first[0].nbytes
    if stream or (stream is None and size > STREAM_BYTES):
        name, describe = origin
        return packs.pack(name, describe(), rows, count, shape, skipped)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int64)
    found = 0
    for found, (image, label) in enumerate(rows, 1):
        images[found - 1], labels[found - 1] = image, label
    return images[:found], labels[:found], skipped


def _alike(examples, image_size):
    """Yield (image, label): uint8 images that all have the shape of the first."""
    shape = first = None
    for where, image, label in examples:
        image = as_uint8(image, where)
        if image_size:
            image = resize(image, image_size)
        if shape is None:
            shape, first = image.shape, where
        if image.shape != shape:
            raise DataError(
                f"{where} has the shape {image.shape} and {first} {shape}: (height, "
                "width, channels) must agree. For sizes, give image_size=(height, width), at the "
                "command line --image-size HEIGHT WIDTH; for "
                "channels, save all images as grey or all as RGB."
            )
        yield image, label
