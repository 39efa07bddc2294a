"""Single images to one array, in memory or on disk."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo import memory
from zoo.data import packs
from zoo.data.checks import DataError, as_uint8
from zoo.data.decoding import Resizing, resize, with_channels

# Larger images stay on disk, because training and evaluation hold up to three copies in memory.
STREAM_BYTES = 2 * 2**30


def stack(
    examples: Iterable[tuple[str | Path, np.ndarray, int]],
    count: int,
    image_size: Sequence[int] | None,
    stream: bool | None,
    origin: tuple[str, Callable[[], tuple[Any, Sequence[Path]]]],
    skipped: list[str],
    *,
    channels: int | None = None,
    resizing: Resizing = "squash",
) -> tuple[np.ndarray | packs.PackedImages, np.ndarray, list[str]]:
    """Stack images -> uint8 (n, h, w, c), labels int64 (n,), and the messages of `skipped`.

    Arguments:
        examples: triples (where, image, label); `where` names the image in messages.
        count: number of the examples, with those that are skipped.
        image_size: (height, width) in pixels to resize to; None leaves the sizes alone.
        stream: True puts the images into a pack on disk, False into memory. None chooses the disk
            for more than 2 GiB.
        origin: the name of the pack, and a function that returns what the images depend on, as
            JSON, and the files that they are read from.
        skipped: the list to which `examples` adds a message for each image that it leaves out.
        channels: 1 converts the images to grey, 3 to RGB; None leaves them alone.
        resizing: the way to another aspect ratio; see `zoo.data.decoding.resize`.

    Raises:
        DataError: if there are no images, or if their shapes differ.
        zoo.streaming.PackError: if the disk has too little room.
        zoo.memory.TooLarge: if the memory has too little room.
    """
    rows = _alike(examples, image_size, channels, resizing)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{origin[0]}: no images.")
    rows = itertools.chain([first], rows)
    shape, size = first[0].shape, count * first[0].nbytes
    if stream or (stream is None and size > STREAM_BYTES):
        name, describe = origin
        source, read_from = describe()
        return packs.pack(name, source, rows, count, shape, skipped, read_from)
    memory.require(size, f"{count} images of {shape}", "keep them on disk with --stream")
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int64)
    filled = 0
    for filled, (image, label) in enumerate(rows, 1):
        images[filled - 1], labels[filled - 1] = image, label
    return images[:filled], labels[:filled], skipped


def _alike(
    examples: Iterable[tuple[str | Path, np.ndarray, int]],
    image_size: Sequence[int] | None,
    channels: int | None,
    resizing: Resizing,
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (image, label): uint8 images that all have the shape of the first."""
    shape = first = None
    for where, image, label in examples:
        image = as_uint8(image, where)
        if channels:
            image = with_channels(image, channels)
        if image_size:
            image = resize(image, image_size, resizing)
        if shape is None:
            shape, first = image.shape, where
        if image.shape != shape:
            raise DataError(
                f"{where} has the shape {image.shape} and {first} {shape}: (height, "
                "width, channels) must agree. For sizes, give image_size=(height, width), at the "
                "command line --image-size HEIGHT WIDTH; for channels, channels=1 or 3, at the "
                "command line --channels 1 or 3."
            )
        yield image, label
