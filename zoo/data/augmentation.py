"""The random changes of training images, as TensorFlow operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data.checks import DataError, whole_number


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training images. By default there are none.

    Arguments:
        pad_and_crop: number of black pixels p to add on every side, before the original size is
            cropped at one of (2p + 1)^2 random places. Deeply-Supervised Nets trains on CIFAR-10
            with p = 4.
        flip: mirror left and right: True with probability 1/2, "alternating" in every second pass
            over the images. A random half of the images begins mirrored. So two passes show both
            sides of each image, and none twice: Jordan, arXiv:2404.00498, section 3.6.
        shift: the largest distance s in pixels to move an image. It moves by -s..s pixels down and
            across, and the edge pixels are repeated in the gap. A black gap would be
            `pad_and_crop`, so give one of the two.
        jitter: a share j in 0..0.5. An image is turned by up to 2j radians, scaled by a factor of
            1 - j..1 + j, and moved by up to the share j of its size. The interpolation is
            bilinear, and the edge pixels are repeated in the gaps.
        cutout: the side c in pixels of a black square, whose centre is any pixel of the image. The
            part of the square outside the image is lost. It comes after all other changes. See
            DeVries and Taylor, arXiv:1708.04552, where the squares are grey.

    Raises:
        DataError: if a distance or a side is negative or a fraction, both `pad_and_crop` and
            `shift` are given, `flip` is none of these, or `jitter` is out of range.
    """

    pad_and_crop: int = 0
    flip: bool | Literal["alternating"] = False
    shift: int = 0
    jitter: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("pad_and_crop", "shift", "cutout"):
            whole_number(name, getattr(self, name), at_least=0)
        if self.pad_and_crop and self.shift:
            raise DataError(f"{self}: both translate the image; give pad_and_crop or shift.")
        if self.flip not in (True, False, "alternating"):
            raise DataError(f'flip is True, False or "alternating"; received {self.flip!r}.')
        if not 0 <= self.jitter <= 0.5:
            raise DataError(f"jitter is a share in 0..0.5; received {self.jitter}.")

    @property
    def reach(self) -> int:
        """The largest translation, in pixels."""
        return self.pad_and_crop or self.shift

    def draws(self, count: int, seed: Sequence[Any]) -> Any:
        """Draw the random numbers for every change of `count` images -> float32 (count, 9).

        The columns are three numbers in 0..1 (down, right, mirror), four in -jitter..jitter (turn,
        scale, down, right), and two in 0..1 (the centre of the square: down, right).

        Arguments:
            count: number of images.
            seed: two whole numbers, which alone determine the result.
        """
        moves = tf.random.stateless_uniform((3, count, 1), seed)[..., 0]
        fold_in = tf.random.experimental.stateless_fold_in
        jitters = tf.random.stateless_uniform(
            (4, count), fold_in(seed, 1), -self.jitter, self.jitter
        )
        squares = tf.random.stateless_uniform((2, count), fold_in(seed, 2))
        return tf.transpose(tf.concat([moves, jitters, squares], axis=0))

    def first_sides(self, count: int, seed: int) -> Any:
        """Return 1 for each image that an alternating flip mirrors in pass 0, else 0: (count,)."""
        return tf.cast(tf.random.stateless_uniform((count,), side_seed(seed)) < 0.5, tf.int64)

    def alternated(self, draws: Any, first_sides: Any, passes: Any) -> Any:
        """Return draws that mirror the images as `flip` says in these passes over the images.

        Arguments:
            draws: the draws (batch, 9).
            first_sides: those of the images, (batch,).
            passes: the number of the pass that shows each image, (batch,).
        """
        if self.flip != "alternating":
            return draws
        mirror = tf.where((first_sides + tf.cast(passes, tf.int64)) % 2 == 1, 0.0, 1.0)
        return tf.concat([draws[:, :2], mirror[:, tf.newaxis], draws[:, 3:]], axis=1)

    def apply(self, images: Any, draws: Any) -> Any:
        """Change images (batch, h, w, c) by their draws (batch, 9) -> float32 (batch, h, w, c)."""
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
        # Two gathers of whole rows and columns take 14 us of CPU for a 32 x 32 image.
        # ImageProjectiveTransformV3 takes 22 us.
        padded = tf.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
        return tf.gather(cropped, columns, axis=2, batch_dims=1)

    def _jittered(self, images, draws):
        height, width = images.shape[1:3]
        return affine(images, 2 * draws[0], 1 + draws[1], height * draws[2], width * draws[3])

    def _cut_out(self, images, draws):
        def outside(size, draws):
            first = tf.cast(draws * size, tf.int32)[:, tf.newaxis] - self.cutout // 2
            pixels = tf.range(size)
            return (pixels < first) | (pixels >= first + self.cutout)

        _, height, width, _ = images.shape
        rows, columns = outside(height, draws[0]), outside(width, draws[1])
        kept = rows[:, :, tf.newaxis] | columns[:, tf.newaxis, :]
        return images * tf.cast(kept, images.dtype)[..., tf.newaxis]


def side_seed(seed: int) -> tuple[int, int]:
    """Return the seed of `first_sides`. Steps, passes and views have smaller numbers."""
    return seed, 2**41


AS_THEY_ARE = Augmentation()
"""The augmentation that changes nothing."""


def affine(images: Any, angle: Any, scale: Any, down: Any, right: Any) -> Any:
    """Turn and scale images about their centre, then move them.

    (batch, h, w, c) -> (batch, h, w, c). The interpolation is bilinear and repeats edge pixels.

    Arguments:
        images: float32 images.
        angle: the angles in radians, (batch,).
        scale: the factors, (batch,).
        down: the distances in pixels, (batch,).
        right: the distances in pixels, (batch,).
    """
    height, width = images.shape[1:3]
    middle, centre = (height - 1) / 2, (width - 1) / 2
    cosine, sine = tf.cos(angle) / scale, tf.sin(angle) / scale
    # The kernel maps each pixel (x, y) of the result to its place in the image.
    to_column = (cosine, sine, centre - cosine * (centre + right) - sine * (middle + down))
    to_row = (-sine, cosine, middle + sine * (centre + right) - cosine * (middle + down))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(
            [*to_column, *to_row, tf.zeros_like(angle), tf.zeros_like(angle)], axis=1
        ),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
