"""The random changes of training images, as TensorFlow operations."""

from dataclasses import dataclass

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data.checks import DataError, whole_number


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
            whole_number(name, getattr(self, name), at_least=0)
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


AS_THEY_ARE = Augmentation()
"""No change."""


def affine(images, angle, scale, down, right):
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
