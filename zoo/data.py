"""A name, a folder or an `.npz` file -> images, in memory or on disk -> tf.data.

The order of training and its random changes are functions of (seed, step) alone. A run that was
stopped continues with the very batches that it would have seen, and no iterator is ever saved.
"""

import collections
import dataclasses
import difflib
import itertools
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo import streaming

# The formats that Pillow decodes itself; for some others it starts programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
# Beyond it images stay on disk: training and evaluation hold up to three copies in memory.
STREAM_BYTES = 2 * 2**30


class DataError(ValueError):
    """Data, or a wish about data, that cannot be trained on: the message names file or index."""


def _integer(name, value, at_least):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise DataError(f"{name} is a whole number of {at_least} or more; received {value!r}.")
    return int(value)


@dataclass(frozen=True)
class Augmentation:
    """The random changes that training images get; by default none.

    Arguments:
        pad_and_crop: pad with p black pixels on every side and crop the original size at a random
            place, one of (2p + 1)^2. Deeply-Supervised Nets trains on CIFAR-10 with p = 4.
        flip: mirror left and right with probability 1/2.
        shift: move by -s..s pixels, down and across, and repeat the edge pixels in the gap. With
            black in the gap this would be `pad_and_crop`, so give one or the other.
        jitter: turn by up to 2j radians, scale by up to the share j and move by up to the share j
            of the size, for j in 0..0.5; bilinear, repeating the edge pixels in the gaps.
        cutout: blacken a square of c x c pixels, less what lies outside, whose centre is any pixel
            of the image, after all other changes: arXiv:1708.04552, whose squares are grey.

    Raises:
        DataError: for a negative or fractional distance or side, both kinds of translation, or a
            jitter out of range.
    """

    pad_and_crop: int = 0
    flip: bool = False
    shift: int = 0
    jitter: float = 0.0
    cutout: int = 0

    def __post_init__(self):
        for name in ("pad_and_crop", "shift", "cutout"):
            _integer(name, getattr(self, name), at_least=0)
        if self.pad_and_crop and self.shift:
            raise DataError(f"{self}: both translate the image; give pad_and_crop or shift.")
        if not 0 <= self.jitter <= 0.5:
            raise DataError(f"jitter is a share in 0..0.5; received {self.jitter}.")

    @property
    def reach(self):
        """The largest translation, in pixels."""
        return self.pad_and_crop or self.shift

    def draws(self, count, seed):
        """(count, 9) random numbers; `seed`, two integers, decides them: every change of an image.

        Numbers in 0..1 (down, right, mirror), in -jitter..jitter (turn, scale, down, right), and
        in 0..1 (the square's centre: down, right).
        """
        moves = tf.random.stateless_uniform((3, count, 1), seed)[..., 0]
        another = tf.random.experimental.stateless_fold_in
        jitters = tf.random.stateless_uniform(
            (4, count), another(seed, 1), -self.jitter, self.jitter
        )
        squares = tf.random.stateless_uniform((2, count), another(seed, 2))
        return tf.transpose(tf.concat([moves, jitters, squares], axis=0))

    def apply(self, images, draws):
        """Images (batch, h, w, c) -> float32 ones, changed as their draws (batch, 9) say."""
        draws = tf.transpose(draws)
        changed = self._cropped(images, draws[:3]) if self.reach or self.flip else images
        changed = tf.cast(changed, tf.float32)
        changed = self._jittered(changed, draws[3:7]) if self.jitter else changed
        return self._cut_out(changed, draws[7:]) if self.cutout else changed

    def _cropped(self, images, draws):
        _, height, width, _ = images.shape
        reach = self.reach
        draws = draws[..., tf.newaxis]
        down, right = tf.unstack(tf.cast(draws[:2] * (2 * reach + 1), tf.int32))
        rows, columns = tf.range(height), tf.range(width)
        mirrored = draws[2] < (0.5 if self.flip else 0.0)
        rows, columns = down + rows, right + tf.where(mirrored, columns[::-1], columns)
        if self.shift:
            rows = tf.clip_by_value(rows, reach, reach + height - 1)
            columns = tf.clip_by_value(columns, reach, reach + width - 1)
        # Two gathers of whole rows and columns cost 14 us of CPU for a 32 x 32 image, all told;
        # ImageProjectiveTransformV3 costs 22.
        padded = tf.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
        return tf.gather(cropped, columns, axis=2, batch_dims=1)

    def _jittered(self, images, draws):
        height, width = images.shape[1:3]
        return _affine(images, 2 * draws[0], 1 + draws[1], height * draws[2], width * draws[3])

    def _cut_out(self, images, draws):
        def outside(size, draws):
            first = tf.cast(draws * size, tf.int32)[:, tf.newaxis] - self.cutout // 2
            pixels = tf.range(size)
            return (pixels < first) | (pixels >= first + self.cutout)

        _, height, width, _ = images.shape
        rows, columns = outside(height, draws[0]), outside(width, draws[1])
        kept = rows[:, :, tf.newaxis] | columns[:, tf.newaxis, :]
        return images * tf.cast(kept, images.dtype)[..., tf.newaxis]


def _affine(images, angle, scale, down, right):
    """Turn and scale about the centre, then move; every argument but the images is (batch,)."""
    height, width = images.shape[1:3]
    middle, centre = (height - 1) / 2, (width - 1) / 2
    cosine, sine = tf.cos(angle) / scale, tf.sin(angle) / scale
    # The kernel wants, for each pixel (x, y) of the result, where in the image it comes from.
    columns = (cosine, sine, centre - cosine * (centre + right) - sine * (middle + down))
    rows = (-sine, cosine, middle + sine * (centre + right) - cosine * (middle + down))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*columns, *rows, tf.zeros_like(angle), tf.zeros_like(angle)], axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images: `images` uint8 (n, h, w, c), `labels` int64 (n,), 0..classes-1.

    Images (n, h, w) get a channel, labels (n, 1) lose an axis, and other types of whole numbers
    are converted. `zoo.streaming.PackedImages` stay on disk; all that is asked of them here is the
    same, to the bit. `skipped` says of each image that was left out which it is, and why. `source`
    tells what they were divided from; "" where the test images stood by themselves.

    Raises:
        DataError: for images that are not whole numbers 0..255 or not grey or RGB, labels that are
            not 0..classes-1, counts that differ, no images, or a single class.
    """

    name: str
    split: str
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    label_names: tuple
    skipped: tuple = field(default=(), repr=False)
    source: str = field(default="", repr=False)

    def __post_init__(self):
        where = f"{self.name} ({self.split})"
        images, labels = self.images, np.asarray(self.labels)
        if not isinstance(images, streaming.PackedImages):
            images = np.asarray(images)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(
                f"{where}: images have shape {np.shape(self.images)}; expected (n, height, width), "
                "or (n, height, width, channels) with 1 or 3 channels, which come last."
            )
        if images.size == 0:
            raise DataError(f"{where}: no images; their shape is {images.shape}.")
        if labels.shape == (len(images), 1):
            labels = labels[:, 0]
        if labels.shape != (len(images),):
            raise DataError(
                f"{where}: {len(images)} images, and labels of shape {labels.shape}; expected one "
                "integer an image (take the argmax of one-hot labels)."
            )
        if not isinstance(images, streaming.PackedImages):
            images = _as_uint8(images, where)
        object.__setattr__(self, "images", images)
        labels = _whole_numbers(labels, self.classes - 1, f"{where}: label").astype(np.int64)
        if (labels == labels[0]).all():
            raise DataError(f"{where}: every label is {labels[0]}; expected two classes or more.")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "label_names", tuple(self.label_names))

    @property
    def examples(self):
        """The number of images."""
        return len(self.images)

    @property
    def classes(self):
        """The number of classes."""
        return len(self.label_names)

    @property
    def identity(self):
        """[how many images, a checksum of their labels, `source`]: what a run remembers of them."""
        return [self.examples, _checksum(self.labels.astype("<i8").tobytes()), self.source]

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.images.shape[1:]

    def batches(self, batch_size):
        """All images once, in order: (batch, h, w, c) float32 in 0..255 and (batch,) int64 labels.

        For evaluation: the last batch holds what remains. A `tf.data.Dataset`; under Keras' other
        backends a `keras.utils.PyDataset`.
        """
        batch_size = _integer("batch_size", batch_size, at_least=1)
        if numpy_data := _by_numpy():
            return numpy_data.Batches(self, batch_size)
        images, labels = self._images(), self._labels()

        def batch(start):
            indices = tf.range(start, tf.minimum(start + batch_size, self.examples))
            return tf.cast(images(indices), tf.float32), tf.gather(labels, indices)

        starts = tf.data.Dataset.range(0, self.examples, batch_size)
        return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def training_batches(
        self,
        batch_size,
        *,
        seed,
        start_step=0,
        augmentation=Augmentation(),
        shard=(0, 1),
        views=None,
        teacher_logits=None,
    ):
        """An endless stream: (batch_size, h, w, c) float32 in 0..255, (batch_size,) int64 labels.

        The stream is one shuffled pass over the images after another, cut into full batches, so an
        epoch of ceil(examples / batch_size) steps runs a few images into the next pass. Step k
        depends on (seed, k) alone: `start_step=k` continues exactly where k steps would have led.
        The order of the images does not depend on the batch size. Under Keras' other backends a
        `keras.utils.PyDataset` of the same batches; see `zoo.numpy_data`.

        Arguments:
            shard: (index, count): of each batch the index-th of count equal parts, 0 the first,
                for the worker of that index: together they see the very batches of a single one.
            views: how many ways the augmentation shows each image in all, 1 or more: pass p shows
                view p modulo `views`, the same of all batch sizes. None for another way each time.
            teacher_logits: (views, examples, ...), what a teacher said of each image as that view
                shows it. The labels are then {"labels": ..., "teacher_logits": (batch_size, ...)}.

        Raises:
            DataError: for a batch size or number of views below 1, a negative step or seed, a
                batch that does not divide into the shards, logits of other images, or a
                translation that could move the whole image out of view.
        """
        batch_size = _integer("batch_size", batch_size, at_least=1)
        start_step = _integer("start_step", start_step, at_least=0)
        seed = _integer("seed", seed, at_least=0)
        self.check_augmentation(augmentation)
        if views is not None:
            views = _integer("views", views, at_least=1)
        if teacher_logits is not None and teacher_logits.shape[:2] != (views, self.examples):
            raise DataError(
                f"teacher_logits are of (views, images) {teacher_logits.shape[:2]}; the data have "
                f"({views}, {self.examples})."
            )
        part = _part(batch_size, shard)
        if numpy_data := _by_numpy():
            return numpy_data.TrainingBatches(
                self, batch_size, part, seed, start_step, augmentation, views, teacher_logits
            )
        images, labels = self._images(), self._labels()
        with tf.device("CPU:0"):
            logits = None if teacher_logits is None else tf.constant(teacher_logits)
        first_pass, offset = divmod(start_step * batch_size, self.examples)

        # Sorting random keys costs 6 ms for 50,000 images. tf.random.experimental.index_shuffle
        # needs no sort, but its orders are poor: two passes over 50,000 correlate by 0.66.
        # Passes draw from even seeds and steps from odd ones, so that they share no numbers.
        def shuffled(number):
            keys = tf.random.stateless_uniform(
                (self.examples,), (seed, 2 * number), minval=None, maxval=None, dtype=tf.int64
            )
            order = tf.argsort(keys)[tf.where(number == first_pass, offset, 0) :]
            if views is None:
                return order
            view = number % views
            draws = tf.gather(self._draws(augmentation, seed, view), order)
            return order, tf.fill(tf.shape(order), view), draws

        def batch(step, indices, view=None, draws=None):
            if draws is None:
                draws = augmentation.draws(batch_size, (seed, 2 * step + 1))
            indices, draws = indices[part], draws[part]
            targets = tf.gather(labels, indices)
            if logits is not None:
                places = tf.stack([view[part], tf.cast(indices, view.dtype)], axis=1)
                targets = {"labels": targets, "teacher_logits": tf.gather_nd(logits, places)}
            return augmentation.apply(images(indices), draws), targets

        def shown(step, order):
            return batch(step, *order) if isinstance(order, tuple) else batch(step, order)

        steps = tf.data.Dataset.counter(start_step)
        order = tf.data.Dataset.counter(first_pass).map(shuffled)
        order = order.rebatch(batch_size, drop_remainder=True)
        return (
            tf.data.Dataset.zip(steps, order)
            .map(shown, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def views(self, views, batch_size, *, seed, augmentation=Augmentation()):
        """Batches of float32 images, in order: view 0 of all of them, then view 1 of all, ...

        The views that `training_batches` shows: (examples, h, w, c) each, the last batch of a view
        holding what remains.
        """
        self.check_augmentation(augmentation)
        if numpy_data := _by_numpy():
            return numpy_data.views(self, views, batch_size, seed, augmentation)
        images = self._images()

        def batches(view):
            draws = self._draws(augmentation, seed, view)
            starts = tf.data.Dataset.range(0, self.examples, batch_size)

            def batch(start):
                indices = tf.range(start, tf.minimum(start + batch_size, self.examples))
                return augmentation.apply(images(indices), tf.gather(draws, indices))

            return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE)

        return tf.data.Dataset.range(views).flat_map(batches).prefetch(tf.data.AUTOTUNE)

    def _draws(self, augmentation, seed, view):
        # Passes and steps, which have the smaller numbers, never come so far.
        return augmentation.draws(self.examples, (seed, view + 2**40))

    def check_augmentation(self, augmentation):
        """Refuse, with a DataError, one that can leave nothing of an image."""
        if augmentation.reach >= min(self.image_shape[:2]):
            raise DataError(f"{augmentation} can move all of a {self.image_shape} image away.")
        if augmentation.cutout >= max(self.image_shape[:2]):
            raise DataError(f"{augmentation} can blacken all of a {self.image_shape} image.")

    def also_in(self, other):
        """The indices of the images that `other` has, too, pixel by pixel."""
        theirs = collections.defaultdict(list)
        for index, content in enumerate(_contents(other.images)):
            theirs[content].append(index)
        return [
            index
            for index, content in enumerate(_contents(self.images))
            if any(np.array_equal(self.images[index], other.images[i]) for i in theirs[content])
        ]

    def without(self, classes):
        """The images of all other classes; the classes themselves stay, with no image.

        Raises:
            DataError: for a class that there is not, or if fewer than two classes have images.
        """
        for each in classes:
            if not 0 <= each < self.classes:
                raise DataError(
                    f"{self.name} has no class {each!r} to leave out: 0 to {self.classes - 1}."
                )
        return self._take(np.flatnonzero(~np.isin(self.labels, list(classes))))

    def holdout(self, fraction, seed=0, order=None):
        """Two sets, (training, validation); validation takes `fraction` of each class, rounded.

        They are drawn at random, or are the first of `order`, all indices.

        Raises:
            DataError: if either would have fewer than two images, or training would lose a class.
        """
        examples = round(self.examples * fraction)
        if not 2 <= examples <= self.examples - 2:
            raise DataError(
                f"{self.name} ({self.split}): a holdout of {fraction} takes {examples} of "
                f"{self.examples} images, and each part needs two or more."
            )
        chosen = self._stratified(examples, self._shuffled(seed) if order is None else order)
        rest = np.setdiff1d(np.arange(self.examples), chosen)
        lost = np.setdiff1d(self.labels, self.labels[rest])
        if lost.size:
            raise DataError(
                f"{self.name} ({self.split}): a holdout of {fraction} leaves no training image of "
                f"class {self.label_names[lost[0]]!r}; give a smaller fraction."
            )
        return self._take(rest), dataclasses.replace(self._take(chosen), split="validation")

    def subset(self, examples, seed=0):
        """`examples` images, the classes in proportion; of one seed, a larger set has the smaller.

        Raises:
            DataError: if there are fewer images than that, or fewer than classes are asked for.
        """
        if not self.classes <= examples <= self.examples:
            raise DataError(
                f"{self.name} ({self.split}): a subset has {self.classes} (one a class) to "
                f"{self.examples} images; received {examples}."
            )
        return self._take(self._stratified(examples, self._shuffled(seed)))

    def _take(self, indices):
        images = self.images.take(indices, axis=0)
        return dataclasses.replace(self, images=images, labels=self.labels[indices])

    def _shuffled(self, seed):
        return np.random.default_rng(seed).permutation(self.examples)

    def _stratified(self, examples, order):
        """The sorted indices of `examples` images: of every class the first, to the same depth."""
        depth = np.empty(self.examples)
        for label in np.unique(self.labels):
            members = order[self.labels[order] == label]
            depth[members] = (np.arange(len(members)) + 0.5) / len(members)
        return np.sort(order[np.argsort(depth[order], kind="stable")[:examples]])

    def _images(self):
        """A function of tensors: indices (batch,) -> images uint8 (batch, h, w, c)."""
        if isinstance(self.images, streaming.PackedImages):

            def read(indices):
                read = tf.numpy_function(
                    self.images.__getitem__, [indices], tf.uint8, stateful=False
                )
                return tf.ensure_shape(read, (*indices.shape, *self.image_shape))

            return read
        # On a machine with a GPU the constant would lie in its memory, and come back every step.
        with tf.device("CPU:0"):
            images = tf.constant(self.images)
        return lambda indices: tf.gather(images, indices)

    def _labels(self):
        with tf.device("CPU:0"):
            return tf.constant(self.labels)


def _by_numpy():
    """What makes the batches for Keras' other backends, where TensorFlow may be absent; or None."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return None
    from zoo import numpy_data

    return numpy_data


def _part(batch_size, shard):
    """Which images of a batch a shard has, as a slice."""
    index, count = shard
    count = _integer("shard count", count, at_least=1)
    if batch_size % count or not 0 <= index < count:
        raise DataError(
            f"shard is (index, count), 0 <= index < count, and count divides the batch size "
            f"{batch_size}; received {shard}."
        )
    return slice(index * batch_size // count, (index + 1) * batch_size // count)


def load(
    name_or_path, split="train", *, data_dir=None, image_size=None, stream=None, skip_corrupt=0.0
):
    """The "train" or "test" images of a data set, a folder or a file.

    The name of a data set means the data set, even where a folder is called so: "./mnist" or a
    `pathlib.Path` means the folder. What brings no test images of its own is split in the
    same way each time, 80 % of each class for training and 20 % for test, by what the images show:
    whatever their order and names, with more images the old ones stay where they were, and copies
    of one are together, but for a few at the border between the two.

    Arguments:
        name_or_path: one of
            "digits": 1,797 images of 8 x 8 pixels that scikit-learn brings, 0..16 made 0..255;
            an image classification set of TensorFlow Datasets, such as "mnist": where there is no
            test split, validation takes its place;
            a folder FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE with FOLDER/test (else val,
            valid or validation) beside it. Photographs are turned upright as their EXIF data say, 1
            and 16-bit grey become 8-bit grey, palettes and other colours RGB, and transparency is
            dropped. Hidden files are passed over;
            an .npz file of images and labels, or of x_train, y_train, x_test and y_test.
        data_dir: where TensorFlow Datasets keeps its files; else the environment's TFDS_DATA_DIR.
        image_size: (height, width) to resize to, bilinear and antialiased, if need be stretched.
        stream: keep the images of a folder or of TensorFlow Datasets on disk, decoded, and read
            each batch from there; the batches are the same, to the bit. False keeps them in memory,
            None takes the disk for images of more than 2 GiB. See `zoo.streaming`.
        skip_corrupt: the share of a folder's files, 0..1, that may be no images and are then left
            out. At 0 the first of them is refused.

    Raises:
        DataError: for whatever cannot be trained on; the message names the file or the index.
    """
    if split not in ("train", "test"):
        raise DataError(f'split is "train" or "test" (see holdout for more); received {split!r}.')
    size = np.asarray((1, 1) if image_size is None else image_size)
    if size.shape != (2,) or size.dtype.kind != "i" or size.min() < 1:
        raise DataError(f"image_size is (height, width) in pixels; received {image_size!r}.")
    if not 0 <= skip_corrupt < 1:
        raise DataError(f"skip_corrupt is a share in 0 <= share < 1; received {skip_corrupt!r}.")
    if (prepared := _read_prepared(name_or_path, split, image_size)) is not None:
        return prepared
    path = Path(name_or_path).expanduser()
    bare = isinstance(name_or_path, str) and os.sep not in name_or_path
    if bare and name_or_path == "digits":
        data = _read_digits(split)
    elif path.exists() and not (bare and name_or_path in _data_sets()):
        if path.is_dir():
            data = _read_folder(path, split, image_size, stream, skip_corrupt)
        else:
            data = _read_npz(path, split)
    else:
        data = _read_tfds(str(name_or_path), split, data_dir, image_size, stream)
    if image_size and data.image_shape[:2] != tuple(image_size):
        resized = np.stack([_resize(image, image_size) for image in data.images])
        data = dataclasses.replace(data, images=resized)
    return data


def prepared_file(name_or_path, image_size=None):
    """What a data set is called in the folder that the environment's ZOO_DATA names.

    There `load` finds it as an .npz file, ready: on a machine without scikit-learn, TensorFlow
    Datasets or network. `zoo pack` writes them.
    """
    size = f"-{image_size[0]}x{image_size[1]}" if image_size else ""
    return re.sub(r"[^A-Za-z0-9]+", "_", str(name_or_path)) + size + ".npz"


def _read_prepared(name_or_path, split, image_size):
    folder = os.environ.get("ZOO_DATA")
    file = Path(folder) / prepared_file(name_or_path, image_size) if folder else None
    if file is None or not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["label_names"])
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        source = str(arrays[f"source_{split}"])
        return ImageData(str(arrays["name"]), split, images, labels, names, source=source)


def _read_digits(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16))
    whole = ImageData("digits", split, images, digits.target, "0123456789")
    return _divide(whole, split, at_random=True)  # as ever: there are results on this split


def _read_npz(path, split):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib or NumPy meet
        raise DataError(f"{path} is not a readable .npz file of plain arrays: {error}") from error
    if {"images", "labels"} <= arrays.keys():
        images, labels, known = arrays["images"], arrays["labels"], arrays["labels"]
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        images, labels, known = arrays[f"x_{split}"], arrays[f"y_{split}"], arrays["y_train"]
    else:
        raise DataError(
            f"{path} holds {sorted(arrays)}; expected images and labels, or x_train, y_train, "
            "x_test and y_test."
        )
    # k distinct labels must be 0..k-1: a gap, or a count from 1, leaves one of them out of range.
    label_names = tuple(str(label) for label in range(np.unique(known).size))
    data = ImageData(path.stem, split, images, labels, label_names)
    return _divide(data, split) if "images" in arrays else data


def _read_folder(folder, split, image_size, stream, skip_corrupt):
    train = folder / "train"
    places = [folder / name for name in ("test", "val", "valid", "validation")]
    test = next((place for place in places if place.is_dir()), None)
    divided = train.is_dir() and test is not None
    if not divided:
        train = test = folder
    label_names = _class_names(train)
    difference = set(label_names) ^ set(_class_names(test))
    if difference:
        raise DataError(f"{train} and {test} differ in the class folders {sorted(difference)}.")
    root = train if split == "train" else test
    files = [
        (file, label)
        for label, name in enumerate(label_names)
        for file in _visible(root / name, "images")
    ]
    for file, _ in files:
        if file.is_dir():
            raise DataError(
                f"{file} is a folder; expected {root}/CLASS/IMAGE, or {folder}/train and "
                f"{folder}/test with such folders of classes."
            )
    skipped = []
    decoded = _whole(files, int(skip_corrupt * len(files)), skipped)
    name = folder.resolve().name

    def contents():
        found = ((file.relative_to(root), file.stat(), label) for file, label in files)
        return [[str(f), s.st_size, s.st_mtime_ns, label] for f, s, label in found]

    origin = (name, lambda: [str(root.resolve()), image_size, contents()])
    images, labels, skipped = _stack(decoded, len(files), image_size, stream, origin, skipped)
    _refuse_too_many(skipped, int(skip_corrupt * len(files)), len(files))
    lost = np.setdiff1d(np.arange(len(label_names)), labels)
    if lost.size:
        raise DataError(f"{root / label_names[lost[0]]}: none of its images could be read.")
    data = ImageData(name, split, images, labels, label_names, tuple(skipped))
    named = "\n".join(file.relative_to(root).as_posix() for file, _ in files)
    return data if divided else _divide(data, split, named)


def _whole(files, tolerated, skipped):
    """Triples (file, image, label) of the files that are images; the others go to `skipped`."""
    for file, label in files:
        try:
            image = _decode(file)
        except DataError as error:
            skipped.append(str(error))
            _refuse_too_many(skipped, tolerated, len(files), error)
        else:
            yield file, image, label


def _refuse_too_many(skipped, tolerated, files, cause=None):
    if len(skipped) > tolerated:
        many = f"More than {tolerated} of {files} files are no images, as skip_corrupt allows; "
        raise DataError(
            (many if tolerated else "")
            + f"{skipped[tolerated]}. Remove it, or leave out up to a share "
            "of the files: skip_corrupt=SHARE, at the command line --skip-corrupt SHARE."
        ) from cause


def _class_names(folder):
    names = [entry.name for entry in _visible(folder, "class folders") if entry.is_dir()]
    if len(names) < 2:
        raise DataError(
            f"{folder} has the class folders {names}; expected two or more, {folder}/CLASS/IMAGE."
        )
    return tuple(names)


def _visible(folder, expected):
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise DataError(f"{folder} is empty; expected {expected} in it.")
    return entries


def read_image(file, image_shape):
    """An image file -> uint8 (height, width, channels): grey or RGB and resized as asked.

    Raises:
        DataError: for a file that is not an image.
    """
    height, width, channels = image_shape
    image = _decode(file)
    if image.shape[-1] != channels:
        from PIL import Image

        grey = image.shape[-1] == 1
        converted = Image.fromarray(image[..., 0] if grey else image).convert(
            "RGB" if grey else "L"
        )
        image = np.asarray(converted).reshape(*image.shape[:2], channels)
    return image if image.shape[:2] == (height, width) else _resize(image, (height, width))


def _decode(file):
    """One image file -> uint8 (height, width, 1 or 3)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} is over {MAX_PIXELS:,} pixels")
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range; save 8 or 16 bits")
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image) >> 8).astype(np.uint8)  # where Pillow's convert would clip
        else:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # a damaged file raises whatever its decoder stumbles on
        raise DataError(f"{file} is not an image to train on: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _data_sets():
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _read_tfds(name, split, data_dir, image_size, stream):
    import tensorflow_datasets as tfds

    known = _data_sets()
    if re.split("[/:]", name)[0] not in known:
        nearest = difflib.get_close_matches(name, ["digits", *known])
        raise DataError(
            f"{name!r} is neither a data set nor a path."
            + (f" Did you mean {' or '.join(nearest)}?" if nearest else "")
            + ' Give "digits", the name of an image classification set of TensorFlow Datasets, '
            "such as mnist or cifar10, a folder of class folders, or an .npz file."
        )
    # TFDS itself reads the variable once, when it is imported.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
            raise ValueError(f"its features are {sorted(features)}; expected image and label")
        builder.download_and_prepare()
        splits = builder.info.splits
        held_out = [each for each in ("test", "validation") if each in splits]
        source = held_out[0] if held_out and split == "test" else "train"
        if source not in splits:
            raise ValueError(f"its splits are {sorted(splits)}; expected train")
        examples = _tfds_examples(builder, source)
        records = [[str(f), os.stat(f).st_size] for f in splits[source].filepaths]
        whole = [builder.info.full_name, source, image_size, records]
        origin = (f"{builder.name}-{source}", lambda: whole)
        count = splits[source].num_examples
        images, labels, _ = _stack(examples, count, image_size, stream, origin, [])
    except (DataError, streaming.PackError):
        raise
    except Exception as error:  # no network, no space, a wrong checksum, a damaged record, ...
        raise DataError(
            f"TensorFlow Datasets could not give {name!r}: {error}\nIf it is prepared somewhere, "
            "name that folder: set TFDS_DATA_DIR or data_dir, which now is "
            f"{data_dir or '~/tensorflow_datasets'}."
        ) from error
    data = ImageData(name, split, images, labels, features["label"].names)
    return data if held_out else _divide(data, split)


def _tfds_examples(builder, split):
    examples = builder.as_dataset(split=split).map(lambda each: (each["image"], each["label"]))
    # Images of one size are read in batches: 4 seconds for MNIST, and not 10.
    batch_size = 256 if examples.element_spec[0].shape.is_fully_defined() else 1
    index = 0
    for images, labels in examples.batch(batch_size).prefetch(2).as_numpy_iterator():
        for image, label in zip(images, labels, strict=True):
            yield f"{builder.name} {split} image {index}", image, label
            index += 1


def _stack(examples, count, image_size, stream, origin, skipped):
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
        return streaming.pack(name, describe(), rows, count, shape, skipped)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int64)
    found = 0
    for found, (image, label) in enumerate(rows, 1):
        images[found - 1], labels[found - 1] = image, label
    return images[:found], labels[:found], skipped


def _alike(examples, image_size):
    """Pairs (image, label), every image uint8 and of the first one's shape."""
    shape = first = None
    for where, image, label in examples:
        image = _as_uint8(image, where)
        if image_size:
            image = _resize(image, image_size)
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


def _resize(image, image_size):
    from PIL import Image

    height, width = image_size
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def _divide(whole, split, named="", at_random=False):
    count, labels, _ = whole.identity
    source = f"of {count} images, {labels} {_checksum(named.encode())}"
    whole = dataclasses.replace(whole, source=source)
    order = None if at_random else np.argsort(_contents(whole.images), kind="stable")
    training, test = whole.holdout(0.2, order=order)
    return training if split == "train" else dataclasses.replace(test, split="test")


def _contents(images):
    """A number for what each image shows; equal ones have the same."""
    if isinstance(images, streaming.PackedImages):
        return images.checksums
    return [zlib.crc32(np.ascontiguousarray(image)) for image in images]


def _checksum(content):
    return f"{zlib.crc32(content):08x}"


def _as_uint8(images, where):
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
        raise DataError(
            f"{where}: pixels are floats in 0..1; expected raw ones, 0..255. The models scale."
        )
    return _whole_numbers(images, 255, f"{where}: pixel").astype(np.uint8, copy=False)


def _whole_numbers(values, largest, what):
    """The values, if all are whole numbers in 0..largest."""
    if values.dtype.kind not in "uif":
        raise DataError(f"{what}s of type {values.dtype}; expected whole numbers 0..{largest}.")
    if values.dtype == np.uint8 and largest == 255:
        return values
    right = (values >= 0) & (values <= largest) & (values == np.floor(values))
    if not right.all():
        place = np.unravel_index(right.argmin(), right.shape)
        raise DataError(
            f"{what} {values[place]} at index {', '.join(map(str, place))}; expected whole numbers "
            f"0..{largest}."
        )
    return values
