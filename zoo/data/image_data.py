"""Labelled images, and the batches that a training sees.

The order of the training images and their random changes depend on (seed, step) alone. So a
stopped training continues with the same batches, and the state of an iterator is never saved.
"""

import collections
import dataclasses
import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from zoo.data import packs
from zoo.data.augmentation import AS_THEY_ARE, Augmentation
from zoo.data.checks import (
    DataError,
    as_uint8,
    refuse_odd_names,
    refuse_one_class,
    refuse_zeros_and_ones,
    whole_number,
    whole_numbers,
)
from zoo.data.dividing import PIXELS, checksum, checksums_of, pixels_of

_PARTS = ("number", "labels", "divided from", "pixels", "pixels before the division")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images.

    Images (n, h, w) get an axis of channels, labels (n, 1) lose an axis, and other types of whole
    numbers are converted. The images can also be a `zoo.streaming.PackedImages`, which stays on
    disk. All methods then give the same results, to the bit.

    Arguments:
        name: name of the data set.
        split: "train", "test" or "validation".
        images: uint8 (n, h, w, c) in 0..255, with 1 or 3 channels.
        labels: int64 (n,) in 0..classes-1.
        label_names: the names of the classes.
        skipped: a message for each image that was left out: its file, and the reason.
        source: a description of the images that these were divided from, with a checksum of
            their pixels; "" if the data set has its own test images.
        notes: what else was found in a folder, in sentences: grey images among colours, files that
            are no images, empty folders.
        files: the path of each image in a folder, relative to it; () for other data.
        shard: (index, count), the part of each batch that `training_batches` gives to this worker
            unless it is told another.

    Raises:
        DataError: if the images are not whole numbers in 0..255, all in 0..1, or not grey or RGB,
            the labels are not in 0..classes-1, the numbers of images and labels differ, there are
            no images, a class has a name that no export can have, or all images have one class and
            are not the test images.
    """

    name: str
    split: str
    images: np.ndarray | packs.PackedImages = field(repr=False)
    labels: np.ndarray = field(repr=False)
    label_names: Sequence[str]
    skipped: Sequence[str] = field(default=(), repr=False)
    source: str = field(default="", repr=False)
    notes: Sequence[str] = field(default=(), repr=False)
    files: Sequence[str] = field(default=(), repr=False)
    shard: tuple[int, int] = field(default=(0, 1), repr=False)

    def __post_init__(self) -> None:
        where = f"{self.name} ({self.split})"
        refuse_odd_names(self.label_names, where)
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
            refuse_zeros_and_ones(images, where)
        object.__setattr__(self, "images", images)
        labels = whole_numbers(labels, self.classes - 1, f"{where}: label").astype(np.int64)
        if self.split != "test":
            refuse_one_class(labels, where)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "label_names", tuple(self.label_names))

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.label_names)

    @functools.cached_property
    def checksums(self) -> np.ndarray:
        """The CRC-32 of each image's pixels, uint32 (n,). Copies of an image have the same."""
        return checksums_of(self.images)

    @property
    def identity(self) -> list[Any]:
        """A record of the images, by which a run finds out later whether they have changed.

        [number of images, checksum of their labels, description of the images that they were
        divided from, checksum of the pixels, checksum of the pixels before the division]. The
        third and the fifth are "" if the data set has its own test images. An older run has the
        first three. The checksums find accidents; someone can choose pixels that have the same.
        """
        divided_from, _, all_pixels = self.source.partition(PIXELS)
        labels = checksum(self.labels.astype("<i8").tobytes())
        return [self.examples, labels, divided_from, pixels_of(self), all_pixels]

    def changes_since(self, recorded: Sequence[Any] | None) -> str:
        """Say how the images differ from those of a recorded `identity`; "" if they do not.

        Arguments:
            recorded: an identity. What it lacks, or has as None, is not known and not compared.
        """
        pairs = zip(_PARTS, recorded or (), self.identity, strict=False)
        return "; ".join(
            f"{part} {before}, now {now}"
            for part, before, now in pairs
            if before not in (None, now)
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def batches(self, batch_size: int) -> Any:
        """Return all images once, in order, for evaluation.

        A batch is float32 images (batch_size, h, w, c) in 0..255 and int64 labels (batch_size,).
        The last batch has the remaining images. The result is a `tf.data.Dataset`, and on JAX and
        PyTorch a `keras.utils.PyDataset`.

        Raises:
            DataError: if the batch size is not a whole number of 1 or more.
        """
        batch_size = whole_number("batch_size", batch_size, at_least=1)
        return _of_the_backend().batches(self, batch_size)

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        augmentation: Augmentation = AS_THEY_ARE,
        shard: tuple[int, int] | None = None,
        views: int | None = None,
        teacher_logits: np.ndarray | None = None,
    ) -> Any:
        """Return an endless stream of shuffled and changed images.

        A batch is float32 images (batch_size, h, w, c) in 0..255 and int64 labels (batch_size,).
        The stream is one shuffled pass over the images after another, cut into full batches. So an
        epoch of ceil(examples / batch_size) steps ends a few images into the next pass.

        Step k depends on (seed, k) alone: `start_step=k` continues exactly where k steps would
        have led. The order of the images does not depend on the batch size. The result is a
        `tf.data.Dataset`, and on JAX and PyTorch a `keras.utils.PyDataset` of the same batches; see
        `zoo.numpy_data`.

        Arguments:
            batch_size: number of images in a batch of all shards.
            seed: a whole number of 0 or more.
            start_step: number of the step to begin at.
            augmentation: the random changes of the images.
            shard: (index, count). A worker receives part `index` of the `count` equal parts of
                each batch, counted from 0. Together, the workers see the batches of a single one.
                None: the shard of these images, which is all of a batch if nothing else was said.
            views: number of different views of each image under the augmentation, 1 or more. Pass
                p shows view p modulo `views`, whatever the batch size. None gives every pass new
                changes.
            teacher_logits: (views, examples, ...), a teacher's output for each view of each image.
                The labels are then {"labels": ..., "teacher_logits": (batch_size, ...)}. Where
                `views` is None, (1, examples, ...): one output for each image, however changed.

        Raises:
            DataError: if the batch size or the number of views is below 1, the step or the seed is
                negative, the batch cannot be divided into the shards, the logits belong to other
                images, or the augmentation can move or blacken a whole image.
        """
        batch_size = whole_number("batch_size", batch_size, at_least=1)
        start_step = whole_number("start_step", start_step, at_least=0)
        seed = whole_number("seed", seed, at_least=0)
        self.check_augmentation(augmentation)
        if views is not None:
            views = whole_number("views", views, at_least=1)
        if teacher_logits is not None and teacher_logits.shape[:2] != (views or 1, self.examples):
            raise DataError(
                f"teacher_logits have (views, images) {teacher_logits.shape[:2]}; the data have "
                f"({views or 1}, {self.examples}). Give the logits of these images and views."
            )
        part = _part(batch_size, self.shard if shard is None else shard)
        return _of_the_backend().training_batches(
            self, batch_size, part, seed, start_step, augmentation, views, teacher_logits
        )

    def balanced(self, batches: Any) -> Any:
        """Add a third part to `training_batches`, the weights float32 (batch_size,).

        A class of n of all N images, among k classes that have images, has the weight N / (k n).
        """
        counts = np.bincount(self.labels, minlength=self.classes)
        weights = self.examples / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return _of_the_backend().weighted(batches, weights.astype(np.float32))

    def views(
        self, views: int, batch_size: int, *, seed: int, augmentation: Augmentation = AS_THEY_ARE
    ) -> Any:
        """Return the images of the views that `training_batches` shows, in order.

        View 0 of all images comes first, then view 1 of all, and so on. A batch is float32
        (batch_size, h, w, c) in 0..255. The last batch of each view has the remaining images.

        Arguments:
            views: number of views.
            batch_size: number of images in a batch.
            seed: the seed of `training_batches`.
            augmentation: the augmentation of `training_batches`.

        Raises:
            DataError: if the augmentation can move or blacken a whole image.
        """
        self.check_augmentation(augmentation)
        return _of_the_backend().views(self, views, batch_size, seed, augmentation)

    def check_augmentation(self, augmentation: Augmentation) -> None:
        """Refuse an augmentation that can remove a whole image.

        Raises:
            DataError: if a translation or the black square is as large as an image.
        """
        smaller, larger = sorted(self.image_shape[:2])
        if augmentation.reach >= smaller:
            raise DataError(
                f"{augmentation} can move all of a {self.image_shape} image away; pad_and_crop and "
                f"shift are at most {smaller - 1} here."
            )
        if augmentation.cutout >= larger:
            raise DataError(
                f"{augmentation} can blacken all of a {self.image_shape} image; cutout is at most "
                f"{larger - 1} here."
            )

    def also_in(self, other: "ImageData") -> list[int]:
        """Return the indices of the images that `other` has, too, pixel by pixel."""
        theirs: dict[int, list[int]] = collections.defaultdict(list)
        for index, content in enumerate(other.checksums.tolist()):
            theirs[content].append(index)
        return [
            index
            for index, content in enumerate(self.checksums.tolist())
            if any(np.array_equal(self.images[index], other.images[i]) for i in theirs[content])
        ]

    def without(self, classes: Collection[int]) -> "ImageData":
        """Return the images of all other classes. The names of the classes stay the same.

        Raises:
            DataError: if a class does not exist, or fewer than two classes keep images.
        """
        for label in classes:
            if not 0 <= label < self.classes:
                raise DataError(
                    f"{self.name} has no class {label!r} to leave out; expected 0 to "
                    f"{self.classes - 1}."
                )
        return self.take(np.flatnonzero(~np.isin(self.labels, list(classes))))

    def holdout(
        self, fraction: float, seed: int = 0, order: np.ndarray | None = None
    ) -> "tuple[ImageData, ImageData]":
        """Divide the images -> (training, validation).

        Validation receives at least one image of every class that has two or more. The only image
        of a class stays in training.

        Arguments:
            fraction: the share of each class that validation receives, 0..1. The number of images
                is rounded.
            seed: the seed of a random choice of these images.
            order: all indices; validation receives the first ones of each class. None chooses at
                random.

        Raises:
            DataError: if a part has fewer than two images, or training loses a class.
        """
        examples = round(self.examples * fraction)
        if not 2 <= examples <= self.examples - 2:
            raise DataError(
                f"{self.name} ({self.split}): a holdout of {fraction} takes {examples} of "
                f"{self.examples} images, and each part needs two or more."
            )
        order = self._shuffled(seed) if order is None else order
        members = np.bincount(self.labels)
        order = order[members[self.labels[order]] > 1]
        chosen = self._stratified(max(examples, int((members > 1).sum())), order)
        rest = np.setdiff1d(np.arange(self.examples), chosen)
        lost = np.setdiff1d(self.labels, self.labels[rest])
        if lost.size:
            raise DataError(
                f"{self.name} ({self.split}): a holdout of {fraction} leaves no training image of "
                f"class {self.label_names[lost[0]]!r}; give a smaller fraction."
            )
        return self.take(rest), dataclasses.replace(self.take(chosen), split="validation")

    def subset(self, examples: int, seed: int = 0) -> "ImageData":
        """Return `examples` images, with the classes in proportion, and at least one of each.

        For one seed, a larger subset contains the smaller ones.

        Raises:
            DataError: if `examples` is larger than the number of images, or smaller than that of
                the classes.
        """
        if not self.classes <= examples <= self.examples:
            raise DataError(
                f"{self.name} ({self.split}): a subset has {self.classes} (one per class) to "
                f"{self.examples} images; received {examples}."
            )
        return self.take(self._stratified(examples, self._shuffled(seed)))

    def take(self, indices: np.ndarray) -> "ImageData":
        """Return the images of these indices."""
        images = self.images.take(indices, axis=0)
        known = len(self.files) == self.examples
        names = tuple(self.files[index] for index in indices) if known else ()
        return dataclasses.replace(self, images=images, labels=self.labels[indices], files=names)

    def _shuffled(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(self.examples)

    def _stratified(self, examples: int, order: np.ndarray) -> np.ndarray:
        """Return the sorted indices of `examples` images, the same share of each class.

        They are the first ones of their class in `order`, and at least one of each class.
        """
        depth = np.empty(self.examples)
        for label in np.unique(self.labels[order]):
            members = order[self.labels[order] == label]
            depth[members] = (np.arange(len(members)) + 0.5) / len(members)
            depth[members[0]] = 0
        return np.sort(order[np.argsort(depth[order], kind="stable")[:examples]])


def _of_the_backend() -> ModuleType:
    """Return the module that makes the batches: tf_batches, or numpy_batches on JAX and PyTorch."""
    import keras

    if keras.backend.backend() == "tensorflow":
        from zoo.data import tf_batches

        return tf_batches
    from zoo.data import numpy_batches

    return numpy_batches


def _part(batch_size: int, shard: tuple[int, int]) -> slice:
    """Return the slice of a batch that a shard receives."""
    index, count = shard
    count = whole_number("shard count", count, at_least=1)
    if batch_size % count or not 0 <= index < count:
        raise DataError(
            f"shard is (index, count), 0 <= index < count, and count divides the batch size "
            f"{batch_size}; received {shard}."
        )
    return slice(index * batch_size // count, (index + 1) * batch_size // count)
