"""The graph that a server runs. It answers rightly, or refuses in plain words.

A server does not check an input signature. So every check of an input is an operation of the graph,
and comes before the first operation that could abort.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from zoo.serving import decoding

IMAGE_FEATURE = "image/encoded"


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
            return decoding.decode(encoded, images_spec.shape[1:])

        image = tf.TensorSpec(images_spec.shape[1:], tf.float32)
        # Each image may take 50 MB while it is decoded, and 125 MB if it is transparent.
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
    images = decoding.refuse_unless(tf.shape(images)[0] > 0, "the batch is empty", images)
    return tf.debugging.check_numerics(images, "the images hold NaN or infinity")


def _softmax(logits):
    logits = tf.cast(logits, tf.float32)
    return tf.nn.softmax(tf.debugging.check_numerics(logits, "the model overflows on these images"))


def _images_of_examples(inputs):
    """Return the image files in serialized tf.Examples."""
    # The parser's error quotes its whole input.
    small = tf.reduce_all(tf.strings.length(inputs) <= decoding.MAX_BYTES + 1024)
    message = f"an image of more than {decoding.MAX_BYTES} bytes, in a tf.Example"
    inputs = decoding.refuse_unless(small, message, inputs)
    feature = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(inputs, feature)[IMAGE_FEATURE]
