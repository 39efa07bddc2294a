"""Formulas of features: sizes, lengths, similarities, distances and angles."""

import math

from keras import ops


def flat(features):
    """Put the values of each example in one row: (batch, ...) -> (batch, values)."""
    return ops.reshape(features, (ops.shape(features)[0], math.prod(features.shape[1:])))


def unit(vectors):
    """Scale vectors to length 1. Zeros stay zeros and have no gradient."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    nonzero = square > 1e-24
    return ops.where(nonzero, vectors * ops.rsqrt(ops.where(nonzero, square, 1.0)), 0.0)


def resized(maps, size):
    """Resize maps to (height, width): (batch, h, w, c) -> (batch, height, width, c)."""
    return ops.image.resize(
        maps, size, interpolation="bilinear", antialias=True, data_format="channels_last"
    )


def of_one_size(one, other):
    """Return both maps, the larger resized to the height and width of the smaller."""
    size = tuple(map(min, one.shape[1:3], other.shape[1:3]))
    return [m if tuple(m.shape[1:3]) == size else resized(m, size) for m in (one, other)]


def flow(first, second):
    """Return the mean over places of the products of the channels of two maps.

    (batch, h, w, c), (batch, h', w', d) -> (batch, c, d). The larger map is resized first.
    """
    first, second = of_one_size(first, second)
    places = first.shape[1] * first.shape[2]
    return ops.einsum("bhwc,bhwd->bcd", first, second) / places


def similarities(features):
    """Return the inner products of the examples, in rows of length 1.

    (batch, ...) -> (batch, batch).
    """
    features = flat(features)
    return unit(ops.matmul(features, ops.transpose(features)))


def distances(vectors):
    """Return the distances between examples, in units of the mean of those above 0.

    (batch, values) -> (batch, batch).
    """
    difference = vectors[:, None] - vectors[None]
    square = ops.sum(ops.square(difference), axis=-1)
    apart = square > 0
    # The square root has an infinite gradient at 0.
    distance = ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)
    count = ops.maximum(ops.sum(ops.cast(apart, "float32")), 1.0)
    return ops.divide_no_nan(distance, ops.sum(distance) / count)


def cosines(vectors):
    """Return the cosines of the angles that examples form.

    (batch, values) -> (batch, batch, batch): at (i, j, k) the cosine between j - i and k - i.
    """
    towards = unit(vectors[None] - vectors[:, None])
    return ops.einsum("ijn,ikn->ijk", towards, towards)


def huber(difference):
    """Return the Huber loss of each difference: square / 2 below 1, linear from 1."""
    size = ops.abs(difference)
    return ops.where(size < 1, ops.square(difference) / 2, size - 0.5)
