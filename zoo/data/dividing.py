"""Divide images without a test split into training and test images, and hold some out."""

import dataclasses
import hashlib
import re
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from zoo.data import packs
from zoo.data.checks import DataError, refuse_special_file

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


def hold_out_listed(
    data: "ImageData", folder: str | Path, list_file: str | Path
) -> "tuple[ImageData, ImageData]":
    """Divide the training images of a folder by a list -> (training, validation).

    Images of the list that are test images stay so, and a note says how many.

    Arguments:
        data: the training images.
        folder: the folder that they were read from.
        list_file: a text file with the paths of the validation images, one a line, relative to
            the folder.

    Raises:
        DataError: if the list cannot be read or names what is not in the folder, the data are no
            folder, or a part has too few images.
    """
    _require_files(data, "A list of validation images")
    refuse_special_file(list_file)
    try:
        lines = Path(list_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{list_file} is no list of images, one path a line: {error}") from error
    listed = {PurePosixPath(line.strip()).as_posix() for line in lines if line.strip()}
    others = sorted(listed.difference(data.files))
    for path in others:
        if not (Path(folder).expanduser() / path).is_file():
            raise DataError(
                f"{list_file} names {path!r}, which is not in {folder}; expected paths such as "
                f"{data.files[0]}."
            )
    if others:
        note = f"{len(others)} of {len(listed)} images in {list_file} are no training images."
        data = dataclasses.replace(data, notes=[*data.notes, note])
    return _parts(data, np.flatnonzero([path in listed for path in data.files]), str(list_file))


def hold_out_groups(data: "ImageData", share: float, pattern: str) -> "tuple[ImageData, ImageData]":
    """Divide the training images of a folder without dividing a group -> (training, validation).

    The choice of the groups is random, and always the same. No class loses its last training image.

    Arguments:
        data: the training images.
        share: the share of the images that validation receives, 0..1, as nearly as groups allow.
        pattern: a regular expression for the path of an image, relative to the folder. Its first
            group, or all that it matches, names the group of the image.

    Raises:
        DataError: if the pattern is none or does not match a path, the data are no folder, or the
            groups cannot be divided so.
    """
    _require_files(data, "A group of images")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{pattern!r} is no regular expression: {error}.") from error
    groups: dict[str, list[int]] = {}
    for index, path in enumerate(data.files):
        match = expression.search(path)
        group = match and match[1 if expression.groups else 0]
        if not group:
            raise DataError(f"{pattern!r} matches nothing in {path!r}, so it has no group.")
        groups.setdefault(group, []).append(index)
    chosen: list[int] = []
    left = np.bincount(data.labels, minlength=data.classes)
    names = sorted(groups)
    for number in np.random.default_rng(0).permutation(len(names)):
        members = groups[names[number]]
        counts = np.bincount(data.labels[members], minlength=data.classes)
        near = len(chosen) + len(members) / 2 <= share * data.examples
        if near and not ((counts > 0) & (counts == left)).any():
            left, chosen = left - counts, chosen + members
    return _parts(data, np.sort(np.array(chosen, int)), f"{share} of {len(groups)} groups")


def _require_files(data, what):
    if not data.files:
        raise DataError(f"{what} needs a folder of images; {data.name} has no names of files.")


def _parts(data, chosen, how):
    """Return (the other images, the chosen ones)."""
    rest = np.setdiff1d(np.arange(data.examples), chosen)
    lost = np.setdiff1d(data.labels, data.labels[rest])
    few = min(len(np.unique(data.labels[part])) for part in (rest, chosen)) < 2
    if few or lost.size:
        why = f"no training image of class {data.label_names[lost[0]]!r}" if lost.size else ""
        raise DataError(
            f"{data.name}: {how} holds out {len(chosen)} of {data.examples} images, and leaves "
            f"{why or 'a part with fewer than two classes'}. Hold out others."
        )
    return data.take(rest), dataclasses.replace(data.take(chosen), split="validation")


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
