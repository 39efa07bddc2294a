import collections
import dataclasses
import itertools
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from zoo.data import Augmentation, DataError, ImageData, load, read_image, readers
from zoo.data.augmentation import affine

SHARED = Path(__file__).parents[3] / "shared/data/tensorflow_datasets"
PREPARED = Path(os.environ.get("TFDS_DATA_DIR", SHARED))


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Nothing here uses Keras, whose `clear_session` would take most of this file's time."""


def numbered(n, classes=5):
    """Images that carry their own number, and labels that follow from it."""
    number = np.arange(n)
    images = np.zeros((n, 4, 4, 3), np.uint8)
    images[..., 0], images[..., 1] = (number[:, None, None] % 256, number[:, None, None] // 256)
    names = [str(label) for label in range(classes)]
    return ImageData("numbered", "train", images, number % classes, names)


def numbers(batches, count):
    """The numbers of the first `count` images that a stream gives."""
    found = []
    for images, _ in batches.as_numpy_iterator():
        found.extend(images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1])
        if len(found) >= count:
            return np.array(found[:count], int)


def contents(*parts):
    """All (pixels, label) of these parts, sorted."""
    return sorted(
        (bytes(image), label)
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    )


def steps(batches, count):
    return list(batches.take(count).as_numpy_iterator())


def assert_same_batches(some, others):
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


# The order of training


@pytest.mark.parametrize(("examples", "batch_size"), [(101, 7), (100, 25), (10, 64), (5, 5)])
def test_every_pass_shows_every_image_once(examples, batch_size):
    stream = numbered(examples).training_batches(batch_size, seed=3)
    passes = numbers(stream, 6 * examples).reshape(6, examples)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(examples), (6, 1)))


def test_batches_are_always_full_and_typed():
    stream = numbered(10).training_batches(64, seed=0)
    images, labels = stream.element_spec
    assert (images.shape, images.dtype) == ((64, 4, 4, 3), tf.float32)
    assert (labels.shape, labels.dtype) == ((64,), tf.int64)
    assert [len(images) for images, _ in steps(stream, 3)] == [64, 64, 64]
    assert stream.cardinality() < 0  # endless or unknown: never a length that Keras would trust


def test_labels_stay_with_their_images():
    for images, labels in steps(numbered(300).training_batches(32, seed=1), 20):
        number = images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1]
        np.testing.assert_array_equal(labels, number % 5)


def test_the_order_does_not_depend_on_the_batch_size():
    data = numbered(50)
    one, other = (numbers(data.training_batches(b, seed=9), 200) for b in (8, 77))
    np.testing.assert_array_equal(one, other)


def test_two_runs_agree_and_two_seeds_or_epochs_differ():
    data = numbered(1000)
    one, again, other = (numbers(data.training_batches(100, seed=s), 2000) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    # Two random orders of n agree in one place, on average.
    assert (one == other).sum() < 12
    assert (one[:1000] == one[1000:]).sum() < 9


def test_passes_are_independent_random_orders():
    # tf.random.experimental.index_shuffle fails each of these: hence the sort.
    examples, passes = 1438, 60
    data = numbered(examples)
    orders = numbers(data.training_batches(examples, seed=0), passes * examples)
    orders = orders.reshape(passes, examples)
    lagged = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(orders)]
    assert abs(np.mean(lagged)) < 5 / np.sqrt(examples * (passes - 1))
    assert np.mean(orders[1:] == orders[:-1]) * examples == pytest.approx(1, abs=0.7)
    assert np.mean(np.diff(orders) == 1) * examples == pytest.approx(1, abs=0.7)
    first = orders[:, :10].ravel()
    assert first.mean() == pytest.approx((examples - 1) / 2, abs=5 * examples / np.sqrt(12 * 600))


@pytest.mark.parametrize("start", [1, 4, 13, 14, 15, 40])
def test_a_resumed_stream_gives_bit_for_bit_what_the_first_would_have(start):
    data = numbered(101)
    changes = {"seed": 5, "augmentation": Augmentation(pad_and_crop=2, flip=True)}
    whole = steps(data.training_batches(7, **changes), start + 20)
    rest = steps(data.training_batches(7, start_step=start, **changes), 20)
    assert_same_batches(whole[start:], rest)


def test_late_steps_and_large_seeds_do_not_overflow():
    data = numbered(101)
    changes = {"seed": 2**40 + 1, "augmentation": Augmentation(shift=1)}
    late = 2**40
    whole = steps(data.training_batches(4096, start_step=late, **changes), 3)
    assert_same_batches(
        whole[1:], steps(data.training_batches(4096, start_step=late + 1, **changes), 2)
    )
    # Keras counts in 32 or 64 bits: neither width may leak into the arithmetic.
    narrow = data.training_batches(4096, start_step=np.int32(2**30), **changes)
    wide = data.training_batches(4096, start_step=2**30, **changes)
    assert_same_batches(steps(narrow, 1), steps(wide, 1))


def test_every_step_draws_its_own_changes():
    images = np.arange(2 * 9 * 9, dtype=np.uint8).reshape(2, 9, 9, 1)
    data = ImageData("two", "train", images, [0, 1], ("a", "b"))
    stream = data.training_batches(2, seed=0, augmentation=Augmentation(pad_and_crop=4))
    first = {images[labels == 0].tobytes() for images, labels in steps(stream, 40)}
    assert len(first) > 25  # of 81 places, 40 draws


# Augmentation


def outcomes(augmentation, pad_mode, size=(5, 7), draws=16_200):
    """How often each (row, column, mirrored) was drawn, found by comparing with NumPy's crops."""
    height, width = size
    image = np.arange(1, height * width * 3 + 1, dtype=np.uint8).reshape(height, width, 3)
    reach = augmentation.pad_and_crop + augmentation.shift
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), pad_mode)
    crops = {}
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            crop = padded[row : row + height, column : column + width].astype(np.float32)
            crops[crop.tobytes()] = (row, column, False)
            crops[crop[:, ::-1].tobytes()] = (row, column, True)
    images = np.tile(image, (draws, 1, 1, 1))
    changed = augmentation.apply(images, augmentation.draws(draws, (0, 1))).numpy()
    assert (changed.dtype, changed.shape) == (np.float32, (draws, height, width, 3))
    return collections.Counter(crops[one.tobytes()] for one in changed)


def test_pad_and_crop_with_flip_gives_every_crop_equally_often():
    found = outcomes(Augmentation(pad_and_crop=4, flip=True), "constant")
    assert len(found) == 9 * 9 * 2
    assert all(55 < count < 155 for count in found.values())  # 100 expected, spread 10


def test_shift_repeats_the_edge():
    found = outcomes(Augmentation(shift=2), "edge")
    assert {place[:2] for place in found} == {(row, col) for row in range(5) for col in range(5)}
    assert not any(mirrored for _, _, mirrored in found)
    assert all(520 < count < 780 for count in found.values())  # 648 expected, spread 25


def test_flip_mirrors_half_of_the_images():
    found = outcomes(Augmentation(flip=True), "constant")
    assert set(found) == {(0, 0, False), (0, 0, True)}
    assert found[0, 0, True] == pytest.approx(8100, abs=320)


def sides(batches):
    """[(index, whether it is mirrored)] of images that are `index` everywhere, 0 on the left."""
    return [
        (int(image.max()), bool(image[0, 0, 0]))
        for images in batches
        for image in np.asarray(images)
    ]


def test_an_alternating_flip_shows_both_sides_of_each_image_in_two_passes():
    count, changes = 40, Augmentation(flip="alternating")
    images = np.tile(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (1, 2, 4, 1))
    images[:, :, 0] = 0
    data = ImageData("sides", "train", images, np.arange(count) % 2, ("a", "b"))
    stream = data.training_batches(30, seed=3, augmentation=changes)
    shown = sides(images for images, _ in stream.take(4 * count // 30 + 1).as_numpy_iterator())
    passes = [dict(shown[start : start + count]) for start in range(0, 4 * count, count)]
    assert all(len(one) == count for one in passes)
    assert passes[0] == passes[2]
    assert passes[1] == passes[3]
    assert all(passes[0][index] != passes[1][index] for index in passes[0])
    assert 8 < sum(passes[0].values()) < 32  # a random half
    # A resumed training goes on with the same sides, and a view has one side.
    later = data.training_batches(30, seed=3, start_step=3, augmentation=changes)
    assert sides(next(later.as_numpy_iterator())[:1]) == shown[90:120]
    views = sides(data.views(2, 40, seed=3, augmentation=changes).as_numpy_iterator())
    assert dict(views[:count]) == passes[0]
    assert dict(views[count:]) == passes[1]


def test_jitter_turns_scales_and_moves_with_bilinear_interpolation():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (5, 9, 12, 2)).astype("float32")
    angle, scale = rng.uniform(-0.3, 0.3, 5), rng.uniform(0.8, 1.25, 5)
    down, right = rng.uniform(-2, 2, (2, 5))
    moved = affine(images, *(v.astype("float32") for v in (angle, scale, down, right)))
    y, x = np.mgrid[:9, :12].astype("float64")
    for index in range(5):
        dy, dx = y - 4 - down[index], x - 5.5 - right[index]
        c, s = np.cos(angle[index]) / scale[index], np.sin(angle[index]) / scale[index]
        source = np.clip([4 - s * dx + c * dy, 5.5 + c * dx + s * dy], 0, [[[8]], [[11]]])
        for channel in range(2):
            expected = scipy.ndimage.map_coordinates(
                images[index, ..., channel], source, order=1, mode="nearest"
            )
            np.testing.assert_allclose(moved[index, ..., channel], expected, atol=0.05)


def test_jitter_stays_in_its_range_and_is_a_function_of_its_seed():
    ramp = np.tile(np.arange(41, dtype="uint8")[:, None, None], (512, 1, 41, 1))
    jitter = Augmentation(jitter=0.1)
    one, again, other = (
        jitter.apply(ramp, jitter.draws(512, seed)).numpy() for seed in [(1, 2), (1, 2), (1, 3)]
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1
    centre = one[:, 20, 20, 0] - 20  # the ramp's value says how far the image was moved, scaled
    assert 3.5 < np.abs(centre).max() < 4.1 / 0.9
    slope = (one[:, 20, 21, 0] - one[:, 20, 20, 0]) * 0.9  # the sine of the angle, at least
    assert 0.15 < np.abs(slope).max() < np.sin(0.2) / 0.9


def test_cutout_blackens_a_square_around_every_pixel_equally_often():
    image = np.arange(1, 5 * 7 * 3 + 1, dtype=np.uint8).reshape(5, 7, 3)
    holes = {}
    for row, column in np.ndindex(5, 7):
        hole = image.astype(np.float32)
        hole[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        holes[hole.tobytes()] = row, column
    cutout = Augmentation(cutout=3)
    changed = cutout.apply(np.tile(image, (7000, 1, 1, 1)), cutout.draws(7000, (0, 1))).numpy()
    found = collections.Counter(holes[one.tobytes()] for one in changed)
    assert len(found) == 35
    assert all(130 < count < 270 for count in found.values())  # 200 expected, spread 14


def test_the_square_is_cut_out_of_what_the_other_changes_left():
    changes = {"shift": 1, "flip": True, "jitter": 0.1}
    images = np.random.default_rng(0).integers(1, 256, (300, 9, 8, 1))
    with_square, without = Augmentation(**changes, cutout=4), Augmentation(**changes)
    draws = with_square.draws(300, (3, 4))
    cut, whole = with_square.apply(images, draws).numpy(), without.apply(images, draws).numpy()
    black = cut == 0
    np.testing.assert_array_equal(cut[~black], whole[~black])
    assert {int(one.sum()) for one in black} == {a * b for a in (2, 3, 4) for b in (2, 3, 4)}


def test_without_augmentation_the_pixels_are_untouched():
    assert Augmentation() == Augmentation(pad_and_crop=0, flip=False, shift=0)
    for images, labels in steps(load("digits").training_batches(32, seed=0), 3):
        assert images.max() == 255
        np.testing.assert_array_equal(images, np.rint(images))
        assert set(labels) <= set(range(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad_and_crop": -1}, "pad_and_crop is a whole number of 0 or more; received -1"),
        ({"shift": 1.5}, "shift is a whole number of 0 or more; received 1.5"),
        ({"pad_and_crop": 1, "shift": 1}, "both translate"),
        ({"cutout": 0.5}, "cutout is a whole number of 0 or more; received 0.5"),
    ],
)
def test_augmentations_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is a whole number of 1 or more; received 0"),
        ({"batch_size": 8, "start_step": -1}, "start_step .* received -1"),
        ({"batch_size": 8, "seed": 0.5}, "seed .* received 0.5"),
        ({"batch_size": 8, "augmentation": Augmentation(shift=4)}, "can move all"),
        ({"batch_size": 8, "augmentation": Augmentation(cutout=4)}, "can blacken all"),
    ],
)
def test_streams_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        numbered(20).training_batches(**{"seed": 0, **arguments})


# Evaluation, holdout, subset


def test_evaluation_batches_are_in_order_and_keep_the_remainder():
    data = numbered(23)
    batches = data.batches(10)
    assert batches.cardinality() == 3
    images, labels = (np.concatenate(part) for part in zip(*steps(batches, 9), strict=True))
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal(labels, data.labels)


@pytest.mark.parametrize("kind", ["training", "training, in parts", "evaluation", "views"])
def test_no_batches_wait_for_the_thread_that_tunes_them(kind):
    data = numbered(23)
    batches = {
        "training": lambda: data.training_batches(4, seed=0),
        "training, in parts": lambda: data.training_batches(4, seed=0, shard=(0, 2)),
        "evaluation": lambda: data.batches(4),
        "views": lambda: data.views(2, 4, seed=0),
    }[kind]()
    assert batches.options().autotune.enabled is False


def names_of(data):
    return data.images[:, 0, 0, 0] + 256 * data.images[:, 0, 0, 1].astype(int)


def test_holdout_divides_every_class_in_proportion():
    labels = np.repeat([0, 1, 2], [300, 100, 20])
    data = ImageData("uneven", "train", numbered(420).images, labels, "abc")
    training, validation = data.holdout(0.1, seed=4)
    assert np.bincount(validation.labels).tolist() == [30, 10, 2]
    assert (training.split, validation.split) == ("train", "validation")
    together = np.concatenate([names_of(training), names_of(validation)])
    assert sorted(together) == list(range(420))
    np.testing.assert_array_equal(training.labels, labels[names_of(training)])
    again, other = data.holdout(0.1, seed=4)[1], data.holdout(0.1, seed=5)[1]
    np.testing.assert_array_equal(names_of(again), names_of(validation))
    assert set(names_of(other)) != set(names_of(validation))


@pytest.mark.parametrize(
    ("members", "fraction", "expected"),
    [
        ([98, 2], 0.2, [19, 1]),
        ([60, 30, 2], 0.2, [11, 6, 1]),
        ([2] * 100, 0.2, [1] * 100),
        ([50, 1, 50], 0.2, [10, 0, 10]),
        ([3, 40], 0.05, [1, 1]),
        ([50, 1, 5], 0.5, [25, 0, 3]),
    ],
)
def test_every_class_that_can_spare_an_image_has_one_in_the_holdout(members, fraction, expected):
    labels = np.repeat(range(len(members)), members)
    data = ImageData("rare", "train", numbered(len(labels)).images, labels, range(len(members)))
    for order in (None, np.random.default_rng(1).permutation(len(labels))):
        training, held_out = data.holdout(fraction, order=order)
        counts = np.bincount(held_out.labels, minlength=len(members))
        assert counts.tolist() == expected
        assert (counts + np.bincount(training.labels)).tolist() == members


def test_a_subset_has_every_class():
    labels = np.repeat([0, 1, 2], [97, 1, 2])
    data = ImageData("rare", "train", numbered(100).images, labels, "abc")
    assert np.bincount(data.subset(3).labels).tolist() == [1, 1, 1]
    assert np.bincount(data.subset(10).labels).tolist() == [8, 1, 1]
    assert set(names_of(data.subset(3))) < set(names_of(data.subset(10)))


def test_subset_is_stratified_and_grows():
    data = numbered(420)
    small, large = data.subset(50, seed=2), data.subset(103, seed=2)
    assert np.bincount(small.labels).tolist() == [10] * 5
    assert sorted(np.bincount(large.labels)) == [20, 20, 21, 21, 21]
    assert set(names_of(small)) < set(names_of(large))
    assert not set(names_of(small)) <= set(names_of(data.subset(103, seed=3)))
    np.testing.assert_array_equal(small.labels, names_of(small) % 5)


def test_divisions_that_leave_too_little_are_refused():
    for fraction in (0, 0.001, 0.999, 1, -0.5, 2):
        with pytest.raises(DataError, match="each part needs two or more"):
            numbered(20).holdout(fraction)
    with pytest.raises(DataError, match="no training image of class '0'"):
        numbered(7).holdout(0.7)
    for examples in (4, 21):
        with pytest.raises(DataError, match=f"5 .* to 20 images; received {examples}"):
            numbered(20).subset(examples)


# What ImageData accepts


def test_arrays_are_brought_to_one_form():
    images = np.full((4, 5, 6), 200.0, np.float32)
    data = ImageData("a", "train", images, np.array([[0], [1], [1], [0]], np.int8), ["no", "yes"])
    assert (data.images.dtype, data.images.shape) == (np.uint8, (4, 5, 6, 1))
    assert (data.labels.dtype, data.labels.tolist()) == (np.int64, [0, 1, 1, 0])
    assert (data.examples, data.classes, data.image_shape) == (4, 2, (5, 6, 1))
    assert data.label_names == ("no", "yes")
    assert np.all(data.images == 200)


def with_pixel(value, dtype=np.float64):
    images = np.full((4, 2, 3, 1), 7, dtype)
    images[3, 0, 2, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (with_pixel(np.nan), [0, 1, 0, 1], "pixel nan at index 3, 0, 2, 0"),
        (with_pixel(np.inf), [0, 1, 0, 1], "pixel inf at index 3, 0, 2, 0"),
        (with_pixel(-1, np.int32), [0, 1, 0, 1], "pixel -1 at index 3, 0, 2, 0"),
        (with_pixel(256, np.uint16), [0, 1, 0, 1], "pixel 256 at index 3, 0, 2, 0"),
        (with_pixel(7.5), [0, 1, 0, 1], "pixel 7.5 at index 3, 0, 2, 0"),
        (with_pixel(7.5) / 255, [0, 1, 0, 1], r"in 0..1; expected raw ones, 0..255"),
        (with_pixel(7) > 6, [0, 1, 0, 1], "pixels of type bool"),
        (np.uint8(with_pixel(7) > 6), [0, 1, 0, 1], r"in 0..1; expected raw ones, 0..255"),
        (with_pixel(7).astype(str), [0, 1, 0, 1], "pixels of type <U"),
        (with_pixel(7), [0, 1, 0, 2], "label 2 at index 3; expected whole numbers 0..1"),
        (with_pixel(7), [0, -1, 0, 1], "label -1 at index 1"),
        (with_pixel(7), [0, 1, 0.5, 1], "label 0.5 at index 2"),
        (with_pixel(7), [0, 1, np.nan, 1], "label nan at index 2"),
        (with_pixel(7), list("abab"), "labels of type <U1"),
        (with_pixel(7), [0, 1, 1], r"4 images, and labels of shape \(3,\)"),
        (with_pixel(7), np.eye(4)[:, :2], "argmax of one-hot"),
        (with_pixel(7), [1, 1, 1, 1], "every label is 1"),
        (with_pixel(7)[:0], [], "no images"),
        (np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 0, 1], "channels, which come last"),
        (np.zeros((4, 64), np.uint8), [0, 1, 0, 1], r"shape \(4, 64\)"),
    ],
)
def test_bad_arrays_are_refused_with_the_index(images, labels, message):
    with pytest.raises(DataError, match=message) as error:
        ImageData("photographs", "train", images, labels, ("no", "yes"))
    assert "photographs (train)" in str(error.value)


def test_an_array_file_is_told_from_a_file_of_images_and_labels(tmp_path):
    np.save(tmp_path / "images.npy", with_pixel(3))
    with pytest.raises(DataError, match=r"images.npy is one array; expected images and labels"):
        load(tmp_path / "images.npy")


# Digits


def test_digits_are_scikit_learns_split_once():
    training, test = load("digits"), load("digits", "test")
    assert (training.examples, test.examples, test.image_shape) == (1438, 359, (8, 8, 1))
    everything = sklearn.datasets.load_digits()
    scaled = np.rint(everything.images * 255 / 16).astype(np.uint8)
    original = zip(map(bytes, scaled), everything.target, strict=True)
    assert contents(training, test) == sorted(original)
    shares = np.bincount(test.labels) / np.bincount(everything.target)
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


# Folders


@pytest.fixture
def folder(tmp_path):
    """Twelve PNG photographs in tmp_path/pets/{cat,dog}."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 7, 3), np.uint8)
    for name, images in zip(("dog", "cat"), pixels, strict=True):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "pets" / name / f"{index}.png")
    return tmp_path / "pets"


def test_a_folder_of_class_folders_is_split_once(folder):
    training, test = load(folder), load(str(folder), "test")
    assert training.label_names == test.label_names == ("cat", "dog")
    assert (training.name, training.split, test.split) == ("pets", "train", "test")
    assert np.bincount(training.labels).tolist() == [5, 5]
    files = [
        (Image.open(file).tobytes(), label)
        for label, name in enumerate(("cat", "dog"))
        for file in folder.glob(f"{name}/*.png")
    ]
    assert contents(training, test) == sorted(files)


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_folders_named_after_splits_are_the_splits(folder, held_out):
    folder.rename(folder.parent / "train")
    for name in ("cat", "dog"):
        (folder / held_out / name).mkdir(parents=True)
        Image.new("RGB", (7, 9), "red").save(folder / held_out / name / "a.jpg")
    (folder.parent / "train").rename(folder / "train")
    (folder / "train/cat/.hidden").write_text("passed over")
    training, test = load(folder), load(folder, "test")
    assert (training.examples, test.examples) == (12, 2)
    np.testing.assert_array_equal(
        test.images[0], np.asarray(Image.open(folder / held_out / "cat/a.jpg"))
    )
    (folder / held_out / "cat").rename(folder / held_out / "cats")
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"differ in the class folders \['cat', 'cats'\]"):
            load(folder, split)


def test_a_folder_in_the_place_of_an_image_is_no_reason_to_delete_it(folder):
    (folder / "cat" / "more").mkdir()
    with pytest.raises(DataError, match=r"more is a folder; expected .*/CLASS/IMAGE, or"):
        load(folder, skip_corrupt=0.5)


def test_one_image_less_is_another_data_set(folder):
    before = load(folder, "test").identity
    assert load(folder, "test").identity == before
    next(folder.glob("cat/*.png")).unlink()
    after = load(folder, "test").identity
    assert after[:2] == before[:2]  # as many, of the same classes; and others
    assert after != before


@pytest.mark.parametrize("stream", [False, True])
def test_with_more_images_the_old_ones_stay_on_their_side(tmp_path, monkeypatch, stream):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), np.uint8)
    for index, image in enumerate(pixels):
        path = tmp_path / "pets" / "ab"[index % 2] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    test = load(tmp_path / "pets", "test", stream=stream)
    assert np.bincount(test.labels).tolist() == [20, 20]
    for path in tmp_path.glob("pets/a/*0.png"):  # renamed, and each of them has a copy
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        path.rename(path.with_name(f"z{path.name}"))
    later = load(tmp_path / "pets", "test", stream=stream)
    assert np.bincount(later.labels).tolist() == [24, 20]  # of 120 and 100
    before, after = (set(map(bytes, np.array(each.images))) for each in (test, later))
    assert max(len(after - before), len(before - after)) <= 3
    both = set(map(bytes, np.array(load(tmp_path / "pets", stream=stream).images))) & after
    assert len(both) <= 1  # of twenty pairs


def test_test_images_that_stand_by_themselves_were_not_divided(tmp_path):
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4), "red").save(tmp_path / place / "a.png")
    assert load(tmp_path, "test").source == ""


def one_pixel(tmp_path, image, **options):
    """The first pixel that `load` makes of this image, saved in every class."""
    for name in ("a", "b"):
        for part in ("train", "test"):
            place = tmp_path / "colours" / part / name
            place.mkdir(parents=True)
            image.save(place / f"image.{options.get('format', 'png')}", **options)
    return load(tmp_path / "colours").images[0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77]),
        ("1", 1, [255]),
        ("LA", (77, 9), [249]),  # (77 * 9 + 255 * 246) / 255
        ("I;16", 0x1234, [0x12]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [255, 255, 255]),
        ("RGBA", (1, 2, 3, 100), [155, 156, 156]),
        ("RGBA", (1, 2, 3, 255), [1, 2, 3]),
        ("P", 0, [9, 8, 7]),
    ],
)
def test_every_mode_becomes_grey_or_rgb_by_a_rule(tmp_path, mode, colour, expected):
    image = Image.new(mode, (3, 2), colour)
    if mode == "P":
        image.putpalette([9, 8, 7, 255, 255, 255])
    assert one_pixel(tmp_path, image) == expected


def test_photographs_are_turned_upright(tmp_path):
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 8  # the top of the scene is at the right: turn it left
    assert one_pixel(tmp_path, image, exif=exif) == [255, 0, 0]
    assert load(tmp_path / "colours").image_shape == (2, 1, 3)


def test_resizing_is_bilinear_and_antialiased(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (8, 12), np.uint8)
    one_pixel(tmp_path, Image.fromarray(pixels))
    half = load(tmp_path / "colours", image_size=(4, 6)).images[0, ..., 0]
    # Half the size, a triangle four pixels wide: weights 1 3 3 1, away from the border.
    taps = sum(
        weight * other * pixels[1 + i : 7 : 2, 1 + j : 11 : 2][:2, :4].astype(float)
        for i, weight in enumerate((1, 3, 3, 1))
        for j, other in enumerate((1, 3, 3, 1))
    )
    np.testing.assert_allclose(half[1:3, 1:5], taps / 64, atol=1)
    np.testing.assert_array_equal(load("digits", image_size=[8, 8]).images, load("digits").images)
    assert load("digits", image_size=(16, 12)).image_shape == (16, 12, 1)


def png_header(width, height):
    """The beginning of a PNG file that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"\0\0\0\r", header, zlib.crc32(header).to_bytes(4), b"\0\0\0\0IDAT")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    return (tmp_path / "whole.jpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", "cannot identify"),
        (lambda _: b"These are not pixels.", "cannot identify"),
        (lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n", "cannot identify"),
        (lambda tmp: (tmp / "pets/cat/0.png").read_bytes()[:90], "Truncated"),
        (lambda tmp: jpeg(tmp)[:-40], "truncated"),
        (lambda _: png_header(8000, 8001), "8000 x 8001 is over 64,000,000 pixels"),
        (lambda _: png_header(65000, 65000), "decompression bomb"),
    ],
)
def test_bad_image_files_are_refused_by_name(folder, content, message):
    bad = folder / "cat" / "3.png"
    bad.write_bytes(content(folder.parent))
    with pytest.raises(DataError, match=message) as error:
        load(folder)
    assert str(bad) in str(error.value)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (Image.new("RGB", (9, 7)), {}, r"\(7, 9, 3\) .* \(9, 7, 3\).*image_size"),
        (Image.new("F", (7, 9)), {}, "mode F have no known range"),
    ],
)
def test_images_that_do_not_match_are_refused_by_name(folder, image, arguments, message):
    odd = folder / "dog" / "odd.png"
    image.save(odd, format="TIFF")
    with pytest.raises(DataError, match=message) as error:
        load(folder, **arguments)
    assert str(odd) in str(error.value)
    if image.mode == "RGB":
        assert load(folder, image_size=(5, 5)).examples == 10  # 80 % of 13


def test_folders_without_two_full_classes_are_refused(folder, tmp_path):
    (folder / "emu/nest").mkdir(parents=True)
    with pytest.raises(DataError, match="nest is a folder"):
        load(folder)
    (folder / "emu/nest").rmdir()
    for file in (folder / "dog").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"class folders \['cat'\] with images; expected two or"):
        load(folder)
    with pytest.raises(DataError, match=r"cat has the class folders \[\]; expected two or more"):
        load(folder / "cat")
    with pytest.raises(DataError, match=r"class folders \['pets'\]"):
        load(tmp_path)


# .npz files


def test_npz_files_in_both_forms(tmp_path):
    data = numbered(100)
    np.savez(tmp_path / "one.npz", images=data.images, labels=data.labels)
    training, test = load(tmp_path / "one.npz"), load(tmp_path / "one.npz", "test")
    assert np.bincount(test.labels).tolist() == [4] * 5
    assert sorted([*names_of(training), *names_of(test)]) == list(range(100))
    np.testing.assert_array_equal(test.labels, names_of(test) % 5)

    grey = data.images[..., 0]
    keras_form = {"x_train": grey, "y_train": data.labels, "x_test": grey[:7] + 1}
    np.savez(tmp_path / "two.npz", y_test=data.labels[:7], **keras_form)
    training, test = load(tmp_path / "two.npz"), load(str(tmp_path / "two.npz"), "test")
    np.testing.assert_array_equal(training.images[..., 0], grey)
    np.testing.assert_array_equal(test.images[..., 0], grey[:7] + 1)
    assert test.label_names == training.label_names == tuple("01234")
    assert (training.name, test.split) == ("two", "test")
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_bad_npz_files_are_refused(tmp_path):
    file = tmp_path / "bad.npz"
    images, labels = numbered(20).images, numbered(20).labels

    def refused(message, **arrays):
        if arrays:
            np.savez(file, **arrays)
        with pytest.raises(DataError, match=message):
            load(file)

    refused(r"holds \['pixels'\]; expected images and labels", pixels=images)
    refused("label 5 at index 4", images=images, labels=labels + 1)  # counted from 1
    refused("allow_pickle=False", images=np.array([{}, {}]), labels=labels)
    good = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels + 1}
    np.savez(file, **good)
    with pytest.raises(DataError, match=r"bad \(test\): label 5 at index 4; .* 0..4"):
        load(file, "test")
    file.write_bytes(file.read_bytes()[:-30])
    refused("bad.npz is not a readable .npz")
    file.write_bytes(b"")
    refused("bad.npz is not a readable .npz")


# TensorFlow Datasets


RANDOM = np.random.default_rng(6)
TINY = [(RANDOM.integers(0, 256, (6, 5, 3), np.uint8), int(i % 3)) for i in range(20)]


class ZooTiny(tfds.core.GeneratorBasedBuilder):
    """Twenty images, 15 to train on and 5 for test."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 5, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 15), "test": self._generate_examples(15, 20)}

    def _generate_examples(self, start, stop):
        for index in range(start, stop):
            yield index, {"image": TINY[index][0], "label": TINY[index][1]}


class ZooPhotographs(ZooTiny):
    """Has images of several sizes, and no test split."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(20):
            colour = np.full((4 + index, 9, 3), 10 * index, np.uint8)
            yield index, {"image": colour, "label": index % 2}


class ZooOffline(ZooTiny):
    """Cannot be downloaded."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("no route to host")


class ZooTexts(ZooTiny):
    """Has no images."""

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)


def test_a_tfds_data_set_is_prepared_and_read_exactly(tmp_path, monkeypatch):
    training = load("zoo_tiny", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(ZooTiny, "_split_generators", ZooOffline._split_generators)
    test = load("zoo_tiny:1.0.0", "test")
    for data, expected in ((training, TINY[:15]), (test, TINY[15:])):
        assert contents(data) == sorted((bytes(image), label) for image, label in expected)
        assert data.label_names == ("ant", "bee", "cow")
    assert load("zoo_tiny", image_size=(3, 4)).image_shape == (3, 4, 3)


def test_a_tfds_data_set_can_stay_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        memory, disk = (
            load("zoo_tiny", split, data_dir=tmp_path, image_size=(3, 4), stream=stream)
            for stream in (False, True)
        )
        assert len(list((tmp_path / "cache").glob(f"zoo_tiny-{split}-*/images.bin"))) == 1
        np.testing.assert_array_equal(disk.images, memory.images)
        np.testing.assert_array_equal(disk.labels, memory.labels)


def test_a_tfds_data_set_of_many_sizes_without_test_images(tmp_path):
    with pytest.raises(DataError, match=r"zoo_photographs train image \d+ has the shape"):
        load("zoo_photographs", data_dir=tmp_path)
    parts = [
        load("zoo_photographs", split, data_dir=tmp_path, image_size=(5, 6))
        for split in ("train", "test")
    ]
    assert [part.examples for part in parts] == [16, 4]
    flat = [(bytes([10 * index]) * 5 * 6 * 3, index % 2) for index in range(20)]
    assert contents(*parts) == sorted(flat)


def test_tfds_data_sets_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'zoo_offline': no route to host(.|\n)*TFDS_DATA_DIR"):
        load("zoo_offline", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"features are \['text'\]; expected image and label"):
        load("zoo_texts", data_dir=tmp_path)
    load("zoo_tiny", data_dir=tmp_path)
    (record,) = tmp_path.glob("zoo_tiny/1.0.0/*-train.tfrecord*")
    damaged = bytearray(record.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    record.write_bytes(damaged)
    with pytest.raises(DataError, match=r"could not give 'zoo_tiny'.*corrupted record"):
        load("zoo_tiny", data_dir=tmp_path)


@pytest.mark.skipif(not (PREPARED / "mnist").is_dir(), reason="MNIST is not prepared here")
def test_mnist_is_the_published_one():
    test = load("mnist", "test", data_dir=PREPARED)
    assert test.image_shape == (28, 28, 1)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == counts
    assert test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)


# Names


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(DataError, match=r"'fashion_mnst' is neither .* mean fashion_mnist"):
        load("fashion_mnst")
    with pytest.raises(DataError, match=r"'\./nowhere/at\.npz' is neither a data set nor a path"):
        load("./nowhere/at.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, 'split is "train" or "test" .* received \'validation\''),
        ({"image_size": 3.5}, r"image_size is \(height, width\) in pixels; received 3.5"),
        ({"image_size": (32, 0)}, r"received \(32, 0\)"),
        ({"image_size": (32, 2.5)}, r"received \(32, 2.5\)"),
    ],
)
def test_arguments_of_load_are_checked_first(arguments, message):
    with pytest.raises(DataError, match=message):
        load("digits", **arguments)


def test_an_image_file_is_read_as_a_model_wants_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), "uint8")
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels).convert("L")
    colour.save(tmp_path / "colour.png")
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png", (9, 7, 3)), pixels)
    read = read_image(tmp_path / "colour.png", (9, 7, 1))
    np.testing.assert_array_equal(read[..., 0], np.asarray(grey))
    read = read_image(tmp_path / "grey.png", (9, 7, 3))
    np.testing.assert_array_equal(read, np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    small = colour.resize((4, 5), Image.Resampling.BILINEAR)
    read = read_image(tmp_path / "colour.png", (5, 4, 3))
    np.testing.assert_array_equal(read, np.asarray(small))


def test_the_name_of_a_data_set_means_the_data_set_and_a_path_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mnist", "mine"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(5):
                pixels = np.full((4, 4), 50 * index, "uint8")
                Image.fromarray(pixels).save(tmp_path / name / label / f"{index}.png")
    assert load("digits").image_shape == (8, 8, 1)
    for folder in ("./digits", Path("digits"), "./mnist", Path("mnist"), "mine"):
        assert load(folder).image_shape == (4, 4, 1)
    made = dataclasses.replace(a_few(), name="of TFDS")
    monkeypatch.setattr(readers, "read_tfds", lambda name, *_, **__: {"mnist": made}[name])
    assert load("mnist") is made


MOVED = Augmentation(shift=2, flip=True, jitter=0.1)


def a_few(examples=7):
    pixels = np.random.default_rng(0).integers(0, 256, (examples, 6, 6, 1), "uint8")
    return ImageData("made", "train", pixels, np.arange(examples) % 3, tuple("abc"))


def shown(data, steps, batch_size=4, **arguments):
    """[(label, image), ...] of a stream of `data`, whose labels tell its images apart."""
    batches = data.training_batches(batch_size, seed=3, augmentation=MOVED, **arguments)
    return [
        (int(label), image.numpy())
        for images, labels in batches.take(steps)
        for label, image in zip(labels, images, strict=True)
    ]


def each_its_own(examples=7):
    """A class an image."""
    data = a_few(examples)
    names = tuple(map(str, range(examples)))
    return ImageData("made", "train", data.images, np.arange(examples), names)


def test_a_view_is_a_function_of_seed_image_and_number_alone():
    data = each_its_own()
    views = np.stack(list(data.views(2, 3, seed=3, augmentation=MOVED).unbatch()))
    assert views.shape == (14, 6, 6, 1)
    for batch_size in (1, 4, 9):
        stream = shown(data, 40 // batch_size, batch_size, views=2)
        for position, (label, image) in enumerate(stream):
            view = position // 7 % 2
            np.testing.assert_array_equal(image, views[7 * view + label])
    assert not np.array_equal(views[:7], views[7:])
    other = np.stack(list(data.views(2, 3, seed=4, augmentation=MOVED).unbatch()))
    assert not np.array_equal(views, other)


def test_a_stream_of_views_resumes_at_any_step():
    data = each_its_own()
    whole = shown(data, 9, views=3)
    resumed = shown(data, 5, views=3, start_step=4)
    for (label, image), (again, other) in zip(whole[16:], resumed, strict=True):
        assert label == again
        np.testing.assert_array_equal(image, other)


def test_views_leave_the_order_of_the_images_alone():
    data = each_its_own()
    orders = [[label for label, _ in shown(data, 6, views=views)] for views in (None, 1, 4)]
    assert orders[0] == orders[1] == orders[2]


def test_without_views_each_pass_looks_different():
    data = each_its_own()
    first, second = (dict(shown(data, 7, 1, start_step=start)) for start in (0, 7))
    assert first.keys() == second.keys()
    assert any(not np.array_equal(first[label], second[label]) for label in first)


def test_teacher_logits_follow_their_images_and_views():
    data = each_its_own()
    logits = np.arange(2 * 7 * 3).reshape(2, 7, 3).astype("float32")
    batches = data.training_batches(4, seed=3, views=2, teacher_logits=logits)
    for step, (_, y) in enumerate(batches.take(7)):
        for place, (label, said) in enumerate(zip(y["labels"], y["teacher_logits"], strict=True)):
            view = (4 * step + place) // 7 % 2
            np.testing.assert_array_equal(said, logits[view, int(label)])


def test_without_views_an_image_has_one_teacher_output_in_every_pass():
    data = each_its_own()
    logits = np.arange(7 * 3).reshape(1, 7, 3).astype("float32")
    batches = data.training_batches(4, seed=3, start_step=5, teacher_logits=logits)
    plain = data.training_batches(4, seed=3, start_step=5)
    for (x, y), (same_x, labels) in zip(batches.take(9), plain.take(9), strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y["labels"], labels)
        np.testing.assert_array_equal(y["teacher_logits"], logits[0, labels.numpy()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_logits": np.zeros((2, 7, 3))}, r"\(2, 7\); the data have \(1, 7\)"),
        ({"views": 0}, "views is a whole number"),
        ({"views": 1, "teacher_logits": np.zeros((2, 7, 3))}, r"\(2, 7\); the data have \(1, 7\)"),
        ({"views": 1, "teacher_logits": np.zeros((1, 8, 3))}, r"\(1, 8\); the data have \(1, 7\)"),
    ],
)
def test_views_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        a_few().training_batches(4, seed=0, **arguments)


def test_classes_can_be_left_out():
    data = a_few().without([1])
    assert data.labels.tolist() == [0, 2, 0, 2, 0]
    np.testing.assert_array_equal(data.images, a_few().images[[0, 2, 3, 5, 6]])
    assert data.label_names == ("a", "b", "c")
    with pytest.raises(DataError, match="no class 3 to leave out"):
        a_few().without([3])
    with pytest.raises(DataError, match="every label is"):
        a_few().without([1, 2])
