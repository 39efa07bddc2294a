"""Labelled images, and the batches that a training sees.

The order of training and its random changes are functions of (seed, step) alone. A run that was
stopped continues with the very batches that it would have seen, and no iterator is ever saved.
"""

import collections
import dataclasses
from dataclasses import dataclass, field

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data import packs
from zoo.data.augmentation import AS_THEY_ARE
from zoo.data.checks import DataError, as_uint8, whole_number, whole_numbers
from zoo.data.dividing import checksum, contents_of


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images: `images` uint8 (n, h, w, c), `labels` int64 (n,), 0..classes-1.

    Images (n, h, w) get a channel, labels (n, 1) lose an axis, and other types of whole numbers
    are converted. `zoo.packs.PackedImages` stay on disk; all that is asked of them here is the
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
        if not isinstance(images, packs.PackedImages):
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
        if not isinstance(images, packs.PackedImages):
            images = as_uint8(images, where)
        object.__setattr__(self, "images", images)
        labels = whole_numbers(labels, self.classes - 1, f"{where}: label").astype(np.int64)
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
        return [self.examples, checksum(self.labels.astype("<i8").tobytes()), self.source]

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.images.shape[1:]

    def batches(self, batch_size):
        """All images once, in order: (batch, h, w, c) float32 in 0..255 and (batch,) int64 labels.

        For evaluation: the last batch holds what remains. A `tf.data.Dataset`; under Keras' other
        backends a `keras.utils.PyDataset`.
        """
        batch_size = whole_number("batch_size", batch_size, at_least=1)
        if numpy_batches := _by_numpy():
            return numpy_batches.Batches(self, batch_size)
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
        augmentation=AS_THEY_ARE,
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
        batch_size = whole_number("batch_size", batch_size, at_least=1)
        start_step = whole_number("start_step", start_step, at_least=0)
        seed = whole_number("seed", seed, at_least=0)
        self.check_augmentation(augmentation)
        if views is not None:
            views = whole_number("views", views, at_least=1)
        if teacher_logits is not None and teacher_logits.shape[:2] != (views, self.examples):
            raise DataError(
                f"teacher_logits are of (views, images) {teacher_logits.shape[:2]}; the data have "
                f"({views}, {self.examples})."
            )
        part = _part(batch_size, shard)
        if numpy_batches := _by_numpy():
            return numpy_batches.TrainingBatches(
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

    def views(self, views, batch_size, *, seed, augmentation=AS_THEY_ARE):
        """Batches of float32 images, in order: view 0 of all of them, then view 1 of all, ...

        The views that `training_batches` shows: (examples, h, w, c) each, the last batch of a view
        holding what remains.
        """
        self.check_augmentation(augmentation)
        if numpy_batches := _by_numpy():
            return numpy_batches.views(self, views, batch_size, seed, augmentation)
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
        for index, content in enumerate(contents_of(other.images)):
            theirs[content].append(index)
        return [
            index
            for index, content in enumerate(contents_of(self.images))
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
        if isinstance(self.images, packs.PackedImages):

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
    """Return the module that makes batches with NumPy; None under the TensorFlow backend."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return None
    from zoo.data import numpy_batches

    return numpy_batches


def _part(batch_size, shard):
    """Return the slice of a batch that a shard has."""
    index, count = shard
    count = whole_number("shard count", count, at_least=1)
    if batch_size % count or not 0 <= index < count:
        raise DataError(
            f"shard is (index, count), 0 <= index < count, and count divides the batch size "
            f"{batch_size}; received {shard}."
        )
    return slice(index * batch_size // count, (index + 1) * batch_size // count)
