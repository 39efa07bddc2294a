"""The graph that a server runs. It answers rightly, or refuses in plain words.

A server does not check an input signature. So every check of an input is an operation of the graph,
and comes before the first operation that could abort.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 4096 * 4096
MAX_SCANS = 500
IMAGE_FEATURE = "image/encoded"
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
JPEG_START = b"\xff\xd8\xff"


def module(
    model: keras.Model, labels: Sequence[str], top_k: int, exits: keras.Model | None = None
) -> tuple[tf.Module, dict[str, Any]]:
    """Return (the module to save, its signatures by name).

    The module holds the weights alone: no optimizer, and nothing of Keras.

    Arguments:
        model: maps pixels (batch, h, w, c) to logits.
        labels: the label names, in the order of the classes.
        top_k: how many classes an answer names.
        exits: maps the same pixels to {depth: logits}. It becomes a signature of its own.
    """
    height, width, channels = model.input_shape[1:]
    images_spec = tf.TensorSpec((None, height, width, channels), tf.float32, "images")
    signatures = _answering(model, labels, top_k, images_spec)
    if exits is not None:
        signatures["exits"] = _every_exit(exits, images_spec)
    saved = tf.Module()
    saved.weights = [weight.value for weight in (exits or model).weights]
    return saved, signatures


def _answering(model, labels, top_k, images_spec):
    """Return the three signatures that answer with the output of the model."""
    height, width, channels = images_spec.shape[1:]

    def answer(images):
        probabilities = _softmax(model(_checked(images), training=False))
        scores, ids = tf.math.top_k(probabilities, min(top_k, len(labels)))
        # The batch is the first dimension of every output. Otherwise a server neither batches
        # requests nor answers in rows.
        return {
            "probabilities": probabilities,
            "class_ids": ids,
            "classes": tf.gather(tf.constant(labels), ids),
            "scores": scores,
        }

    def answer_bytes(image_bytes):
        def decode(encoded):
            pixels = _decode(encoded, channels)
            return tf.image.resize(pixels, (height, width), "bilinear", antialias=True)

        image = tf.TensorSpec(images_spec.shape[1:], tf.float32)
        # Each image may have 50 MB of pixels while it is decoded.
        images = tf.map_fn(decode, image_bytes, parallel_iterations=4, fn_output_signature=image)
        return answer(images)

    @tf.function(input_signature=[images_spec])
    def serving_default(images):
        # Convolutions abort on another rank, and give a plausible answer to another size.
        return answer(tf.ensure_shape(images, images_spec.shape))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def predict_bytes(image_bytes):
        return answer_bytes(tf.ensure_shape(image_bytes, [None]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs):
        answers = answer_bytes(_images_of_examples(tf.ensure_shape(inputs, [None])))
        # The Classify API allows these two alone.
        return {name: answers[name] for name in ("classes", "scores")}

    return {
        "serving_default": serving_default,
        "predict_bytes": predict_bytes,
        "classify": classify,
    }


def _every_exit(exits, images_spec):
    """Return the signature that answers with the output of every depth."""

    @tf.function(input_signature=[images_spec])
    def every_exit(images):
        images = _checked(tf.ensure_shape(images, images_spec.shape))
        return {depth: _softmax(score) for depth, score in exits(images, training=False).items()}

    return every_exit


def _checked(images):
    """Return the images; refuse an empty batch, NaN and infinity."""
    images = _refuse_unless(tf.shape(images)[0] > 0, "the batch is empty", images)
    return tf.debugging.check_numerics(images, "the images hold NaN or infinity")


def _softmax(logits):
    logits = tf.cast(logits, tf.float32)
    return tf.nn.softmax(tf.debugging.check_numerics(logits, "the model overflows on these images"))


def _images_of_examples(inputs):
    """Return the image files in serialized tf.Examples."""
    # The parser's error quotes its whole input.
    small = tf.reduce_all(tf.strings.length(inputs) <= MAX_BYTES + 1024)
    message = f"an image of more than {MAX_BYTES} bytes, in a tf.Example"
    inputs = _refuse_unless(small, message, inputs)
    feature = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(inputs, feature)[IMAGE_FEATURE]


def exits_of(supervised: keras.Model) -> keras.Model:
    """Return a model of all exits: pixels -> {layer: logits of its companion, "output": logits}.

    An early exit saves the layers above it: Teerapittayanon et al., BranchyNet, arXiv:1709.01686.
    """
    trunk = supervised.trunk
    heads = supervised.companions.items()
    scores = {layer: head(trunk.get_layer(layer).output) for layer, head in heads}
    return keras.Model(trunk.input, {**scores, "output": trunk.output})


def _decode(encoded, channels):
    """Decode a PNG or JPEG file -> (height, width, channels) uint8.

    A megabyte can declare a gigabyte of pixels, so the size is read from the header first. A scan
    of a progressive JPEG takes ten bytes and makes libjpeg walk over all pixels once more, so
    scans are counted.
    """
    small = tf.strings.length(encoded) <= MAX_BYTES
    encoded = _refuse_unless(small, f"an image of more than {MAX_BYTES} bytes", encoded)
    header = len(PNG_START) + 8
    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
    is_png &= tf.strings.length(encoded) >= header
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START
    encoded = _refuse_unless(is_png | is_jpeg, "not a PNG or JPEG image", encoded)

    def png_size():
        size = tf.strings.substr(encoded, len(PNG_START), 8)
        return tf.io.decode_raw(size, tf.int32, little_endian=False)

    size = tf.cond(is_png, png_size, lambda: tf.image.extract_jpeg_shape(encoded)[:2])
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    small = tf.reduce_all(size > 0) & (pixels <= MAX_PIXELS)
    encoded = _refuse_unless(small, f"an image of 0 or more than {MAX_PIXELS} pixels", encoded)
    # Every scan begins with these two bytes, which no scan has within. Other data of a file have
    # them by chance once in 64 KiB, which is 256 times at most. The operation is that of
    # tf.strings.split, without its ragged tensors.
    pieces = tf.raw_ops.StringSplitV2(
        input=encoded[tf.newaxis], sep=b"\xff\xda", maxsplit=MAX_SCANS + 1
    ).values
    scans = tf.size(pieces) - 1
    few = is_png | (scans <= MAX_SCANS)
    encoded = _refuse_unless(few, f"an image of more than {MAX_SCANS} scans", encoded)
    # It decodes PNG too. The default DCT is faster and differs by up to three grey levels.
    return tf.io.decode_jpeg(encoded, channels=channels, dct_method="INTEGER_ACCURATE")


def _refuse_unless(condition, message, value):
    """Return `value`, once the condition is known to hold."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)
