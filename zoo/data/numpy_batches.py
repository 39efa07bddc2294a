"""The batches of `ImageData`, made with NumPy, for JAX and PyTorch.

The order of the images, their crops, shifts, mirror images and black squares are those of
`tf_batches`, bit for bit: `philox` computes TensorFlow's random numbers. Images that are turned and
scaled (jitter) agree to rounding.
"""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from zoo.data.augmentation import Augmentation, side_seed
from zoo.data.philox import fold_in, integers, uniform

if TYPE_CHECKING:
    from zoo.data.image_data import ImageData


def draws(augmentation: Augmentation, count: int, seed: Sequence[int]) -> np.ndarray:
    """Compute `Augmentation.draws` with NumPy."""
    moves = uniform((3, count), seed)
    jitter = augmentation.jitter
    jitters = uniform((4, count), fold_in(seed, 1), -jitter, jitter)
    squares = uniform((2, count), fold_in(seed, 2))
    return np.concatenate([moves, jitters, squares]).T


def first_sides(count: int, seed: int) -> np.ndarray:
    """Compute `Augmentation.first_sides` with NumPy."""
    return (uniform((count,), side_seed(seed)) < 0.5).astype(np.int64)


def alternated(
    augmentation: Augmentation, draws: np.ndarray, first_sides: np.ndarray, passes: Any
) -> np.ndarray:
    """Compute `Augmentation.alternated` with NumPy."""
    if augmentation.flip == "alternating":
        draws[:, 2] = (first_sides + passes) % 2 == 0
    return draws


def changed(augmentation: Augmentation, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Compute `Augmentation.apply`: images (batch, h, w, c) -> float32 images."""
    draws = draws.T
    if augmentation.reach or augmentation.flip:
        images = _cropped(augmentation, images, draws[:3])
    images = images.astype(np.float32)
    images = _jittered(images, draws[3:7]) if augmentation.jitter else images
    return _cut_out(augmentation.cutout, images, draws[7:]) if augmentation.cutout else images


def _cropped(augmentation, images, draws):
    _, height, width, _ = images.shape
    reach = augmentation.reach
    down, right = (draws[:2, :, np.newaxis] * np.float32(2 * reach + 1)).astype(np.int32)
    rows, columns = np.arange(height), np.arange(width)
    mirrored = draws[2, :, np.newaxis] < (0.5 if augmentation.flip else 0.0)
    rows, columns = down + rows, right + np.where(mirrored, columns[::-1], columns)
    if augmentation.shift:
        rows = rows.clip(reach, reach + height - 1)
        columns = columns.clip(reach, reach + width - 1)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    image = np.arange(len(images))[:, np.newaxis, np.newaxis]
    return padded[image, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]


def _cut_out(side, images, draws):
    for image, down, right in zip(images, *draws, strict=True):
        top, left = (
            int(np.float32(draw) * np.float32(size)) - side // 2
            for draw, size in zip((down, right), image.shape[:2], strict=True)
        )
        image[max(top, 0) : top + side, max(left, 0) : left + side] = 0
    return images


def _jittered(images, draws):
    """Compute `affine` of `zoo.data.augmentation` for the draws of the jitter."""
    _, height, width, _ = images.shape
    angle, scale = 2 * draws[0], 1 + draws[1]
    down, right = height * draws[2], width * draws[3]
    middle, centre = (height - 1) / 2, (width - 1) / 2
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale

    def place(a, b, c, size):
        y, x = np.mgrid[:height, :width].astype(np.float32)
        a, b, c = (factor[:, np.newaxis, np.newaxis] for factor in (a, b, c))
        position = (a * x + b * y + c).clip(0, size - 1)
        low = np.floor(position).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (position - low)[..., np.newaxis]

    left, next_left, across = place(
        cosine, sine, centre - cosine * (centre + right) - sine * (middle + down), width
    )
    top, next_top, along = place(
        -sine, cosine, middle + sine * (centre + right) - cosine * (middle + down), height
    )
    image = np.arange(len(images))[:, np.newaxis, np.newaxis]
    above = images[image, top, left] * (1 - across) + images[image, top, next_left] * across
    below = (
        images[image, next_top, left] * (1 - across) + images[image, next_top, next_left] * across
    )
    return (above * (1 - along) + below * along).astype(np.float32)


class Batches(keras.utils.PyDataset):
    """All images once, in order: the batches of `ImageData.batches` for JAX and PyTorch.

    Arguments:
        data: the images.
        batch_size: number of images in a batch. The last batch has the remaining ones.
    """

    def __init__(self, data: "ImageData", batch_size: int) -> None:
        super().__init__()
        self.data, self.batch_size = data, batch_size

    @property
    def num_batches(self) -> int:
        return -(-self.data.examples // self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.data.images[part].astype(np.float32), self.data.labels[part]


class TrainingBatches(keras.utils.PyDataset):
    """The batches of `ImageData.training_batches` for JAX and PyTorch.

    They have no end. A thread makes the next batch while the model trains on the current one.

    Arguments:
        data: the images.
        batch_size: number of images in a batch of all shards.
        part: the slice of each batch that this worker receives.
        seed: the seed of the order and of the changes.
        start_step: number of the first batch.
        augmentation: the random changes.
        views: number of different views of each image; None for a new one in each pass.
        teacher_logits: (views, examples, ...), or None.
    """

    def __init__(
        self,
        data: "ImageData",
        batch_size: int,
        part: slice,
        seed: int,
        start_step: int,
        augmentation: Augmentation,
        views: int | None,
        teacher_logits: np.ndarray | None,
    ) -> None:
        super().__init__()
        self.data, self.batch_size, self.part = data, batch_size, part
        self.seed, self.start_step = seed, start_step
        self.augmentation, self.views, self.teacher_logits = augmentation, views, teacher_logits
        self.sides = first_sides(data.examples, seed)
        self.orders: dict[int, np.ndarray] = {}
        self.of_views: dict[int, np.ndarray] = {}
        self.worker = concurrent.futures.ThreadPoolExecutor(1)
        self.ahead: dict[int, concurrent.futures.Future] = {}

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index):
        step = self.start_step + index
        batch = self.ahead.pop(step, None) or self.worker.submit(self._batch, step)
        self.ahead = {step + 1: self.worker.submit(self._batch, step + 1)}
        return batch.result()

    def _batch(self, step):
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, positions = np.divmod(positions, self.data.examples)
        indices = np.empty_like(positions)
        for number in np.unique(passes):
            in_pass = passes == number
            indices[in_pass] = self._order(int(number))[positions[in_pass]]
        if self.views is None:
            drawn = draws(self.augmentation, self.batch_size, (self.seed, 2 * step + 1))
            drawn = alternated(self.augmentation, drawn, self.sides[indices], passes)
        else:
            view_numbers = passes % self.views
            drawn = np.empty((self.batch_size, 9), np.float32)
            for view in np.unique(view_numbers):
                in_view = view_numbers == view
                drawn[in_view] = self._draws(int(view))[indices[in_view]]
        indices, drawn = indices[self.part], drawn[self.part]
        images = changed(self.augmentation, self.data.images[indices], drawn)
        targets = self.data.labels[indices]
        if self.teacher_logits is not None:
            rows = 0 if self.views is None else view_numbers[self.part]
            logits = self.teacher_logits[rows, indices]
            targets = {"labels": targets, "teacher_logits": logits}
        return images, targets

    def _order(self, number):
        if number not in self.orders:
            keys = integers(self.data.examples, (self.seed, 2 * number))
            # A batch can lie in two passes, so the order of the pass before is kept.
            before = {key: order for key, order in self.orders.items() if key == number - 1}
            self.orders = before | {number: np.argsort(keys, kind="stable")}
        return self.orders[number]

    def _draws(self, view):
        if view not in self.of_views:
            self.of_views[view] = draws_of_view(self.data, self.augmentation, self.seed, view)
        return self.of_views[view]


class Weighted(keras.utils.PyDataset):
    """The batches of `ImageData.balanced`; `weights` is (classes,)."""

    def __init__(self, batches: keras.utils.PyDataset, weights: np.ndarray) -> None:
        super().__init__()
        self.batches, self.weights = batches, weights

    @property
    def num_batches(self) -> int | None:
        return self.batches.num_batches

    def __getitem__(self, index):
        images, targets = self.batches[index]
        labels = targets["labels"] if isinstance(targets, dict) else targets
        return images, targets, self.weights[labels]


# `ImageData` calls the functions of this module by the names that they have in tf_batches.
batches, training_batches, weighted = Batches, TrainingBatches, Weighted


def draws_of_view(
    data: "ImageData", augmentation: Augmentation, seed: int, view: int
) -> np.ndarray:
    """Return the random numbers of one view of all images, in order: (examples, 9)."""
    drawn = draws(augmentation, data.examples, (seed, view + 2**40))
    return alternated(augmentation, drawn, first_sides(data.examples, seed), view)


def views(
    data: "ImageData", count: int, batch_size: int, seed: int, augmentation: Augmentation
) -> Iterator[np.ndarray]:
    """Yield the batches of `ImageData.views`."""
    for view in range(count):
        drawn = draws_of_view(data, augmentation, seed, view)
        for start in range(0, data.examples, batch_size):
            part = slice(start, start + batch_size)
            yield changed(augmentation, data.images[part], drawn[part])
