"""A name, a folder or an `.npz` file to labelled images."""

import dataclasses
import difflib
import os
import re
from pathlib import Path

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data import packs
from zoo.data.checks import DataError
from zoo.data.decoding import resize
from zoo.data.dividing import divide
from zoo.data.folders import read_folder
from zoo.data.image_data import ImageData
from zoo.data.stacking import stack


def load(
    name_or_path, split="train", *, data_dir=None, image_size=None, stream=None, skip_corrupt=0.0
):
    """The "train" or "test" images of a data set, a folder or a file.

    The name of a data set means the data set, even where a folder is called so: "./mnist" or a
    `pathlib.Path` means the folder. What brings no test images of its own is split in the
    same way each time, 80 % of each class for training and 20 % for test, by what the images show:
    whatever their order and names, with more images the old ones stay where they were, and copies
    of one are together, but for a few at the border between the two.

    Arguments:
        name_or_path: one of
            "digits": 1,797 images of 8 x 8 pixels that scikit-learn brings, 0..16 made 0..255;
            an image classification set of TensorFlow Datasets, such as "mnist": where there is no
            test split, validation takes its place;
            a folder FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE with FOLDER/test (else val,
            valid or validation) beside it. Photographs are turned upright as their EXIF data say, 1
            and 16-bit grey become 8-bit grey, palettes and other colours RGB, and transparency is
            dropped. Hidden files are passed over;
            an .npz file of images and labels, or of x_train, y_train, x_test and y_test.
        data_dir: where TensorFlow Datasets keeps its files; else the environment's TFDS_DATA_DIR.
        image_size: (height, width) to resize to, bilinear and antialiased, if need be stretched.
        stream: keep the images of a folder or of TensorFlow Datasets on disk, decoded, and read
            each batch from there; the batches are the same, to the bit. False keeps them in memory,
            None takes the disk for images of more than 2 GiB. See `zoo.streaming`.
        skip_corrupt: the share of a folder's files, 0..1, that may be no images and are then left
            out. At 0 the first of them is refused.

    Raises:
        DataError: for whatever cannot be trained on; the message names the file or the index.
    """
    if split not in ("train", "test"):
        raise DataError(f'split is "train" or "test" (see holdout for more); received {split!r}.')
    size = np.asarray((1, 1) if image_size is None else image_size)
    if size.shape != (2,) or size.dtype.kind != "i" or size.min() < 1:
        raise DataError(f"image_size is (height, width) in pixels; received {image_size!r}.")
    if not 0 <= skip_corrupt < 1:
        raise DataError(f"skip_corrupt is a share in 0 <= share < 1; received {skip_corrupt!r}.")
    if (prepared := _read_prepared(name_or_path, split, image_size)) is not None:
        return prepared
    path = Path(name_or_path).expanduser()
    bare = isinstance(name_or_path, str) and os.sep not in name_or_path
    if bare and name_or_path == "digits":
        data = _read_digits(split)
    elif path.exists() and not (bare and name_or_path in data_sets()):
        if path.is_dir():
            data = read_folder(path, split, image_size, stream, skip_corrupt)
        else:
            data = _read_npz(path, split)
    else:
        data = read_tfds(str(name_or_path), split, data_dir, image_size, stream)
    if image_size and data.image_shape[:2] != tuple(image_size):
        resized = np.stack([resize(image, image_size) for image in data.images])
        data = dataclasses.replace(data, images=resized)
    return data


def prepared_file(name_or_path, image_size=None):
    """What a data set is called in the folder that the environment's ZOO_DATA names.

    There `load` finds it as an .npz file, ready: on a machine without scikit-learn, TensorFlow
    Datasets or network. `zoo pack` writes them.
    """
    size = f"-{image_size[0]}x{image_size[1]}" if image_size else ""
    return re.sub(r"[^A-Za-z0-9]+", "_", str(name_or_path)) + size + ".npz"


def _read_prepared(name_or_path, split, image_size):
    folder = os.environ.get("ZOO_DATA")
    file = Path(folder) / prepared_file(name_or_path, image_size) if folder else None
    if file is None or not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["label_names"])
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        source = str(arrays[f"source_{split}"])
        return ImageData(str(arrays["name"]), split, images, labels, names, source=source)


def _read_digits(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16))
    whole = ImageData("digits", split, images, digits.target, "0123456789")
    return divide(whole, split, at_random=True)  # as ever: there are results on this split


def _read_npz(path, split):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib or NumPy meet
        raise DataError(f"{path} is not a readable .npz file of plain arrays: {error}") from error
    if {"images", "labels"} <= arrays.keys():
        images, labels, known = arrays["images"], arrays["labels"], arrays["labels"]
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        images, labels, known = arrays[f"x_{split}"], arrays[f"y_{split}"], arrays["y_train"]
    else:
        raise DataError(
            f"{path} holds {sorted(arrays)}; expected images and labels, or x_train, y_train, "
            "x_test and y_test."
        )
    # k distinct labels must be 0..k-1: a gap, or a count from 1, leaves one of them out of range.
    label_names = tuple(str(label) for label in range(np.unique(known).size))
    data = ImageData(path.stem, split, images, labels, label_names)
    return divide(data, split) if "images" in arrays else data


def data_sets():
    """Return the names of all data sets of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def read_tfds(name, split, data_dir, image_size, stream):
    """Read a split of an image classification set of TensorFlow Datasets."""
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
    # TFDS itself reads the variable once, when it is imported.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
            raise ValueError(f"its features are {sorted(features)}; expected image and label")
        builder.download_and_prepare()
        splits = builder.info.splits
        held_out = [each for each in ("test", "validation") if each in splits]
        source = held_out[0] if held_out and split == "test" else "train"
        if source not in splits:
            raise ValueError(f"its splits are {sorted(splits)}; expected train")
        examples = _tfds_examples(builder, source)
        records = [[str(f), os.stat(f).st_size] for f in splits[source].filepaths]
        whole = [builder.info.full_name, source, image_size, records]
        origin = (f"{builder.name}-{source}", lambda: whole)
        count = splits[source].num_examples
        images, labels, _ = stack(examples, count, image_size, stream, origin, [])
    except (DataError, packs.PackError):
        raise
    except Exception as error:  # no network, no space, a wrong checksum, a damaged record, ...
        raise DataError(
            f"TensorFlow Datasets could not give {name!r}: {error}\nIf it is prepared somewhere, "
            "name that folder: set TFDS_DATA_DIR or data_dir, which now is "
            f"{data_dir or '~/tensorflow_datasets'}."
        ) from error
    data = ImageData(name, split, images, labels, features["label"].names)
    return data if held_out else divide(data, split)


def _tfds_examples(builder, split):
    examples = builder.as_dataset(split=split).map(lambda each: (each["image"], each["label"]))
    # Images of one size are read in batches: 4 seconds for MNIST, and not 10.
    batch_size = 256 if examples.element_spec[0].shape.is_fully_defined() else 1
    index = 0
    for images, labels in examples.batch(batch_size).prefetch(2).as_numpy_iterator():
        for image, label in zip(images, labels, strict=True):
            yield f"{builder.name} {split} image {index}", image, label
            index += 1
