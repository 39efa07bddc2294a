"""Images larger than memory: decoded once into one file on disk, and read from it row by row.

Files and records have no random access that is cheap, and a damaged one is found when it is its
turn. So the first start decodes all of them, one at a time, into `images.bin`, whose rows any
(seed, step) can ask for; it costs height x width x channels bytes of disk an image. Later starts
take it as it is. A pack is there whole or not at all: it is written under another name, flushed
and renamed. Labels and checksums are checked when it is opened, a row whenever it is read.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import zlib

import numpy as np

from zoo import files
from zoo.errors import ZooError

FORMAT = 1


class PackError(ZooError, OSError):
    """A pack for which the disk has no room, or that was damaged after it was written."""


def pack(name, source, rows, count, shape, skipped):
    """The pack of `source`, made from `rows` if it is not there: (images, labels, skipped).

    Arguments:
        name: for people, of the pack's folder.
        source: what the images depend on, as JSON: other contents, another pack.
        rows: pairs of a uint8 image (h, w, c) and its label; read only if the pack is made.
        count: of the rows, at most. shape: of each image.
        skipped: a list to which `rows` adds what it leaves out.

    Raises:
        PackError: where the disk has not enough room.
    """
    key = hashlib.sha256(json.dumps([FORMAT, source]).encode()).hexdigest()[:16]
    folder = files.cache() / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder):
        found = _open(folder)
        if found is None:
            _write(folder, rows, count, shape, skipped)
            found = _open(folder)
    return found


class PackedImages:
    """Images (n, h, w, c) uint8 on disk, read when they are indexed as an array's are.

    Raises:
        PackError: for a row that is not what was written.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, file, checksums, shape, rows):
        self._file, self._checksums, self._rows = file, checksums, rows
        self.shape = (len(rows), *shape)

    def __len__(self):
        return len(self._rows)

    @property
    def size(self):
        """The number of values."""
        return len(self) * self._values

    @property
    def _values(self):
        return int(np.prod(self.shape[1:]))

    @property
    def checksums(self):
        """CRC-32 of each image's values."""
        return self._checksums[self._rows]

    def __getitem__(self, index):
        """An image (h, w, c), or for a slice or an array of indices (n, h, w, c)."""
        rows = self._rows[index]
        images = self._read(np.atleast_1d(rows))
        return images[0] if np.ndim(rows) == 0 else images

    def __array__(self, dtype=None, copy=None):
        images = self[:]
        return images if dtype is None else images.astype(dtype)

    def take(self, indices, axis=0):
        """These images, still on disk; the axis is the first."""
        return PackedImages(self._file, self._checksums, self.shape[1:], self._rows[indices])

    def _read(self, rows):
        # Not a memory map: its pages would count as this process's memory.
        images = np.empty((len(rows), self._values), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            count = os.preadv(self._file.fileno(), [image], row * self._values)
            if count != self._values or zlib.crc32(image) != self._checksums[row]:
                raise PackError(
                    f"Image {row} of {self._file.name} is damaged; remove its folder, and the next "
                    "start makes it anew."
                )
        return images.reshape(len(rows), *self.shape[1:])


def _write(folder, rows, count, shape, skipped):
    needed = count * (int(np.prod(shape)) + 12)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise PackError(
            f"{folder} would take {_gib(needed)} and the disk has {_gib(free)}: set ZOO_CACHE to a "
            "folder with more room, give a smaller --image-size, or keep the images in memory with "
            "--stream False."
        )
    print(f"Decoding up to {count:,} images, once, into {folder} ({_gib(needed)})", file=sys.stderr)
    labels, checksums = np.empty(count, np.int64), np.empty(count, np.uint32)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: we have the lock
    partial.mkdir()
    try:
        written = 0
        with open(partial / "images.bin", "wb") as file:
            for written, (image, label) in enumerate(rows, 1):
                pixels = np.ascontiguousarray(image)
                file.write(pixels)
                labels[written - 1], checksums[written - 1] = label, zlib.crc32(pixels)
        for name, array in (("labels", labels), ("checksums", checksums)):
            with open(partial / f"{name}.npy", "wb") as file:
                np.save(file, array[:written])
        names = ("labels", "checksums")
        meta = {
            "shape": list(shape),
            "skipped": skipped,
            "sha256": {name: files.sha256(partial / f"{name}.npy") for name in names},
        }
        with open(partial / "meta.json", "w", encoding="utf-8") as file:
            json.dump(meta, file)
        for path in [*partial.iterdir(), partial]:
            files.flush(path)
        shutil.rmtree(folder, ignore_errors=True)  # one that could not be opened
        partial.rename(folder)
        files.flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _open(folder):
    """Return (images, labels, skipped) of a pack; None if it is not there or is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, checksum in meta["sha256"].items():
            if files.sha256(folder / f"{name}.npy") != checksum:
                return None
        labels, checksums = (
            np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("labels", "checksums")
        )
        shape = tuple(meta["shape"])
        file = open(folder / "images.bin", "rb", buffering=0)  # noqa: SIM115 (open as they are)
        if os.fstat(file.fileno()).st_size != len(labels) * int(np.prod(shape)):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return PackedImages(file, checksums, shape, np.arange(len(labels))), labels, meta["skipped"]


@contextlib.contextmanager
def _one_at_a_time(folder):
    """Let one of several workers write, while the others wait."""
    with open(folder.with_name(f"{folder.name}.lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _gib(count):
    return f"{count / 2**30:.2f} GiB"
