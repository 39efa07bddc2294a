"""Images larger than memory: decoded once into one file on disk, and read from it image by image.

Random access to image files and records is slow, and a damaged file is found only when it is read.
So the first start decodes all of them, one at a time, into `images.bin`. It takes
height x width x channels bytes of disk per image. Later starts use the file as it is, and a batch
of any (seed, step) reads its images from there.

A pack is complete or absent: it is written under another name, flushed and renamed. The checksums
of the labels are checked when the pack is opened, and that of an image whenever it is read.

A pack belongs to files of these names, sizes and times. It also keeps the time of each file's last
change (ctime, which a user cannot set back) and a hash of its content. A file whose ctime is
another one is read again, and another content means another pack. What remains: a file system whose
ctime does not follow each change.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo import files
from zoo.data.checks import refuse_special_file
from zoo.errors import ZooError
from zoo.terminal import say

_ARRAYS, _READ_FROM = ("labels", "checksums"), "read_from.npy"
FORMAT = 2  # also counted up when an image file is decoded to other pixels


class PackError(ZooError, OSError):
    """A pack for which the disk has too little room, or that was damaged after it was written."""


@contextlib.contextmanager
def damage_told() -> Iterator[None]:
    """While active, turn TensorFlow's error about a damaged image into a `PackError`."""
    try:
        yield
    except Exception as error:
        message = re.search(rf"{PackError.__name__}: (.+)", str(error))
        if message is None:
            raise
        raise PackError(message[1]) from error


def pack(
    name: str,
    source: Any,
    rows: Iterable[tuple[np.ndarray, int]],
    count: int,
    shape: Sequence[int],
    skipped: list[str],
    read_from: Sequence[Path] = (),
) -> "tuple[PackedImages, np.ndarray, list[str]]":
    """Return (images, labels, skipped) from the pack of `source`; write the pack if it is absent.

    Arguments:
        name: the beginning of the folder's name, for people.
        source: what the images depend on, as JSON. Another source has another pack.
        rows: pairs of a uint8 image (h, w, c) and its label. They are read only if the pack is
            written.
        count: the largest possible number of rows.
        shape: (h, w, c) of each image.
        skipped: a list to which `rows` adds a message for each image that it leaves out.
        read_from: the files that `rows` reads. If the content of one changes, the pack is written
            again.

    Raises:
        PackError: if the disk has too little room.
    """
    key = hashlib.sha256(json.dumps([FORMAT, source]).encode()).hexdigest()[:16]
    folder = files.cache() / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder):
        contents = _open(folder, shape)
        if contents is None or _have_changed(read_from, folder):
            _write(folder, rows, count, shape, skipped, read_from)
            contents = _open(folder, shape)
    if contents is None:
        raise PackError(f"{folder} was written and cannot be read. Check its disk.")
    return contents


class PackedImages:
    """Images uint8 (n, h, w, c) on disk. An index reads them, as it does in a NumPy array.

    Arguments:
        file: the open file of all images of the pack.
        checksums: the CRC-32 of each image of the pack.
        shape: (h, w, c) of each image.
        rows: for each of the n images, its place in the pack.

    Raises:
        PackError: if an image that is read is not the one that was written.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self, file: FileIO, checksums: np.ndarray, shape: Sequence[int], rows: np.ndarray
    ) -> None:
        self._file, self._checksums, self._rows = file, checksums, rows
        self.shape = (len(rows), *shape)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """The number of values, n x h x w x c."""
        return len(self) * self._values

    @property
    def _values(self) -> int:
        """The number of values of an image, which is also its number of bytes."""
        return int(np.prod(self.shape[1:]))

    @property
    def checksums(self) -> np.ndarray:
        """The CRC-32 of each image, (n,)."""
        return self._checksums[self._rows]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read one image (h, w, c), or for a slice or an array of indices (n, h, w, c)."""
        rows = self._rows[index]
        images = self._read(np.atleast_1d(rows))
        return images[0] if np.ndim(rows) == 0 else images

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        images = self[:]
        return images if dtype is None else images.astype(dtype)

    def take(self, indices: np.ndarray, axis: int = 0) -> "PackedImages":
        """Return the images of these indices, still on disk. The axis is always the first."""
        return PackedImages(self._file, self._checksums, self.shape[1:], self._rows[indices])

    def _read(self, rows: np.ndarray) -> np.ndarray:
        # The pages of a memory map would count as memory of this process.
        images = np.empty((len(rows), self._values), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            count = os.preadv(self._file.fileno(), [image.data], row * self._values)
            if count != self._values or zlib.crc32(image.data) != self._checksums[row]:
                raise PackError(
                    f"Image {row} of {self._file.name} is damaged. Remove its folder; the next "
                    "start writes it again."
                )
        return images.reshape(len(rows), *self.shape[1:])


def _write(
    folder: Path,
    rows: Iterable[tuple[np.ndarray, int]],
    count: int,
    shape: Sequence[int],
    skipped: list[str],
    read_from: Sequence[Path],
) -> None:
    needed = count * (int(np.prod(shape)) + 12)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise PackError(
            f"{folder} would take {_gib(needed)} and the disk has {_gib(free)}: set ZOO_CACHE to a "
            "folder with more room, give a smaller --image-size, or keep the images in memory with "
            "--stream False."
        )
    say(f"Decoding up to {count:,} images, once, into {folder} ({_gib(needed)})", error=True)
    labels, checksums = np.empty(count, np.int64), np.empty(count, np.uint32)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed process left it; this one has the lock
    partial.mkdir()
    try:
        # Before the images are read: a file that changes in between has another ctime afterwards.
        np.save(partial / _READ_FROM, _ctimes_and_hashes(read_from))
        written = 0
        with open(partial / "images.bin", "wb") as file:
            for written, (image, label) in enumerate(rows, 1):
                pixels = np.ascontiguousarray(image).data
                file.write(pixels)
                labels[written - 1], checksums[written - 1] = label, zlib.crc32(pixels)
        np.save(partial / "labels.npy", labels[:written])
        np.save(partial / "checksums.npy", checksums[:written])
        meta = {
            "shape": list(shape),
            "skipped": skipped,
            "sha256": {name: files.sha256(partial / f"{name}.npy") for name in _ARRAYS},
        }
        with open(partial / "meta.json", "w", encoding="utf-8") as file:
            json.dump(meta, file)
        for path in [*partial.iterdir(), partial]:
            files.flush(path)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged pack
        partial.rename(folder)
        files.flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _open(folder: Path, shape: Sequence[int]) -> tuple[PackedImages, np.ndarray, list[str]] | None:
    """Return (images, labels, skipped) of a pack; None if it is absent or damaged."""
    try:
        for name in ("meta.json", "images.bin", *(f"{name}.npy" for name in _ARRAYS)):
            refuse_special_file(folder / name)
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        paths = [folder / f"{name}.npy" for name in _ARRAYS]
        sound = [files.sha256(path) for path in paths] == [meta["sha256"][name] for name in _ARRAYS]
        if not sound or meta["shape"] != list(shape) or not isinstance(meta["skipped"], list):
            return None
        labels, checksums = (np.load(path, allow_pickle=False) for path in paths)
        file = open(folder / "images.bin", "rb", buffering=0)  # noqa: SIM115 (kept open)
        size = len(labels) * int(np.prod(shape))
        if len(checksums) != len(labels) or os.fstat(file.fileno()).st_size != size:
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return PackedImages(file, checksums, shape, np.arange(len(labels))), labels, meta["skipped"]


def _have_changed(read_from: Sequence[Path], folder: Path) -> bool:
    """Return True if the content of a file is no longer that of which a pack was written."""
    table = folder / _READ_FROM
    try:
        refuse_special_file(table)
        packed = np.load(table, allow_pickle=False) if table.exists() else None
    except (OSError, ValueError, EOFError):
        return True
    if packed is not None:
        if packed.shape != (len(read_from), 2):
            return True
        ctimes = [os.stat(file).st_ctime_ns for file in read_from]
        suspects = np.flatnonzero(packed[:, 0] != np.array(ctimes, np.int64))
        if not suspects.size:
            return False
        now = _ctimes_and_hashes([read_from[index] for index in suspects.tolist()])
        if not np.array_equal(now[:, 1], packed[suspects, 1]):
            return True
        packed[suspects] = now
    else:  # a pack of an older zoo: its contents are not known, and accepted
        packed = _ctimes_and_hashes(read_from)
    with files.whole(table) as partial:
        np.save(partial, packed)
    return False


def _ctimes_and_hashes(paths: Sequence[Path]) -> np.ndarray:
    """Return the time of each file's last change in ns, and 60 bits of its SHA-256: (n, 2)."""

    def of(path):
        ctime = os.stat(path).st_ctime_ns
        try:
            return ctime, int(files.sha256(path)[:15], 16)
        except OSError:  # it may not be read, so it is none of the images
            return ctime, 0

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(of, paths)), np.int64).reshape(-1, 2)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one of several processes write, while the others wait."""
    with open(folder.with_name(f"{folder.name}.lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
