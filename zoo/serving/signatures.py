"""The graph that a server runs. It answers rightly, or refuses in plain words.

A server does not check an input signature. So every check of an input is an operation of the graph,
and comes before the first operation that could abort.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.exports import ExportError
from zoo.serving import decoding

IMAGE_FEATURE = "image/encoded"
# serving/batching.config makes batches of up to 32 images of several requests.
LEAST_MAX_BATCH = 32
_MOST_MAX_BATCH = 256
_PIXELS = 2**18
# A SavedModel's graph may have 2 GiB. Weights of more than this stay variables.
_MOST_CONSTANTS = 2**30


def checked_max_batch(max_batch: int | None, image_shape: Sequence[int]) -> int:
    """Return how many images (h, w, c) a request may have.

    By default it is the largest power of two, from 32 to 256, for which they have 2^18 pixels
    together.

    Raises:
        ExportError: if `max_batch` is no number of 32 or more.
    """
    if max_batch is None:
        fitting = _PIXELS // (image_shape[0] * image_shape[1])
        return min(max(1 << fitting.bit_length() >> 1, LEAST_MAX_BATCH), _MOST_MAX_BATCH)
    if not isinstance(max_batch, int) or not LEAST_MAX_BATCH <= max_batch < 2**31:
        raise ExportError(
            f"Received max_batch={max_batch!r}; expected an integer from {LEAST_MAX_BATCH}, since "
            "serving/batching.config lets a server put as many images of several requests together."
        )
    return max_batch


def module(
    model: keras.Model,
    labels: Sequence[str],
    top_k: int,
    exits: keras.Model | None = None,
    *,
    max_batch: int,
    resizing: str = "squash",
    temperature: float = 1.0,
) -> tuple[tf.Module, dict[str, Any]]:
    """Return (the module to save, its signatures by name).

    The weights are constants of the graph. So the server prepares them for its processor once, and
    not for each request as it does with variables. docs/performance.md has what that saves.

    Arguments:
        model: maps pixels (batch, h, w, c) to logits.
        labels: the label names, in the order of the classes.
        top_k: how many classes an answer names.
        exits: maps the same pixels to {depth: logits}. It becomes a signature of its own.
        max_batch: how many images a request may have.
        resizing: the way in which files are resized; see `zoo.serving.decoding.decode`.
        temperature: what the logits are divided by. The companions' are not: it was fitted on those
            of the output.
    """
    height, width, channels = model.input_shape[1:]
    images_spec = tf.TensorSpec((None, height, width, channels), tf.float32, "images")
    saved = tf.Module()
    net, saved.weights = _program(model if exits is None else exits, images_spec)
    logits = net if exits is None else lambda images: net(images)["output"]
    signatures = _answering(logits, labels, top_k, images_spec, max_batch, resizing, temperature)
    if exits is not None:
        signatures["exits"] = _every_exit(net, images_spec, max_batch, temperature)
    return saved, signatures


def _program(model, images_spec):
    """Return (a function of images, the variables that it needs).

    It is one function, so that the graph has the constants once and not once for each signature.
    """
    if sum(weight.value.numpy().nbytes for weight in model.weights) > _MOST_CONSTANTS:
        program = tf.function(lambda images: model(images, training=False))
        return program, [weight.value for weight in model.weights]
    weights = {id(weight) for weight in model.weights}
    trained, kept = (
        # The others are the states of random numbers, another one in each process. None is used.
        [v.value.numpy() if id(v) in weights else np.zeros(v.shape, v.dtype) for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    @tf.function(input_signature=[images_spec])
    def program(images):
        constants = ([tf.constant(array) for array in arrays] for arrays in (trained, kept))
        outputs, _ = model.stateless_call(*constants, images, training=False)
        return outputs

    return program, []


def _answering(logits, labels, top_k, images_spec, max_batch, resizing, temperature):
    """Return the three signatures that answer with the output of the model."""

    def answer(images):
        probabilities = _softmax(logits(_checked(images)), temperature)
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
        return answer(decoding.decode(image_bytes, tuple(images_spec.shape[1:]), resizing))

    @tf.function(input_signature=[images_spec])
    def serving_default(images):
        # Convolutions abort on another rank, and give a plausible answer to another size.
        return answer(_few(tf.ensure_shape(images, images_spec.shape), max_batch))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def predict_bytes(image_bytes):
        return answer_bytes(_few(tf.ensure_shape(image_bytes, [None]), max_batch))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs):
        inputs = _few(tf.ensure_shape(inputs, [None]), max_batch)
        answers = answer_bytes(_images_of_examples(inputs))
        # The Classify API allows these two alone.
        return {name: answers[name] for name in ("classes", "scores")}

    return {
        "serving_default": serving_default,
        "predict_bytes": predict_bytes,
        "classify": classify,
    }


def _every_exit(net, images_spec, max_batch, temperature):
    """Return the signature that answers with the output of every depth."""

    @tf.function(input_signature=[images_spec])
    def every_exit(images):
        images = _checked(_few(tf.ensure_shape(images, images_spec.shape), max_batch))
        return {
            depth: _softmax(logits, temperature if depth == "output" else 1)
            for depth, logits in net(images).items()
        }

    return every_exit


def _few(batch, most):
    """Return the batch; refuse one of more than `most` images."""
    count = tf.shape(batch)[0]
    message = ["a batch of ", tf.as_string(count), f" images; this model takes at most {most}"]
    return decoding.refuse_unless(count <= most, tf.strings.join(message), batch)


def _checked(images):
    """Return the images; refuse an empty batch, NaN and infinity."""
    images = decoding.refuse_unless(tf.shape(images)[0] > 0, "the batch is empty", images)
    return tf.debugging.check_numerics(images, "the images hold NaN or infinity")


def _softmax(logits, temperature):
    logits = tf.cast(logits, tf.float32)
    logits = logits if temperature == 1 else logits / temperature
    return tf.nn.softmax(tf.debugging.check_numerics(logits, "the model overflows on these images"))


def _images_of_examples(inputs):
    """Return the image files in serialized tf.Examples."""
    # The parser's error quotes its whole input.
    small = tf.reduce_all(tf.strings.length(inputs) <= decoding.MAX_BYTES + 1024)
    message = f"an image of more than {decoding.MAX_BYTES} bytes, in a tf.Example"
    inputs = decoding.refuse_unless(small, message, inputs)
    feature = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(inputs, feature)[IMAGE_FEATURE]
