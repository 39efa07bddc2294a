"""Image files to pixels, in the graph of a server. They are the pixels that `zoo.data` trains on.

A server must not end, and must not be kept busy. So every check comes before the first operation
that could abort, and what a request may cost is counted over all its files before one is decoded.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

MAX_BYTES = 16 * 2**20
# Of all images of a request. Files that take longer for a pixel count their pixels more than once.
MAX_PIXELS = 4096 * 4096
# libjpeg decodes whole blocks of up to 32 pixels, and small images have other costs.
LEAST_SIDE = 32
MAX_SCANS = 500
SCANS_AT_ONCE = 16
# Of all PNG files of a request. One costs 15 us.
MAX_CHUNKS = 4096
MAX_SEGMENTS = 32
MAX_EXIF = 2**16
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
JPEG_START = b"\xff\xd8\xff"
# Chunks that decide how a PNG looks. Others are dropped unread: libpng would inflate their texts.
KEPT_CHUNKS = "[A-Z].{3}|tRNS|eXIf"
# Compressed bytes whose content fits into memory, whatever it is: deflate makes 1032 of one.
PIECE = 2**17
# PNG files of a request that have fewer compressed bytes together are decoded without a check.
UNCHECKED = 2**16
# More content than the pixels need, in bytes, is no offence up to here.
SURPLUS = 2**16
# The factors of Pillow, times 2^16.
GREY = (19595, 38470, 7471)
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_BLOCK = 2**18
# The channels of a PNG by its colour type: grey, -, RGB, palette, grey and alpha, -, RGBA.
_CHANNELS = (1, 4, 3, 1, 2, 4, 4)


def decode(encoded: tf.Tensor, image_shape: Sequence[int], resizing: str = "squash") -> tf.Tensor:
    """Decode and resize PNG or JPEG files -> (batch, height, width, channels) float32, upright.

    `encoded` is (batch,). Files that would cost more than a request may are refused before one is
    decoded. `resizing` is that of `zoo.data.load`: "squash", "crop" or "pad".
    """
    image = tf.TensorSpec(image_shape, tf.float32)
    files = _admitted(encoded, image_shape)
    # Each pixel may take 3 bytes while it is decoded, and 8 if it is transparent.
    return tf.map_fn(
        lambda file: _decoded(file, image_shape, resizing),
        files,
        parallel_iterations=4,
        fn_output_signature=image,
    )


def _admitted(encoded, image_shape):
    """Return the files to decode; refuse those that are none, and a request that costs too much."""
    count = tf.shape(encoded)[0]
    # What the files before have left of the request's pixels, chunks and unchecked bytes.
    left = tf.constant([MAX_PIXELS, MAX_CHUNKS, UNCHECKED], tf.int64)
    files = tf.TensorArray(tf.string, count, element_shape=())

    def step(index, left, files):
        file, left = _charged(encoded[index], left, image_shape)
        return index + 1, left, files.write(index, file)

    *_, files = tf.while_loop(
        lambda index, *_: index < count, step, (0, left, files), parallel_iterations=1
    )
    return files.stack()


def _charged(encoded, left, image_shape):
    """Return (the file to decode, what it leaves of the request's pixels, chunks and bytes).

    A megabyte can declare a gigabyte of pixels, so the size is read from the header first.
    """
    small = tf.strings.length(encoded) <= MAX_BYTES
    encoded = refuse_unless(small, f"an image of more than {MAX_BYTES} bytes", encoded)
    header, is_png = _header(encoded)
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START
    encoded = refuse_unless(is_png | is_jpeg, "not a PNG or JPEG image", encoded)

    def png_size():
        size = tf.strings.substr(header, len(PNG_START), 8)
        return tf.pad(tf.io.decode_raw(size, tf.int32, little_endian=False), [[0, 1]])

    shape = tf.cond(is_png, png_size, lambda: tf.image.extract_jpeg_shape(encoded))
    shape = tf.cast(shape, tf.int64)
    small = tf.reduce_all(shape[:2] > 0) & (tf.reduce_prod(shape[:2]) <= MAX_PIXELS)
    encoded = refuse_unless(small, f"an image of 0 or more than {MAX_PIXELS} pixels", encoded)
    # Pixels are counted as they are while the image is resized in one direction.
    area = tf.reduce_prod(tf.maximum(shape[:2], np.maximum(image_shape[:2], LEAST_SIDE)))
    return tf.cond(
        is_png,
        lambda: _charged_png(encoded, header, shape, area, left),
        lambda: _charged_jpeg(encoded, shape, area, left),
    )


def _charged_jpeg(encoded, shape, area, left):
    """Charge a JPEG file; see `_charged`.

    A scan takes ten bytes and makes libjpeg walk over all pixels once more, so scans are counted.
    """
    # Every scan begins with these two bytes, which no scan has within. Other data of a file have
    # them by chance once in 64 KiB, which is 256 times at most.
    scans = tf.size(_pieces(encoded, b"\xff\xda", MAX_SCANS + 1), tf.int64) - 1
    encoded = refuse_unless(scans <= MAX_SCANS, f"an image of more than {MAX_SCANS} scans", encoded)
    cost = area * tf.maximum(scans, SCANS_AT_ONCE) // SCANS_AT_ONCE
    return _paid(encoded, left, cost * tf.maximum(shape[2], 3) // 3, 0, 0)


def _charged_png(encoded, header, shape, area, left):
    """Charge a PNG file; see `_charged`. Return it without the chunks that do not show.

    libpng inflates all compressed data, also what is more than the pixels need. So these data are
    inflated here, of a growing part of the file, until they are known to be no more.
    """
    depth, colour = tf.unstack(tf.cast(tf.io.decode_raw(header, tf.uint8)[24:26], tf.int64), 2)
    channels = tf.constant(_CHANNELS, tf.int64)[tf.minimum(colour, len(_CHANNELS) - 1)]
    row = (shape[1] * depth * channels + 7) // 8
    # A row begins with a byte. An interlaced image has nearly twice as many rows.
    content = shape[0] * (row + 4) + SURPLUS
    encoded, compressed, chunks = _chunks(encoded, left[1])
    few = left[1] >= chunks
    encoded = refuse_unless(few, f"images of more than {MAX_CHUNKS} chunks together", encoded)
    size = tf.cast(tf.strings.length(compressed), tf.int64)
    unchecked = size <= left[2]
    pieces = tf.where(unchecked, tf.constant(0, tf.int64), (size + PIECE - 1) // PIECE)
    cost = tf.maximum(area, shape[0] * row // 4) * (4 + pieces) // 4
    _, has_alpha = _transparency(encoded, header, True)
    cost *= tf.where(has_alpha, tf.constant(2, tf.int64), 1)
    # Tables of codes are built from a few bytes, and take as long as three pixels for each.
    cost += tf.where(unchecked, tf.constant(0, tf.int64), size * (pieces + 1))
    encoded, left = _paid(encoded, left, cost, chunks, tf.where(unchecked, size, 0))

    def inflate(piece, _):
        part = tf.strings.substr(compressed, 0, tf.cast(piece, tf.int32) * PIECE)
        inflated = tf.strings.length(tf.io.decode_compressed(part, "ZLIB"))
        return piece + 1, tf.cast(inflated, tf.int64) <= content

    with tf.control_dependencies([encoded]):
        _, good = tf.while_loop(
            lambda piece, good: good & (piece <= pieces),
            inflate,
            (tf.constant(1, tf.int64), True),
            parallel_iterations=1,
        )
    message = "an image of more compressed data than its pixels need; save it again"
    return refuse_unless(good, message, encoded), left


def _paid(encoded, left, pixels, chunks, compressed):
    left -= tf.stack([pixels, tf.cast(chunks, tf.int64), tf.cast(compressed, tf.int64)])
    message = (
        f"images of more than {MAX_PIXELS} pixels together, some of them counted more than once; "
        "send fewer images, smaller ones, or JPEG files that are not progressive"
    )
    return refuse_unless(left[0] >= 0, message, encoded), left


def _chunks(encoded, most):
    """Return (the PNG of the chunks that show, its compressed data, how many chunks it had)."""
    length = tf.strings.length(encoded)
    kept, data = (tf.TensorArray(tf.string, 0, True, element_shape=()) for _ in range(2))

    def step(at, count, kept, data):
        head = tf.strings.substr(encoded, at, 8) + bytes(8)
        size = _big_endian(tf.strings.substr(head, 0, 4), tf.int32)
        size = tf.where((size < 0) | (size > length - at), length - at, size)
        name = tf.strings.substr(head, 4, 4)
        shows = tf.strings.regex_full_match(name, KEPT_CHUNKS)
        chunk = tf.strings.substr(encoded, at, tf.where(shows, size + 12, 0))
        content = tf.strings.substr(chunk, tf.minimum(8, tf.strings.length(chunk)), size)
        content = tf.where(name == b"IDAT", content, b"")
        at = tf.where(name == b"IEND", length, tf.minimum(at + size + 12, length))
        return at, count + 1, kept.write(count, chunk), data.write(count, content)

    _, count, kept, data = tf.while_loop(
        lambda at, count, *_: (at < length) & (count <= tf.cast(most, tf.int32)),
        step,
        (8, 0, kept, data),
        parallel_iterations=1,
    )
    joined = [tf.strings.reduce_join(texts.stack()) for texts in (kept, data)]
    return PNG_START[:8] + joined[0], joined[1], tf.cast(count, tf.int64)


def _transparency(encoded, header, is_png):
    """Return (whether a PNG file has a transparent colour, whether it has transparent pixels)."""
    has_key = is_png & (tf.size(_pieces(encoded, b"tRNS", 1)) > 1)
    colour = tf.strings.substr(header, len(PNG_START) + 9, 1)
    return has_key, has_key | (is_png & ((colour == b"\4") | (colour == b"\6")))


def _header(encoded):
    """Return (the first bytes of a PNG file, as many of them as are read; whether it is one)."""
    length = len(PNG_START) + 10
    header = tf.strings.substr(encoded, 0, length) + bytes(length)  # a part outside is an error
    is_png = tf.strings.substr(header, 0, len(PNG_START)) == PNG_START
    return header, is_png & (tf.strings.length(encoded) >= length)


def _decoded(encoded, image_shape, resizing):
    """Decode and resize one file that was admitted -> (height, width, channels) float32."""
    height, width, channels = image_shape
    header, is_png = _header(encoded)
    is_cmyk = tf.cond(is_png, lambda: False, lambda: tf.image.extract_jpeg_shape(encoded)[2] == 4)
    has_key, has_alpha = _transparency(encoded, header, is_png)
    depth_and_colour = tf.strings.substr(header, len(PNG_START) + 8, 2)
    readable = ~(has_key & (depth_and_colour == b"\x10\x02"))
    message = "an image of 16 bits with a transparent colour; save it with 8 bits"
    encoded = refuse_unless(readable, message, encoded)

    pixels = _pixels(_with_marker(encoded, is_cmyk), has_alpha, channels)
    orientation = _orientation(encoded, is_png)
    # Turning a small image is cheap, and it does not matter which comes first.
    size = tf.where(orientation > 4, (width, height), (height, width))
    pixels = _resized(pixels, size, resizing)
    return tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels)


def _resized(pixels, size, resizing):
    """Resize an image as `zoo.data.decoding.resize` does -> float32 (height, width, channels)."""
    if resizing == "pad":
        margins = _margins(size, tf.shape(pixels)[:2])
        pixels = tf.image.resize(pixels, size - 2 * margins, "bilinear", antialias=True)
        margins = tf.concat([margins, [0]], axis=0)
        return tf.pad(pixels, tf.stack([margins, margins], axis=1))
    if resizing == "crop":
        shape = tf.shape(pixels)[:2]
        first = _margins(shape, size)
        last = shape - first
        pixels = pixels[first[0] : last[0], first[1] : last[1]]
    return tf.image.resize(pixels, size, "bilinear", antialias=True)


def _margins(outer, inner):
    """Return what surrounds the largest part of `outer` with the aspect ratio of `inner`."""
    outer, inner = tf.cast(outer, tf.int64), tf.cast(inner, tf.int64)
    part = (2 * outer[::-1] * inner + inner[::-1]) // (2 * inner[::-1])  # rounded
    return tf.cast(tf.maximum(outer - tf.maximum(part, 1), 0) // 2, tf.int32)


def refuse_unless(condition: tf.Tensor, message: str | tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Return `value`, once the condition is known to hold."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def _pieces(encoded, separator, limit):
    """Return what lies between the separators; it is tf.strings.split without ragged tensors."""
    split = tf.raw_ops.StringSplitV2(input=encoded[tf.newaxis], sep=separator, maxsplit=limit)
    return split.values


def _with_marker(encoded, is_cmyk):
    """Return the file; inks get Adobe's marker, since all programs write them as Adobe does.

    A marker of the file's own comes later, so it counts.
    """

    def marked():
        return JPEG_START[:2] + _ADOBE + tf.strings.substr(encoded, 2, MAX_BYTES)

    return tf.cond(is_cmyk, marked, lambda: encoded)


def _pixels(encoded, has_alpha, channels):
    """Return the pixels of a file, (height, width, channels) uint8, on white."""

    def on_white():
        return _in_blocks(_whitened, tf.io.decode_png(encoded, channels=4), 3)

    def opaque():
        # It decodes PNG too. The default DCT is faster and differs by up to three grey levels.
        # A grey image may be asked for as RGB, but libpng and libjpeg have greys of their own.
        wanted = 3 if channels == 3 else 0
        return tf.io.decode_jpeg(encoded, channels=wanted, dct_method="INTEGER_ACCURATE")

    pixels = tf.cond(has_alpha, on_white, opaque)
    if channels == 3:
        return pixels
    is_colour = tf.shape(pixels)[2] == 3
    return tf.cond(is_colour, lambda: _in_blocks(_grey, pixels, 1), lambda: pixels)


def _whitened(rgba):
    colours, alpha = tf.split(tf.cast(rgba, tf.float32), (3, 1), axis=1)
    return tf.cast(255.5 - (255 - colours) * alpha / 255, tf.uint8)


def _grey(rgb):
    red, green, blue = (tf.cast(channel, tf.int32) for channel in tf.unstack(rgb, 3, axis=1))
    weighted = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return tf.cast(tf.bitwise.right_shift(weighted + 2**15, 16), tf.uint8)[:, tf.newaxis]


def _in_blocks(function, pixels, channels):
    """Calculate with some pixels at a time: 32 bits for all of them take hundreds of MB.

    Arguments:
        function: uint8 (n, channels of the pixels) -> uint8 (n, channels).
        pixels: uint8 (height, width, channels of the pixels).
        channels: how many the result has.
    """
    rows = tf.reshape(pixels, (-1, tf.shape(pixels)[2]))
    blocks = (tf.shape(rows)[0] + _BLOCK - 1) // _BLOCK
    results = tf.TensorArray(
        tf.uint8, blocks, infer_shape=False, element_shape=(None, channels), name="blocks"
    )

    def step(index, results):
        block = rows[index * _BLOCK : (index + 1) * _BLOCK]
        return index + 1, results.write(index, function(block))

    _, results = tf.while_loop(
        lambda index, _: index < blocks, step, (0, results), parallel_iterations=1
    )
    shape = tf.concat([tf.shape(pixels)[:2], [channels]], axis=0)
    return tf.reshape(results.concat(), shape)


def _turned(pixels, orientation):
    """Turn an image upright; `orientation` is that of EXIF, 1 to 8."""
    pixels = tf.cond(
        orientation > 4, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: tf.identity(pixels)
    )
    is_reversed = tf.constant([(False, False), (False, True), (True, True), (True, False)])
    return tf.reverse(pixels, tf.boolean_mask((0, 1), is_reversed[(orientation - 1) % 4]))


def _orientation(encoded, is_png):
    """Return the orientation in a file's EXIF data, 1 to 8; 1 if there is none that is valid."""
    # Most files have none of these bytes, and need no further look.
    pieces = _pieces(encoded, tf.where(is_png, b"eXIf", _EXIF), 1)

    def of_png():
        # Its length stands before the name of a chunk.
        length = _big_endian(tf.strings.substr(pieces[0], -4, 4), tf.int32)
        return tf.strings.substr(pieces[1], 0, tf.clip_by_value(length, 0, MAX_EXIF))

    def read():
        return _orientation_of(tf.cond(is_png, of_png, lambda: _exif_of_jpeg(encoded)))

    return tf.cond(tf.size(pieces) > 1, read, lambda: tf.constant(1))


def _big_endian(content, dtype):
    return tf.cast(tf.io.decode_raw(content, dtype, little_endian=False)[0], tf.int32)


def _exif_of_jpeg(encoded):
    """Return the EXIF data in the segments before the pixels of a JPEG; b"" without any."""

    def start(at):
        return tf.strings.substr(encoded, tf.minimum(at, tf.strings.length(encoded)), 10)

    def length(at):
        return _big_endian(tf.strings.substr(start(at) + bytes(4), 2, 2), tf.uint16)

    def is_exif(at):
        here = start(at)
        marker, name = tf.strings.substr(here, 0, 2), tf.strings.substr(here + bytes(10), 4, 6)
        return (marker == b"\xff\xe1") & (name == _EXIF)

    def is_other(at):
        here = start(at)
        marker = tf.strings.substr(here, 0, 2)
        ends = (marker == b"\xff\xda") | (marker == b"\xff\xd9")  # the pixels, and the end
        is_segment = (tf.strings.substr(here, 0, 1) == b"\xff") & (tf.strings.length(here) == 10)
        return is_segment & ~ends & ~is_exif(at)

    (at,) = tf.while_loop(
        is_other, lambda at: (at + 2 + length(at),), (2,), maximum_iterations=MAX_SEGMENTS
    )
    after = tf.minimum(at + 10, tf.strings.length(encoded))
    exif = tf.strings.substr(encoded, after, tf.maximum(length(at) - 8, 0))
    return tf.where(is_exif(at), exif, b"")


def _orientation_of(exif):
    """Return the orientation in EXIF data, 1 to 8; 1 if it is not valid.

    The data are a TIFF file: a header of 8 bytes that points to the number of tags and the tags,
    of 12 bytes each: number (2), type (2), count (4), value (4).
    """
    is_big = tf.strings.substr(exif, 0, 4) == b"MM\0*"
    is_little = tf.strings.substr(exif, 0, 4) == b"II*\0"
    available = tf.cast(tf.strings.length(exif), tf.int64)
    content = tf.cast(tf.io.decode_raw(exif + bytes(8), tf.uint8), tf.int64)

    def field(rows, first, size):
        powers = 256 ** np.arange(size)
        digits = rows[..., first : first + size]
        return tf.reduce_sum(digits * tf.where(is_big, powers[::-1], powers), axis=-1)

    first = tf.minimum(field(content, 4, 4), available)
    count = tf.minimum(field(content[first:], 0, 2), (available - first - 2) // 12)
    count = tf.maximum(count, 0)
    tags = tf.reshape(content[first + 2 :][: 12 * count], (-1, 12))
    kind = field(tags, 2, 2)
    # Whole numbers of 16 and 32 bits; the standard wants 3, and Pillow takes all of them.
    value = tf.where((kind == 3) | (kind == 8), field(tags, 8, 2), 0)
    value = tf.where((kind == 4) | (kind == 9) | (kind == 13), field(tags, 8, 4), value)
    value = tf.where(field(tags, 4, 4) == 1, value, 0)
    values = tf.boolean_mask(value, field(tags, 0, 2) == _ORIENTATION)
    last = tf.concat([[1], values], axis=0)[-1]
    valid = (is_big | is_little) & (last >= 1) & (last <= 8)
    return tf.cast(tf.where(valid, last, 1), tf.int32)
