"""Measure the peak memory of a training on a folder of 200,000 images, on disk and in memory.

`python benchmarks/streaming.py [--images 200000]` makes a folder of small JPEG files, trains
`nin_dsn` for a few steps in one process for each case, and removes the folder. The kernel tells the
peak memory of each process. A training on 2,000 images shows the memory of the program itself.
"""

import dataclasses
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Settings:
    images: int = 200_000
    size: int = 32
    """Height and width, in pixels."""
    steps: int = 20


def main(settings):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        begun = time.monotonic()
        make(folder / "all", settings.images, settings.size)
        make(folder / "few", 2_000, settings.size)
        print(f"Made the files in {time.monotonic() - begun:.0f} s.", flush=True)
        pixels = settings.images * settings.size**2 * 3
        table = Table("training", "peak memory", "beyond the program's", "seconds", box=None)
        cases = [
            ("2,000 images, in memory", "few", "False"),
            ("on disk, first start", "all", "True"),
            ("on disk, later start", "all", "True"),
            ("in memory", "all", "False"),
        ]
        least = None
        for number, (label, which, stream) in enumerate(cases):
            peak, seconds = train(folder, which, stream, settings.steps, str(number))
            least = least or peak
            table.add_row(label, _mib(peak), _mib(peak - least), f"{seconds:.0f}")
            print(f"{label}: {_mib(peak)}, {seconds:.0f} s", flush=True)
        packed = sum(file.stat().st_size for file in folder.glob("cache/*/*"))
    Console().print(table)
    print(f"{settings.images:,} images, {_mib(pixels)} of pixels; the pack takes {_mib(packed)}.")


def make(folder, images, size):
    """Write `images` images of ten classes to folder/train, and a thousand to folder/test."""
    rng = np.random.default_rng(0)
    # Smooth noise compresses like a photograph. A number in one corner makes each file different.
    base = Image.fromarray(rng.integers(0, 256, (4, 4, 3), "uint8")).resize((size, size))
    pixels = np.array(base)
    for split, count in (("train", images), ("test", 1000)):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
        for index in range(count):
            pixels[0, :4, 0] = [index >> shift & 255 for shift in (0, 8, 16, 24)]
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG")
            path = folder / split / str(index % 10) / f"{index:07d}.jpg"
            path.write_bytes(encoded.getvalue())


def train(folder, which, stream, steps, name):
    """Run `zoo train` in a process of its own; return (peak resident bytes, seconds)."""
    command = [sys.executable, "-m", "zoo", "train", "nin_dsn", "--data", str(folder / which)]
    command += ["--stream", stream, "--epochs", "1", "--steps-per-epoch", str(steps)]
    command += ["--width", "0.1", "--precision", "float32", "--runs", str(folder / "runs")]
    command += ["--name", name]
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache")}
    begun = time.monotonic()
    child = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed.")
    return usage.ru_maxrss * 1024, time.monotonic() - begun


def _mib(count):
    return f"{count / 2**20:,.0f} MiB"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
