"""The .npz file of ready images that `zoo pack` puts into an archive, and `load` finds there."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.checks import DataError
from zoo.data.image_data import ImageData


def prepared_file(name_or_path: str | Path, image_size: tuple[int, int] | None = None) -> str:
    """Return the name of the .npz file with the prepared images of a data set.

    `load` looks for this file in the folder that the environment variable ZOO_DATA names. So it
    needs neither scikit-learn nor TensorFlow Datasets nor a network. `zoo pack` writes the file.

    Arguments:
        name_or_path: what `load` receives.
        image_size: (height, width) in pixels, or None for images that were not resized.
    """
    size = f"-{image_size[0]}x{image_size[1]}" if image_size else ""
    return re.sub(r"[^A-Za-z0-9]+", "_", str(name_or_path)) + size + ".npz"


def prepare(training: ImageData, test: ImageData) -> bytes:
    """Return the content of the file that `read_prepared` reads."""
    arrays: dict[str, Any] = {}
    for split, data in (("train", training), ("test", test)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = data.images, data.labels
        arrays[f"source_{split}"] = np.array(data.source, str)
    content = io.BytesIO()
    np.savez(
        content, name=np.array(test.name), label_names=np.array(test.label_names, str), **arrays
    )
    return content.getvalue()


def read_prepared(
    name_or_path: str | Path, split: str, image_size: tuple[int, int] | None
) -> ImageData | None:
    """Read the "train" or "test" images from a prepared file; None if there is no such file.

    Raises:
        DataError: if the file is damaged.
    """
    folder = os.environ.get("ZOO_DATA")
    file = Path(folder) / prepared_file(name_or_path, image_size) if folder else None
    if file is None or not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["label_names"])
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
            name, source = str(arrays["name"]), str(arrays[f"source_{split}"])
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged file
        raise DataError(
            f"{file} is no file of prepared images: {error!r}. Unpack the archive again."
        ) from error
    return ImageData(name, split, images, labels, names, source=source)
