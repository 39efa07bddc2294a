"""The batches of `zoo.data`, made by NumPy alone, for Keras' other backends.

The order, the crops, shifts, mirrorings and squares cut out are those of the TensorFlow pipeline,
bit for bit, since its random numbers (Philox 4x32-10; Salmon et al., SC11) are computed here again.
Turned and scaled images (jitter) agree to rounding.
"""

import concurrent.futures

import keras
import numpy as np

from zoo.data.philox import fold_in, integers, uniform


def draws(augmentation, count, seed):
    """Compute `Augmentation.draws` with NumPy."""
    moves = uniform((3, count), seed)
    jitter = augmentation.jitter
    jitters = uniform((4, count), fold_in(seed, 1), -jitter, jitter)
    squares = uniform((2, count), fold_in(seed, 2))
    return np.concatenate([moves, jitters, squares]).T


def changed(augmentation, images, draws):
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
    which = np.arange(len(images))[:, np.newaxis, np.newaxis]
    return padded[which, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]


def _cut_out(side, images, draws):
    for image, down, right in zip(images, *draws, strict=True):
        top, left = (
            int(np.float32(draw) * np.float32(size)) - side // 2
            for draw, size in zip((down, right), image.shape[:2], strict=True)
        )
        image[max(top, 0) : top + side, max(left, 0) : left + side] = 0
    return images


def _jittered(images, draws):
    """Turn, scale and move images: bilinear, with repeated edges, as `zoo.data` does."""
    _, height, width, _ = images.shape
    angle, scale = 2 * draws[0], 1 + draws[1]
    down, right = height * draws[2], width * draws[3]
    middle, centre = (height - 1) / 2, (width - 1) / 2
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale

    def place(a, b, c, size):
        y, x = np.mgrid[:height, :width].astype(np.float32)
        at = (each[:, np.newaxis, np.newaxis] for each in (a, b, c))
        a, b, c = at
        found = (a * x + b * y + c).clip(0, size - 1)
        low = np.floor(found).astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (found - low)[..., np.newaxis]

    left, next_left, across = place(
        cosine, sine, centre - cosine * (centre + right) - sine * (middle + down), width
    )
    top, next_top, along = place(
        -sine, cosine, middle + sine * (centre + right) - cosine * (middle + down), height
    )
    which = np.arange(len(images))[:, np.newaxis, np.newaxis]
    above = images[which, top, left] * (1 - across) + images[which, top, next_left] * across
    below = (
        images[which, next_top, left] * (1 - across) + images[which, next_top, next_left] * across
    )
    return (above * (1 - along) + below * along).astype(np.float32)


class Batches(keras.utils.PyDataset):
    """What `ImageData.batches` returns under Keras' other backends."""

    def __init__(self, data, batch_size):
        super().__init__()
        self.data, self.batch_size = data, batch_size

    @property
    def num_batches(self):
        return -(-self.data.examples // self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.data.images[part].astype(np.float32), self.data.labels[part]


class TrainingBatches(keras.utils.PyDataset):
    """What `ImageData.training_batches` returns under Keras' other backends.

    The batches have no end. Each is made while the one before is in use.
    """

    def __init__(
        self, data, batch_size, part, seed, start_step, augmentation, views, teacher_logits
    ):
        super().__init__()
        self.data, self.batch_size, self.part = data, batch_size, part
        self.seed, self.start_step = seed, start_step
        self.augmentation, self.views, self.teacher_logits = augmentation, views, teacher_logits
        self.orders, self.of_views = {}, {}
        self.worker, self.ahead = concurrent.futures.ThreadPoolExecutor(1), {}

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        step = self.start_step + index
        wanted = self.ahead.pop(step, None) or self.worker.submit(self._batch, step)
        self.ahead = {step + 1: self.worker.submit(self._batch, step + 1)}
        return wanted.result()

    def _batch(self, step):
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, places = np.divmod(places, self.data.examples)
        chosen = np.empty_like(places)
        for each in np.unique(passes):
            chosen[passes == each] = self._order(int(each))[places[passes == each]]
        if self.views is None:
            drawn = draws(self.augmentation, self.batch_size, (self.seed, 2 * step + 1))
        else:
            shown = passes % self.views
            drawn = np.empty((self.batch_size, 9), np.float32)
            for view in np.unique(shown):
                drawn[shown == view] = self._draws(int(view))[chosen[shown == view]]
        chosen, drawn = chosen[self.part], drawn[self.part]
        images = changed(self.augmentation, self.data.images[chosen], drawn)
        targets = self.data.labels[chosen]
        if self.teacher_logits is not None:
            said = self.teacher_logits[shown[self.part], chosen]
            targets = {"labels": targets, "teacher_logits": said}
        return images, targets

    def _order(self, number):
        if number not in self.orders:
            keys = integers(self.data.examples, (self.seed, 2 * number))
            kept = {each: order for each, order in self.orders.items() if each == number - 1}
            self.orders = kept | {number: np.argsort(keys, kind="stable")}
        return self.orders[number]

    def _draws(self, view):
        if view not in self.of_views:
            self.of_views[view] = draws_of_view(self.data, self.augmentation, self.seed, view)
        return self.of_views[view]


def draws_of_view(data, augmentation, seed, view):
    """Return the random numbers of a view of all images, in order."""
    return draws(augmentation, data.examples, (seed, view + 2**40))


def views(data, count, batch_size, seed, augmentation):
    """Yield batches of images, as `ImageData.views` does."""
    for view in range(count):
        drawn = draws_of_view(data, augmentation, seed, view)
        for start in range(0, data.examples, batch_size):
            part = slice(start, start + batch_size)
            yield changed(augmentation, data.images[part], drawn[part])
