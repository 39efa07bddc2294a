"""Formulas of features: sizes, lengths, similarities, distances and angles."""

import math

from keras import ops


def flat(features):
    """Put the values of each example in one row: (batch, ...) -> (batch, values)."""
    batch, *sizes = ops.shape(features)
    return ops.reshape(features, (batch, math.prod(sizes)))


def unit(vectors):
    """Scale vectors to length 1. Zeros stay zeros and have no gradient."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    nonzero = square > 1e-24
    return ops.where(nonzero, vectors * ops.rsqrt(ops.where(nonzero, square, 1.0)), 0.0)


def pooled(features):
    """Return the mean over all places: (batch, ..., c) -> (batch, c)."""
    return ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))


def normalized(vectors):
    """Normalize each value over the batch, as batch normalization: (batch, n) -> (batch, n)."""
    centered = vectors - ops.mean(vectors, axis=0, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=0, keepdims=True)
    return centered * ops.rsqrt(variance + 1e-4)


def resized(features, size):
    """Resize features bilinearly, with antialiasing: (batch, [h,] w, c) -> (batch, *size, c)."""

    def triangles(*numbers):
        place, window, places, windows = (ops.cast(each, "float32") for each in numbers)
        scale = places / windows
        distance = ops.abs(place - ((window + 0.5) * scale - 0.5))
        return ops.relu(1 - distance / ops.maximum(scale, 1.0))

    return _rescaled(features, size, triangles)


def averaged(maps, size):
    """Average maps over windows: (batch, h, w, c) -> (batch, *size, c).

    Of n places, window i of m covers floor(i n / m) to ceil((i + 1) n / m) - 1. The windows overlap
    if m does not divide n, and repeat places if m is larger. It is `AdaptiveAvgPool2d` of PyTorch.
    """

    def covered(place, window, places, windows):
        start, stop = window * places // windows, -(-(window + 1) * places // windows)
        return ops.cast((place >= start) & (place < stop), "float32")

    return _rescaled(maps, size, covered)


def _rescaled(features, size, weights):
    """Replace the places along each axis by as many weighted means of them as `size` says.

    The sizes are numbers, or tensors in a graph that knows none. `weights` gets the indices of
    places (1, n) and windows (m, 1), and their numbers n and m, all whole -> (m, n), float32.
    """
    letters = "abcd"[: len(features.shape)]
    for axis, windows in enumerate(size, 1):
        places = ops.shape(features)[axis]
        if isinstance(places, int) and isinstance(windows, int) and places == windows:
            continue
        place, window = (ops.arange(each, dtype="int32") for each in (places, windows))
        weight = weights(place[None], window[:, None], places, windows)
        weight = weight / ops.sum(weight, axis=1, keepdims=True)
        result = letters.replace(letters[axis], "z")
        features = ops.einsum(f"z{letters[axis]},{letters}->{result}", weight, features)
    return features


def of_one_size(one, other):
    """Return both maps, averaged down to the smaller of their heights and widths."""
    sizes = zip(ops.shape(one)[1:3], ops.shape(other)[1:3], strict=True)
    known = (int, int)  # else a tensor
    size = [min(p) if tuple(map(type, p)) == known else ops.minimum(*p) for p in sizes]
    return averaged(one, size), averaged(other, size)


def flow(first, second):
    """Return the mean over places of the products of the channels of two maps.

    (batch, h, w, c), (batch, h', w', d) -> (batch, c, d). The larger map is averaged down first.
    """
    first, second = map(rows_of_places, of_one_size(first, second))
    places = ops.cast(ops.shape(first)[1], "float32")
    return ops.einsum("bpc,bpd->bcd", first, second) / places


def rows_of_places(maps):
    """Put the places of each map in rows: (batch, h, w, c) -> (batch, h w, c)."""
    batch, height, width, channels = ops.shape(maps)
    return ops.reshape(maps, (batch, height * width, channels))


def similarities(features):
    """Return the inner products of the examples, in rows of length 1.

    (batch, ...) -> (batch, batch).
    """
    features = flat(features)
    return unit(ops.matmul(features, ops.transpose(features)))


def products(vectors):
    """Return the inner products of the examples' differences from their mean.

    (batch, values) -> (batch, batch). They give distances and angles without an array of the size
    (batch, batch, values). The mean is taken away first, or a common offset would take the digits.
    """
    centered = vectors - ops.mean(vectors, axis=0, keepdims=True)
    return ops.matmul(centered, ops.transpose(centered))


def lengths(products):
    """Return the distances between examples from their `products`: (batch, batch), both.

    Examples that differ by less than a thousandth of their own lengths are at distance 0, and get
    no gradient: the products have no digit of such a distance. So does an example with itself.
    """
    square = ops.diagonal(products)
    scale = square[:, None] + square[None]
    square = scale - 2 * products
    apart = square > 1e-6 * scale
    # The square root has an infinite gradient at 0.
    return ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)


def distances(vectors):
    """Return the distances between examples, in units of the mean of those above 0.

    (batch, values) -> (batch, batch).
    """
    distance = lengths(products(vectors))
    count = ops.maximum(ops.sum(ops.cast(distance > 0, "float32")), 1.0)
    return ops.divide_no_nan(distance, ops.sum(distance) / count)


def cosines(vectors):
    """Return the cosines of the angles that examples form.

    (batch, values) -> (batch, batch, batch): at (i, j, k) the cosine between j - i and k - i.
    """
    product = products(vectors)
    distance = lengths(product)
    inverse = ops.divide_no_nan(1.0, distance)
    own = ops.diagonal(product)[:, None, None]
    # (j - i)(k - i) = j k - i j - i k + i i
    towards = product[None] - product[:, :, None] - product[:, None, :] + own
    return towards * inverse[:, :, None] * inverse[:, None, :]


def huber(difference):
    """Return the Huber loss of each difference: square / 2 below 1, linear from 1."""
    size = ops.abs(difference)
    return ops.where(size < 1, ops.square(difference) / 2, size - 0.5)


def correlations(one, other, axis):
    """Return the Pearson correlations of two arrays along an axis, which goes.

    Values along the axis that are all equal have the correlation 0, and a finite gradient.
    """
    one, other = (x - ops.mean(x, axis=axis, keepdims=True) for x in (one, other))
    squares = (ops.sum(ops.square(x), axis=axis) for x in (one, other))
    lengths = [ops.sqrt(ops.where(square > 1e-12, square, 1.0)) for square in squares]
    # The authors of DIST add 1e-8.
    return ops.sum(one * other, axis=axis) / (lengths[0] * lengths[1] + 1e-8)
