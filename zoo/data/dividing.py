"""Divide images without a test split into training and test images."""

import dataclasses
import zlib

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data import packs


def divide(whole, split, named="", at_random=False):
    """Return the training images (80 % of each class) or the test images (20 %)."""
    count, labels, _ = whole.identity
    source = f"of {count} images, {labels} {checksum(named.encode())}"
    whole = dataclasses.replace(whole, source=source)
    order = None if at_random else np.argsort(contents_of(whole.images), kind="stable")
    training, test = whole.holdout(0.2, order=order)
    return training if split == "train" else dataclasses.replace(test, split="test")


def contents_of(images):
    """Return a checksum of each image's pixels. Copies of an image have the same."""
    if isinstance(images, packs.PackedImages):
        return images.checksums
    return [zlib.crc32(np.ascontiguousarray(image)) for image in images]


def checksum(content):
    """Return the CRC-32 of some bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"
