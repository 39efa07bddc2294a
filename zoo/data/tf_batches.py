"""The batches of `ImageData` as a `tf.data.Dataset`, for the TensorFlow backend."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from zoo.data import packs
from zoo.data.augmentation import Augmentation

# Batches that are made at the same time.
_PARALLEL = min(16, os.cpu_count() or 1)

if TYPE_CHECKING:
    from zoo.data.image_data import ImageData


def batches(data: "ImageData", batch_size: int) -> Any:
    """Make the batches of `ImageData.batches`."""
    images, labels = _images(data), _labels(data)

    def batch(start):
        indices = tf.range(start, tf.minimum(start + batch_size, data.examples))
        return tf.cast(images(indices), tf.float32), tf.gather(labels, indices)

    starts = tf.data.Dataset.range(0, data.examples, batch_size)
    return _in_advance(starts.map(batch, num_parallel_calls=_PARALLEL))


def training_batches(
    data: "ImageData",
    batch_size: int,
    part: slice,
    seed: int,
    start_step: int,
    augmentation: Augmentation,
    views: int | None,
    teacher_logits: np.ndarray | None,
) -> Any:
    """Make the batches of `ImageData.training_batches`, from checked arguments.

    `part` is the slice of each batch that this worker receives.
    """
    images, labels = _images(data), _labels(data)
    with tf.device("CPU:0"):
        logits = None if teacher_logits is None else tf.constant(teacher_logits)
    first_pass, offset = divmod(start_step * batch_size, data.examples)
    sides = augmentation.first_sides(data.examples, seed)

    # Sorting random keys takes 6 ms for 50,000 images. tf.random.experimental.index_shuffle needs
    # no sort, but its orders are poor: those of two passes over 50,000 images correlate by 0.66.
    # Passes draw from even seeds and steps from odd ones, so that they share no numbers.
    def shuffled(number):
        keys = tf.random.stateless_uniform(
            (data.examples,), (seed, 2 * number), minval=None, maxval=None, dtype=tf.int64
        )
        order = tf.argsort(keys)[tf.where(number == first_pass, offset, 0) :]
        if views is None:
            return order, tf.fill(tf.shape(order), number)
        view = number % views
        draws = tf.gather(_draws_of_view(data, augmentation, seed, view), order)
        return order, tf.fill(tf.shape(order), view), draws

    def batch(step, indices, view, draws=None):
        if draws is None:
            draws = augmentation.draws(batch_size, (seed, 2 * step + 1))
            draws = augmentation.alternated(draws, tf.gather(sides, indices), view)
        indices, draws = indices[part], draws[part]
        targets = tf.gather(labels, indices)
        if logits is not None:
            # Without views, `view` is the number of the pass.
            rows = tf.zeros_like(view[part]) if views is None else view[part]
            places = tf.stack([rows, tf.cast(indices, view.dtype)], axis=1)
            targets = {"labels": targets, "teacher_logits": tf.gather_nd(logits, places)}
        return augmentation.apply(images(indices), draws), targets

    def batch_of_step(step, order):
        return batch(step, *order)

    steps = tf.data.Dataset.counter(start_step)
    order = tf.data.Dataset.counter(first_pass).map(shuffled)
    order = order.rebatch(batch_size, drop_remainder=True)
    both = tf.data.Dataset.zip(steps, order)
    return _in_advance(both.map(batch_of_step, num_parallel_calls=_PARALLEL, deterministic=True))


def weighted(batches: Any, weights: np.ndarray) -> Any:
    """Make the batches of `ImageData.balanced`; `weights` is (classes,)."""

    def with_weights(images, targets):
        labels = targets["labels"] if isinstance(targets, dict) else targets
        with tf.device("CPU:0"):
            return images, targets, tf.gather(tf.constant(weights), labels)

    return batches.map(with_weights)


def views(
    data: "ImageData", count: int, batch_size: int, seed: int, augmentation: Augmentation
) -> Any:
    """Make the batches of `ImageData.views`."""
    images = _images(data)

    def batches_of_view(view):
        draws = _draws_of_view(data, augmentation, seed, view)
        starts = tf.data.Dataset.range(0, data.examples, batch_size)

        def batch(start):
            indices = tf.range(start, tf.minimum(start + batch_size, data.examples))
            return augmentation.apply(images(indices), tf.gather(draws, indices))

        return starts.map(batch, num_parallel_calls=_PARALLEL)

    return _in_advance(tf.data.Dataset.range(count).flat_map(batches_of_view))


def _in_advance(batches: Any) -> Any:
    """Return the batches, made while the ones before are in use."""
    return untuned(batches.prefetch(2))


def untuned(dataset: Any) -> Any:
    """Return a `tf.data.Dataset` that does not tune the numbers of its threads and buffers.

    The thread for that can miss that the iterator is deleted. The deletion then waits for the
    thread's next turn, up to a minute, and meanwhile nothing of Python runs. TensorFlow 2.21: 1 of
    40 iterators that were 20 s old took 20 s.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _draws_of_view(data: "ImageData", augmentation: Augmentation, seed: int, view: Any) -> Any:
    """Return the random numbers of one view of all images, in order: (examples, 9)."""
    # The seeds of passes and steps are smaller numbers, so that views share none with them.
    draws = augmentation.draws(data.examples, (seed, view + 2**40))
    return augmentation.alternated(draws, augmentation.first_sides(data.examples, seed), view)


def _images(data: "ImageData") -> Callable[[Any], Any]:
    """Return a function of tensors: indices (batch,) -> images uint8 (batch, h, w, c)."""
    if isinstance(data.images, packs.PackedImages):

        def read(indices):
            images = tf.numpy_function(data.images.__getitem__, [indices], tf.uint8, stateful=False)
            return tf.ensure_shape(images, (*indices.shape, *data.image_shape))

        return read
    # On a machine with a GPU the constant would lie in its memory and be copied back in every step.
    with tf.device("CPU:0"):
        images = tf.constant(data.images)
    return lambda indices: tf.gather(images, indices)


def _labels(data: "ImageData") -> Any:
    with tf.device("CPU:0"):
        return tf.constant(data.labels)
