"""The numbers of every variant of `nin`: filters, initial deviations, pooling and dropout."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Block:
    """One mlpconv layer and, unless it is the last, the max pooling of stride 2 behind it."""

    filters: tuple
    kernel_size: int
    # The standard deviation of the initial weights of each convolution. () for He initialization.
    deviations: tuple = ()
    strides: int = 1
    padding: str = "same"
    dropout: bool = False  # True puts dropout after the pooling
    pool_size: int = 1  # the windows of a pooling right behind the first convolution
    residual: bool = False  # True adds the input to the output
    pooled: bool = True  # False puts no 3 x 3 pooling of stride 2 behind the mlpconv layer
    dirac: bool = False  # True starts as `zoo.layers.Dirac` instead


@dataclass(frozen=True)
class Variant:
    """The numbers of a variant: its blocks, dropout, head, normalization and pooling."""

    blocks: tuple
    dropout: float  # the rate for `dropout=None`
    head_deviation: float | None = None  # None for He initialization
    normalization: str | None = None
    final_relu: bool = False
    released: bool = False  # pooling and dropout as cuda-convnet and Caffe compute them


def _released(*blocks, head=0.05, deviation=0.05):
    """Return a released definition, with `deviation` in the blocks that have no deviations."""
    filled = [
        replace(block, deviations=block.deviations or (deviation,) * len(block.filters))
        for block in blocks
    ]
    return Variant(tuple(filled), 0.5, head, final_relu=True, released=True)


_CIFAR = (
    Block((192, 160, 96), 5, dropout=True),
    Block((192, 192, 192), 5, dropout=True),
    Block((192, 192), 3),
)


def _residual(*widths):
    """Return a convolution that halves the maps, then a residual mlpconv layer, for each width."""
    blocks = tuple(
        block
        for width in widths
        for block in (
            Block((width,), 3, pool_size=2, pooled=False, dirac=True),
            Block((width, width), 3, residual=True, pooled=False, dirac=True),
        )
    )
    return Variant(blocks, 0.0, normalization="batch")


# The released numbers come from mavenlin/cuda-convnet, NIN/*_def, and from nin_imagenet of the
# Caffe model zoo, which is not in the paper.
VARIANTS = {
    "modern": Variant(
        _CIFAR,
        # Errors in 360 held-out digits, seeds 0 to 2: 5, 7, 6 at a rate of 0; 3, 1, 4 at 0.2;
        # 5, 4, 4 at 0.4. The command was
        # zoo train digits_nin_dsn --validation 0.25 --epochs 60 --width 0.25 --dropout RATE
        dropout=0.2,
        normalization="batch",
    ),
    "fast": _residual(64, 256, 256),
    # Errors in 5,000 held-out images of CIFAR-10, 20 epochs of FastRecipe, seed 0: 560 with these
    # widths, 581 with 15, 60 and 60, those of "fast" times 0.234, in about the same time.
    "small": _residual(32, 48, 56),
    "plain": Variant(_CIFAR, 0.5),
    "cnn": Variant(tuple(replace(block, filters=block.filters[:1]) for block in _CIFAR), 0.5),
    "mnist": _released(
        Block((96, 64, 48), 5, dropout=True),
        Block((128, 96, 48), 5, dropout=True),
        Block((128, 96), 5),
    ),
    "cifar10": _released(*_CIFAR),
    "cifar100": _released(
        Block((192, 160, 96), 5, (0.001, 0.01, 0.01), dropout=True),
        Block((192, 192, 192), 5, dropout=True),
        Block((192, 192), 3),
    ),
    "svhn": _released(
        Block((128, 96, 64), 5, dropout=True),
        Block((320, 256, 128), 5, dropout=True),
        Block((384, 256), 5),
    ),
    "imagenet": _released(
        Block((96, 96, 96), 11, (0.01, 0.05, 0.05), strides=4, padding="valid"),
        Block((256, 256, 256), 5),
        Block((384, 384, 384), 3, (0.01, 0.05, 0.05), dropout=True),
        Block((1024, 1024), 3),
        head=0.01,
    ),
}
