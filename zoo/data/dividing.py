"""Divide images without a test split into training and test images."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo.data import packs

if TYPE_CHECKING:
    from zoo.data.image_data import ImageData


def divide(whole: "ImageData", split: str, named: str = "", at_random: bool = False) -> "ImageData":
    """Return the training images (80 % of each class) or the test images (20 %).

    Arguments:
        whole: all images.
        split: "train" or "test".
        named: the names of the files, which become part of `source`.
        at_random: draw the test images with seed 0. By default the checksums of the pixels choose
            them.
    """
    count, labels, _ = whole.identity
    source = f"of {count} images, {labels} {checksum(named.encode())}"
    whole = dataclasses.replace(whole, source=source)
    order = None if at_random else np.argsort(contents_of(whole.images), kind="stable")
    training, test = whole.holdout(0.2, order=order)
    return training if split == "train" else dataclasses.replace(test, split="test")


def contents_of(images: np.ndarray | packs.PackedImages) -> Sequence[int] | np.ndarray:
    """Return a checksum of each image's pixels. Copies of an image have the same."""
    if isinstance(images, packs.PackedImages):
        return images.checksums
    return [zlib.crc32(np.ascontiguousarray(image).data) for image in images]


def checksum(content: bytes) -> str:
    """Return the CRC-32 of some bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"
