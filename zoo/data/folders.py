"""Images in folders, one folder for each class."""

import mimetypes
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.checks import DataError, refuse_special_file
from zoo.data.decoding import NO_IMAGE, Resizing, decode, is_colour
from zoo.data.dividing import divide
from zoo.data.image_data import ImageData
from zoo.data.stacking import stack

_TESTS = ("test", "val", "valid", "validation")


def read_folder(
    folder: Path,
    split: str,
    image_size: Sequence[int] | None,
    stream: bool | None,
    skip_corrupt: float,
    *,
    channels: int | None = None,
    resizing: Resizing = "squash",
    whole: bool = False,
) -> ImageData:
    """Read one split of FOLDER/CLASS/IMAGE, or of FOLDER/train and FOLDER/test.

    The arguments are those of `zoo.data.load`.

    Raises:
        DataError: if the folders are not as expected, or too many files are not images.
    """
    train, test = _roots(folder)
    divided = train != test
    least = 1 if whole and not divided else 2
    notes: list[str] = []
    in_train = _images_in(train, folder, notes, least)
    in_test = _images_in(test, folder, notes) if divided else in_train
    label_names = _class_names(train, in_train, test, in_test, notes, least)
    root, images_of = (train, in_train) if split == "train" else (test, in_test)
    files = [(file, label) for label, name in enumerate(label_names) for file in images_of[name]]
    listed = [*in_train.values(), *in_test.values()]
    natural = 3 if any(is_colour(file) for group in listed for file in group) else 1
    wanted = channels or natural
    tolerated = int(skip_corrupt * len(files))
    skipped: list[str] = []
    converted: list[Path] = []
    decoded = _decoded(files, tolerated, skipped, wanted, converted)
    name = folder.resolve().name

    def source() -> tuple[Any, list[Path]]:
        rows = ((file.relative_to(root), file.stat(), label) for file, label in files)
        contents = [[str(f), s.st_size, s.st_mtime_ns, label] for f, s, label in rows]
        chosen = [choice for choice in (wanted, resizing) if choice not in (natural, "squash")]
        return [str(root.resolve()), image_size, contents, *chosen], [file for file, _ in files]

    choices: dict[str, Any] = {"channels": wanted, "resizing": resizing}
    images, labels, skipped = stack(
        decoded, len(files), image_size, stream, (name, source), skipped, **choices
    )
    _refuse_too_many(skipped, tolerated, len(files))
    lost = np.setdiff1d([label for _, label in files], labels)
    if lost.size:
        raise DataError(
            f"{root / label_names[lost[0]]}: none of its images could be read; "
            "expected at least one per class. Repair them or remove the folder."
        )
    if converted:
        change = "are grey, and became RGB" if wanted == 3 else "have colours, and became grey"
        notes.append(f"{len(converted)} of {len(files)} images in {root} {change}.")
    paths = _paths_of(files, skipped, folder, len(images))
    data = ImageData(name, split, images, labels, label_names, tuple(skipped), "", notes, paths)
    if divided or whole:
        return data
    # With skip_corrupt, the files that are no images belong to the identity of older runs.
    named = [file for name in label_names for file in _visible(root / name)]
    named = named if skip_corrupt else [file for file, _ in files]
    return divide(data, split, b"\n".join(os.fsencode(file.relative_to(root)) for file in named))


def _roots(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the classes to train and to test with, which may be one."""
    train, tests = folder / "train", [folder / name for name in _TESTS]
    test = next((candidate for candidate in tests if candidate.is_dir()), None)
    return (train, test) if test and train.is_dir() else (folder, folder)


def _images_in(root: Path, folder: Path, notes: list[str], least: int = 2) -> dict[str, list[Path]]:
    """Return {name of a class folder: its images}, and note what is not among them."""
    entries = _visible(root)
    if not entries:
        raise DataError(f"{root} is empty; expected class folders in it.")
    images: dict[str, list[Path]] = {entry.name: [] for entry in entries if entry.is_dir()}
    _require_classes([*images], root, least)
    others = []
    for entry in entries:
        if not entry.is_dir():
            continue
        for file in _visible(entry):
            refuse_special_file(file)
            if file.is_dir():
                raise DataError(
                    f"{file} is a folder; expected {root}/CLASS/IMAGE, or {folder}/train and "
                    f"{folder}/test with such folders of classes."
                )
            if _has_suffix_of_images(file) or is_colour(file) is not None:
                images[entry.name].append(file)
            else:
                others.append(f"{entry.name}/{file.name}")
    if others:
        notes.append(f"Files in {root} that are no images, and left out: {_few(others)}.")
    loose = [entry.name for entry in entries if entry.is_file() and _has_suffix_of_images(entry)]
    if loose:
        notes.append(f"Images in {root} that lie in no class folder, and left out: {_few(loose)}.")
    return images


def _has_suffix_of_images(file: Path) -> bool:
    kind, _ = mimetypes.guess_type(file.name, strict=False)
    return kind is not None and kind.startswith("image/")


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _require_classes(names: list[str], folder: Path, least: int, more: str = "") -> None:
    if len(names) < least:
        expected = "two" if least == 2 else "one"
        raise DataError(
            f"{folder} has the class folders {names}{more}; expected {expected} or more, "
            f"{folder}/CLASS/IMAGE."
        )


def _class_names(
    train: Path,
    in_train: dict[str, list[Path]],
    test: Path,
    in_test: dict[str, list[Path]],
    notes: list[str],
    least: int,
) -> tuple[str, ...]:
    """Return the names of the class folders that have images to train on."""
    names = tuple(name for name, files in in_train.items() if files)
    if empty := [name for name in in_train if name not in names]:
        notes.append(f"Folders in {train} without images, which are no classes: {_few(empty)}.")
    _require_classes([*names], train, least, " with images")
    in_test = {name: files for name, files in in_test.items() if files or name in names}
    if difference := {*names} ^ {*in_test}:
        raise DataError(f"{train} and {test} differ in the class folders {sorted(difference)}.")
    return names


def _paths_of(
    files: Iterable[tuple[Path, int]], skipped: Iterable[str], folder: Path, count: int
) -> tuple[str, ...]:
    """Return the paths in the folder of the files that were not skipped; () if they are unclear."""
    broken = {message.partition(NO_IMAGE)[0] for message in skipped}
    paths = tuple(
        file.relative_to(folder).as_posix() for file, _ in files if str(file) not in broken
    )
    return paths if len(paths) == count else ()


def _decoded(
    files: list[tuple[Path, int]],
    tolerated: int,
    skipped: list[str],
    channels: int,
    converted: list[Path],
) -> Iterator[tuple[Path, np.ndarray, int]]:
    """Yield (file, image, label) of the files that are images; add the others to `skipped`.

    Images that have other channels are added to `converted`. The one who stacks them converts them.
    """
    for file, label in files:
        try:
            image = decode(file)
        except DataError as error:
            skipped.append(str(error))
            _refuse_too_many(skipped, tolerated, len(files), error)
        else:
            if image.shape[-1] != channels:
                converted.append(file)
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


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
