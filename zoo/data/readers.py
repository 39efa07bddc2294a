"""From a name, a folder or an `.npz` file to labelled images."""

import concurrent.futures
import dataclasses
import difflib
import json
import math
import os
import re
import socket
import typing
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo import memory
from zoo.data import packs
from zoo.data.checks import DataError, refuse_one_class, refuse_special_file
from zoo.data.decoding import Resizing, resize, with_channels
from zoo.data.dividing import divide
from zoo.data.folders import read_folder
from zoo.data.image_data import ImageData
from zoo.data.prepared import read_prepared
from zoo.data.stacking import stack


def load(
    name_or_path: str | Path,
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    image_size: tuple[int, int] | int | None = None,
    stream: bool | None = None,
    skip_corrupt: float = 0.0,
    channels: int | None = None,
    resizing: Resizing = "squash",
    whole: bool = False,
) -> ImageData:
    """Load the training or test images of a data set, a folder or a file.

    A name means the data set, even if a folder has the same name. Write "./mnist" or a
    `pathlib.Path` for the folder.

    Data without test images are divided in the same way each time: 80 % of each class are training
    images and 20 % are test images. The pixels decide, so the order and the names of the files do
    not matter, and copies of an image stay together. If images are added, the old ones stay in
    their split. There are few exceptions to both, at the border between the two splits.

    Arguments:
        name_or_path: one of
            "digits": 1,797 images of 8 x 8 pixels from scikit-learn, scaled from 0..16 to 0..255.
            The name of an image classification set of TensorFlow Datasets, such as "mnist". If it
            has no test split, its validation split is used.
            A folder FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE beside FOLDER/test (or val,
            valid, validation). Photographs are turned upright as their EXIF data say. Grey images
            of 1 and 16 bits become 8 bits, palettes and other colours become RGB, and transparent
            pixels are laid on white. One image with colours makes all of them RGB. Hidden files
            are ignored. Other files that are no images, such as notes.txt, and empty folders are
            left out; see `ImageData.notes`.
            An .npz file of images and labels, or of x_train, y_train, x_test and y_test.
        split: "train" or "test".
        data_dir: the folder of TensorFlow Datasets. The default is the environment variable
            TFDS_DATA_DIR.
        image_size: (height, width) in pixels to resize to, bilinear and antialiased. One number
            stands for both.
        stream: True keeps the decoded images of a folder or of TensorFlow Datasets on disk, and
            reads each batch from there; the batches are the same, to the bit. False keeps them in
            memory. None chooses the disk for more than 2 GiB. See `zoo.streaming`.
        skip_corrupt: the largest share of a folder's files that may be left out because they are
            not images, 0 <= share < 1. With 0, the first such file is refused.
        channels: 1 converts all images to grey, 3 to RGB. None leaves them as they are, and makes
            a folder with an image in colours RGB.
        resizing: what happens to an image of another aspect ratio than `image_size`. "squash"
            stretches it. "crop" cuts off two sides, and keeps the centre. "pad" adds black at two
            sides.
        whole: True does not divide data without test images: all of them are test images. A folder
            may then have a single class.

    Raises:
        DataError: if the data cannot be trained on. The message names the file or the index.
        zoo.streaming.PackError: if the disk has too little room for the decoded images.
        zoo.memory.TooLarge: if the memory has too little room for the images.
    """
    if name_or_path == "":
        raise DataError("data is the name of a data set, a folder or a file; received ''.")
    if split not in ("train", "test"):
        raise DataError(f'split is "train" or "test" (see holdout for more); received {split!r}.')
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    size = np.asarray((1, 1) if image_size is None else image_size)
    if size.shape != (2,) or size.dtype.kind != "i" or size.min() < 1:
        raise DataError(f"image_size is (height, width) in pixels; received {image_size!r}.")
    pixels = 4 * math.prod(map(int, size))
    memory.require(pixels, f"An image_size of {image_size}", "give a smaller one")
    if not 0 <= skip_corrupt < 1:
        raise DataError(f"skip_corrupt is a share in 0 <= share < 1; received {skip_corrupt!r}.")
    if channels not in (None, 1, 3):
        raise DataError(f"channels is 1 for grey or 3 for RGB; received {channels!r}.")
    if resizing not in typing.get_args(Resizing):
        raise DataError(f'resizing is "squash", "crop" or "pad"; received {resizing!r}.')
    if (prepared := read_prepared(name_or_path, split, image_size)) is not None:
        return prepared
    path = Path(name_or_path).expanduser()
    bare = isinstance(name_or_path, str) and os.sep not in name_or_path
    choices: dict[str, Any] = {"channels": channels, "resizing": resizing, "whole": whole}
    if bare and name_or_path == "digits":
        data = _read_digits(split)
    elif path.exists() and not (bare and name_or_path in data_sets()):
        if path.is_dir():
            data = read_folder(path, split, image_size, stream, skip_corrupt, **choices)
        else:
            data = _read_npz(path, split, whole)
    else:
        data = read_tfds(str(name_or_path), split, data_dir, image_size, stream, **choices)
    if not whole:
        refuse_one_class(data.labels, f"{data.name} ({split})")
    return _changed(data, image_size, channels, resizing) if image_size or channels else data


def _changed(
    data: ImageData,
    image_size: tuple[int, int] | None,
    channels: int | None,
    resizing: Resizing,
) -> ImageData:
    """Return the images with this size and these channels; None leaves them alone."""
    size, own_channels = data.image_shape[:2], data.image_shape[2]
    shape = (data.examples, *(image_size or size), channels or own_channels)
    if shape[1:] == data.image_shape:
        return data
    memory.require(
        math.prod(shape), f"{data.examples} images of {shape[1:3]}", "give a smaller image_size"
    )
    changed = np.empty(shape, np.uint8)
    for index in range(data.examples):
        image = with_channels(data.images[index], shape[-1])
        changed[index] = resize(image, shape[1:3], resizing)
    return dataclasses.replace(data, images=changed)


def _read_digits(split: str) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16))
    whole = ImageData("digits", split, images, digits.target, "0123456789")
    return divide(whole, split, at_random=True)  # published results have this split


def _read_npz(path: Path, split: str, whole: bool) -> ImageData:
    refuse_special_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged file
        if path.suffix == ".npy":
            raise DataError(
                f"{path} is one array; expected images and labels in one file: "
                "np.savez('data.npz', images=images, labels=labels)."
            ) from error
        raise DataError(f"{path} is not a readable .npz file of plain arrays: {error}") from error
    if {"images", "labels"} <= arrays.keys():
        images, labels, all_labels = arrays["images"], arrays["labels"], arrays["labels"]
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        all_labels = arrays["y_train"]
    else:
        raise DataError(
            f"{path} holds {sorted(arrays)}; expected images and labels, or x_train, y_train, "
            "x_test and y_test."
        )
    # k distinct labels must be 0..k-1: a gap, or a count from 1, leaves one of them out of range.
    label_names = tuple(str(label) for label in range(np.unique(all_labels).size))
    data = ImageData(path.stem, split, images, labels, label_names)
    return divide(data, split) if "images" in arrays and not whole else data


def is_at_hand(name_or_path: str | Path) -> bool:
    """Return whether `load` finds these data without a download."""
    if Path(name_or_path).expanduser().exists() or name_or_path == "digits":
        return True
    if name_or_path not in data_sets():
        return False
    import tensorflow_datasets as tfds

    builder = tfds.builder(str(name_or_path), data_dir=os.environ.get("TFDS_DATA_DIR"))
    return builder.is_prepared()


def data_sets() -> list[str]:
    """Return the names of all data sets of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def read_tfds(
    name: str,
    split: str,
    data_dir: str | Path | None,
    image_size: tuple[int, int] | None,
    stream: bool | None,
    *,
    channels: int | None = None,
    resizing: Resizing = "squash",
    whole: bool = False,
) -> ImageData:
    """Read a split of an image classification set of TensorFlow Datasets.

    The arguments are those of `load`.

    Raises:
        DataError: if the set is unknown, cannot be prepared, or has no images and labels.
    """
    import tensorflow_datasets as tfds

    known = data_sets()
    if re.split("[/:]", name)[0] not in known:
        nearest = difflib.get_close_matches(name, ["digits", *known])
        raise DataError(
            f"{name!r} is neither a data set nor a path."
            + (f" Did you mean {' or '.join(nearest)}?" if nearest else "")
            + ' Give "digits", the name of an image classification set of TensorFlow Datasets, '
            "such as mnist or cifar10, a folder of class folders, or an .npz file."
        )
    # TensorFlow Datasets reads the variable only once, when it is imported.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
            raise ValueError(f"its features are {sorted(features)}; expected image and label")
        if not builder.is_prepared():
            place = Path(builder.data_path).parents[2 if builder.builder_config else 1]
            _refuse_without_network(builder.url_infos or (), place)
        builder.download_and_prepare()
        splits = builder.info.splits
        held_out = [other for other in ("test", "validation") if other in splits]
        source = held_out[0] if held_out and split == "test" else "train"
        if source not in splits:
            raise ValueError(f"its splits are {sorted(splits)}; expected train")
        record_files = [Path(file) for file in splits[source].filepaths]
        for file in record_files:
            refuse_special_file(file)
        examples = _tfds_examples(builder, source)
        records = [[str(file), os.stat(file).st_size] for file in record_files]
        chosen = [choice for choice in (channels, resizing) if choice not in (None, "squash")]
        contents = [builder.info.full_name, source, image_size, records, *chosen]
        origin = (f"{builder.name}-{source}", lambda: (contents, record_files))
        count = splits[source].num_examples
        images, labels, _ = stack(
            examples, count, image_size, stream, origin, [], channels=channels, resizing=resizing
        )
    except (DataError, packs.PackError, memory.TooLarge):
        raise
    except Exception as error:  # no network, no space, a wrong checksum, a damaged record, ...
        raise DataError(
            f"TensorFlow Datasets could not give {name!r}: {error}. If it is already prepared in a "
            "folder, set TFDS_DATA_DIR or data_dir to that folder; it now is "
            f"{data_dir or '~/tensorflow_datasets'}."
        ) from error
    data = ImageData(name, split, images, labels, features["label"].names)
    return data if held_out or whole else divide(data, split)


def _refuse_without_network(urls: Iterable[str], data_dir: Path) -> None:
    """Raise OSError if no server of a data set can be reached. The downloader tries for minutes.

    Arguments:
        urls: the addresses of the files of the data set.
        data_dir: the folder of TensorFlow Datasets. Files that it already has need no network.
    """
    infos = [file.read_text(encoding="utf-8") for file in data_dir.glob("downloads/**/*.INFO")]
    needed = [url for url in urls if not any(json.dumps(url) in info for info in infos)]
    if not needed or urllib.request.getproxies():
        return

    def is_reached(server):
        try:
            socket.create_connection(server, timeout=5).close()
        except OSError:
            return False
        return True

    parts = map(urllib.parse.urlsplit, needed)
    ports = {"http": 80, "ftp": 21}
    servers = {(part.hostname or "", part.port or ports.get(part.scheme, 443)) for part in parts}
    servers.add(("storage.googleapis.com", 443))  # it has many data sets that are prepared
    with concurrent.futures.ThreadPoolExecutor(len(servers)) as pool:
        if not any(pool.map(is_reached, servers)):
            names = " and ".join(sorted(host for host, _ in servers))
            raise OSError(f"it must be downloaded, and {names} cannot be reached from here")


def _tfds_examples(builder: Any, split: str) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield (where, image, label) of one split."""
    from zoo.data import tf_batches

    examples = builder.as_dataset(split=split).map(lambda row: (row["image"], row["label"]))
    # Images of one size are read in batches, which takes 4 seconds for MNIST instead of 10.
    batch_size = 256 if examples.element_spec[0].shape.is_fully_defined() else 1
    index = 0
    batches = tf_batches.untuned(examples.batch(batch_size).prefetch(2))
    for images, labels in batches.as_numpy_iterator():
        for image, label in zip(images, labels, strict=True):
            yield f"{builder.name} {split} image {index}", image, label
            index += 1
