"""Batches made by NumPy are those that TensorFlow makes."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import Augmentation, ImageData
from zoo.data import numpy_batches as numpy_data

RNG = np.random.default_rng(0)
DATA = ImageData(
    "small", "train", RNG.integers(0, 256, (37, 9, 7, 3)), np.arange(37) % 5, tuple("abcde")
)
LOGITS = RNG.normal(size=(3, 37, 5)).astype("float32")
AUGMENTATIONS = [
    Augmentation(),
    Augmentation(pad_and_crop=2, flip=True),
    Augmentation(shift=3),
    Augmentation(flip=True),
    Augmentation(shift=1, cutout=4),
    Augmentation(pad_and_crop=1, flip="alternating"),
]


@pytest.mark.parametrize("seed", [(0, 0), (3, 7), (2**31 - 1, 2**40 + 5), (-5, 1)])
def test_random_numbers_are_tensorflows(seed):
    floats = tf.random.stateless_uniform((3, 11), seed, -0.3, 0.3)
    np.testing.assert_array_equal(numpy_data.uniform((3, 11), seed, -0.3, 0.3), floats)
    whole = tf.random.stateless_uniform((9,), seed, minval=None, maxval=None, dtype=tf.int64)
    np.testing.assert_array_equal(numpy_data.integers(9, seed), whole)
    folded = tf.random.experimental.stateless_fold_in(tf.constant(seed, tf.int64), 1)
    np.testing.assert_array_equal(numpy_data.fold_in(seed, 1), folded)


def both(augmentation, views=None, logits=None, start=0, count=7):
    """(TensorFlow's, NumPy's) batches, over three passes of 37 images in tens."""
    stream = DATA.training_batches(
        10,
        seed=4,
        start_step=start,
        augmentation=augmentation,
        views=views,
        teacher_logits=logits,
    )
    ours = numpy_data.TrainingBatches(DATA, 10, slice(10), 4, start, augmentation, views, logits)
    return zip(
        stream.take(count).as_numpy_iterator(), map(ours.__getitem__, range(count)), strict=True
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
@pytest.mark.parametrize("start", [0, 5])
def test_the_order_and_the_moved_images_are_the_same_bits(augmentation, start):
    for (images, labels), (ours, our_labels) in both(augmentation, start=start):
        np.testing.assert_array_equal(ours, images)
        np.testing.assert_array_equal(our_labels, labels)
        assert ours.dtype == images.dtype == np.float32


def test_turned_and_scaled_images_agree_to_rounding():
    for (images, _), (ours, _) in both(Augmentation(shift=1, jitter=0.3)):
        np.testing.assert_allclose(ours, images, atol=0.05)  # of 255


@pytest.mark.parametrize("views", [3, None])
@pytest.mark.parametrize("flip", [True, "alternating"])
def test_views_and_their_soft_targets_are_the_same(flip, views):
    moving = Augmentation(shift=2, flip=flip)
    for (images, targets), (ours, our_targets) in both(
        moving, views, LOGITS[: views or 1], count=12
    ):
        np.testing.assert_array_equal(ours, images)
        for key in ("labels", "teacher_logits"):
            np.testing.assert_array_equal(our_targets[key], targets[key])
    ours = numpy_data.views(DATA, 2, 10, 4, moving)
    theirs = DATA.views(2, 10, seed=4, augmentation=moving).as_numpy_iterator()
    pairs = list(itertools.zip_longest(ours, theirs))
    assert len(pairs) == 8
    for our, their in pairs:
        np.testing.assert_array_equal(our, their)


def test_for_evaluation_all_images_come_once_in_order():
    ours = numpy_data.Batches(DATA, 10)
    pairs = [ours[index] for index in range(ours.num_batches)]
    for (images, labels), (our_images, our_labels) in zip(
        DATA.batches(10).as_numpy_iterator(), pairs, strict=True
    ):
        np.testing.assert_array_equal(our_images, images)
        np.testing.assert_array_equal(our_labels, labels)
