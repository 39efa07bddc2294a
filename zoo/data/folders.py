"""Images in folders, one folder for each class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.checks import DataError, refuse_special_file
from zoo.data.decoding import decode
from zoo.data.dividing import divide
from zoo.data.image_data import ImageData
from zoo.data.stacking import stack


def read_folder(
    folder: Path,
    split: str,
    image_size: Sequence[int] | None,
    stream: bool | None,
    skip_corrupt: float,
) -> ImageData:
    """Read one split of FOLDER/CLASS/IMAGE, or of FOLDER/train and FOLDER/test.

    The arguments are those of `zoo.data.load`.

    Raises:
        DataError: if the folders are not as expected, or too many files are not images.
    """
    train = folder / "train"
    candidates = [folder / name for name in ("test", "val", "valid", "validation")]
    test = next((candidate for candidate in candidates if candidate.is_dir()), folder)
    divided = train.is_dir() and test != folder
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
        refuse_special_file(file)
        if file.is_dir():
            raise DataError(
                f"{file} is a folder; expected {root}/CLASS/IMAGE, or {folder}/train and "
                f"{folder}/test with such folders of classes."
            )
    skipped: list[str] = []
    decoded = _decoded(files, int(skip_corrupt * len(files)), skipped)
    name = folder.resolve().name

    def source() -> tuple[Any, list[Path]]:
        rows = ((file.relative_to(root), file.stat(), label) for file, label in files)
        contents = [[str(f), s.st_size, s.st_mtime_ns, label] for f, s, label in rows]
        return [str(root.resolve()), image_size, contents], [file for file, _ in files]

    origin = (name, source)
    images, labels, skipped = stack(decoded, len(files), image_size, stream, origin, skipped)
    _refuse_too_many(skipped, int(skip_corrupt * len(files)), len(files))
    lost = np.setdiff1d(np.arange(len(label_names)), labels)
    if lost.size:
        raise DataError(
            f"{root / label_names[lost[0]]}: none of its images could be read; "
            "expected at least one per class. Repair them or remove the folder."
        )
    data = ImageData(name, split, images, labels, label_names, tuple(skipped))
    named = b"\n".join(os.fsencode(file.relative_to(root)) for file, _ in files)
    return data if divided else divide(data, split, named)


def _decoded(
    files: list[tuple[Path, int]], tolerated: int, skipped: list[str]
) -> Iterator[tuple[Path, np.ndarray, int]]:
    """Yield (file, image, label) of the files that are images; add the others to `skipped`."""
    for file, label in files:
        try:
            image = decode(file)
        except DataError as error:
            skipped.append(str(error))
            _refuse_too_many(skipped, tolerated, len(files), error)
        else:
            yield file, image, label


def _refuse_too_many(
    skipped: list[str], tolerated: int, files: int, cause: DataError | None = None
) -> None:
    if len(skipped) > tolerated:
        beyond = (
            f"More than {tolerated} of {files} files are not images, and skip_corrupt allows no "
            "more: "
        )
        raise DataError(
            (beyond if tolerated else "")
            + f"{skipped[tolerated]}. Remove it, or leave out a larger share of the files: "
            "skip_corrupt=SHARE, at the command line --skip-corrupt SHARE."
        ) from cause


def _class_names(folder: Path) -> tuple[str, ...]:
    names = [entry.name for entry in _visible(folder, "class folders") if entry.is_dir()]
    if len(names) < 2:
        raise DataError(
            f"{folder} has the class folders {names}; expected two or more, {folder}/CLASS/IMAGE."
        )
    return tuple(names)


def _visible(folder: Path, expected: str) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise DataError(f"{folder} is empty; expected {expected} in it.")
    return entries
