"""Labelled images: from a name, a folder or a file to the batches of a training."""

from zoo.data.augmentation import AS_THEY_ARE, Augmentation
from zoo.data.checks import DataError
from zoo.data.decoding import encode, read_image
from zoo.data.image_data import ImageData
from zoo.data.prepared import prepared_file
from zoo.data.readers import load

__all__ = [
    "AS_THEY_ARE",
    "Augmentation",
    "DataError",
    "ImageData",
    "encode",
    "load",
    "prepared_file",
    "read_image",
]
