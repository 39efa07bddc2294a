"""Divide images without a test split into training and test images."""

import dataclasses
import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

from zoo.data import packs

if TYPE_CHECKING:
    from zoo.data.image_data import ImageData

PIXELS = ", pixels "  # precedes their checksum in `ImageData.source`; older ones end before it


def divide(
    whole: "ImageData", split: str, named: bytes = b"", at_random: bool = False
) -> "ImageData":
    """Return the training images (80 % of each class) or the test images (20 %).

    Arguments:
        whole: all images.
        split: "train" or "test".
        named: the names of the files, which become part of `source`.
        at_random: draw the test images with seed 0. By default the checksums of the pixels choose
            them.
    """
    count, labels, _, pixels, _ = whole.identity
    source = f"of {count} images, {labels} {checksum(named)}{PIXELS}{pixels}"
    order = None if at_random else np.argsort(whole.checksums, kind="stable")
    whole = dataclasses.replace(whole, source=source)
    training, test = whole.holdout(0.2, order=order)
    return training if split == "train" else dataclasses.replace(test, split="test")


def checksums_of(images: np.ndarray | packs.PackedImages) -> np.ndarray:
    """Return the CRC-32 of each image's pixels, uint32 (n,)."""
    if isinstance(images, packs.PackedImages):
        return images.checksums
    crcs = (zlib.crc32(np.ascontiguousarray(image).data) for image in images)
    return np.fromiter(crcs, np.uint32, len(images))


def pixels_of(data: "ImageData") -> str:
    """Return a checksum of the shape and the pixels of all images, in order."""
    digest = hashlib.sha256(str(data.image_shape).encode())
    digest.update(data.checksums.astype("<u4").tobytes())
    return digest.hexdigest()[:16]


def checksum(content: bytes) -> str:
    """Return the CRC-32 of some bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"
