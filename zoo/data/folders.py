"""Folders of class folders."""

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data.checks import DataError
from zoo.data.decoding import decode
from zoo.data.dividing import divide
from zoo.data.image_data import ImageData
from zoo.data.stacking import stack


def read_folder(folder, split, image_size, stream, skip_corrupt):
    """Read FOLDER/CLASS/IMAGE, or the part of FOLDER/train and FOLDER/test that is asked for."""
    train = folder / "train"
    places = [folder / name for name in ("test", "val", "valid", "validation")]
    test = next((place for place in places if place.is_dir()), None)
    divided = train.is_dir() and test is not None
    if not divided:
        train = test = folder
    label_names = _class_names(train)
    difference = set(label_names) ^ set(_class_names(test))
    if difference:
        raise DataError(f"{train} and {test} differ in the class folders {sorted(difference)}.")
    root = train if split == "train" else test
    files = [
        (file, label)
        for label, name in enumerate(label_names)
        for file in _visible(root / name, "images")
    ]
    for file, _ in files:
        if file.is_dir():
            raise DataError(
                f"{file} is a folder; expected {root}/CLASS/IMAGE, or {folder}/train and "
                f"{folder}/test with such folders of classes."
            )
    skipped = []
    decoded = _whole(files, int(skip_corrupt * len(files)), skipped)
    name = folder.resolve().name

    def contents():
        found = ((file.relative_to(root), file.stat(), label) for file, label in files)
        return [[str(f), s.st_size, s.st_mtime_ns, label] for f, s, label in found]

    origin = (name, lambda: [str(root.resolve()), image_size, contents()])
    images, labels, skipped = stack(decoded, len(files), image_size, stream, origin, skipped)
    _refuse_too_many(skipped, int(skip_corrupt * len(files)), len(files))
    lost = np.setdiff1d(np.arange(len(label_names)), labels)
    if lost.size:
        raise DataError(f"{root / label_names[lost[0]]}: none of its images could be read.")
    data = ImageData(name, split, images, labels, label_names, tuple(skipped))
    named = "\n".join(file.relative_to(root).as_posix() for file, _ in files)
    return data if divided else divide(data, split, named)


def _whole(files, tolerated, skipped):
    """Yield (file, image, label) of the files that are images; add the others to `skipped`."""
    for file, label in files:
        try:
            image = decode(file)
        except DataError as error:
            skipped.append(str(error))
            _refuse_too_many(skipped, tolerated, len(files), error)
        else:
            yield file, image, label


def _refuse_too_many(skipped, tolerated, files, cause=None):
    if len(skipped) > tolerated:
        many = f"More than {tolerated} of {files} files are no images, as skip_corrupt allows; "
        raise DataError(
            (many if tolerated else "")
            + f"{skipped[tolerated]}. Remove it, or leave out up to a share "
            "of the files: skip_corrupt=SHARE, at the command line --skip-corrupt SHARE."
        ) from cause


def _class_names(folder):
    names = [entry.name for entry in _visible(folder, "class folders") if entry.is_dir()]
    if len(names) < 2:
        raise DataError(
            f"{folder} has the class folders {names}; expected two or more, {folder}/CLASS/IMAGE."
        )
    return tuple(names)


def _visible(folder, expected):
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise DataError(f"{folder} is empty; expected {expected} in it.")
    return entries
