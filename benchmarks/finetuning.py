"""From a folder of photographs to a classifier: `zoo finetune --data FOLDER`, and from scratch.

`python benchmarks/finetuning.py PHOTOS [--seeds 3]`. PHOTOS has a folder for each class, with more
photographs than `--of-each`; folders in these folders count, as in tiny-imagenet-200/train. The
first `--of-each` of a shuffle with the seed are copied to a temporary folder, on which the commands
run with no other flag than `--data`, `--seed` and those of this machine. All photographs that were
not copied judge the result. The goal: 78 % of them are right after 3 minutes of two cores.
"""

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import zoo
from zoo import data
from zoo.runs import Run
from zoo.terminal import say, show


@dataclass(frozen=True)
class Settings:
    photos: tyro.conf.Positional[Path]
    """Folder with a folder of photographs for each class."""
    classes: tuple[str, ...] = ()
    """Names of the class folders to use. Without names, all."""
    of_each: int = 120
    """Number of photographs of a class in the folder that is learned from."""
    seeds: int = 3
    scratch: bool = True
    """Also train the recipe nin_dsn from random weights, on images of the same size."""


SUFFIXES = (".jpeg", ".jpg", ".png")
FROM_SCRATCH = ("train", "nin_dsn", "--image-size", "32", "--batch-size")


def main(settings):
    photographs = photographs_of(settings)
    ways = {"finetune": ("finetune",)}
    if settings.scratch:
        learned = settings.of_each * len(photographs)
        ways["from scratch"] = (*FROM_SCRATCH, min(32, learned // 2))  # a fifth is held out
    rows = []
    for way, command in ways.items():
        results = [
            measured(command, photographs, settings.of_each, seed) for seed in range(settings.seeds)
        ]
        accuracies, wall, processor, images = map(list, zip(*results, strict=True))
        rows.append(
            (
                way,
                f"{100 * statistics.mean(accuracies):.1f}",
                " ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies),
                f"{statistics.mean(wall):.0f}",
                f"{statistics.mean(processor):.0f}",
                str(images[0]),
            )
        )
    show(("", "mean %", "seeds %", "seconds", "CPU seconds", "judged on"), rows)


def photographs_of(settings):
    """Return {class: its photographs}, and refuse what leaves none to judge by."""
    folders = {folder.name: folder for folder in settings.photos.iterdir() if folder.is_dir()}
    if missing := [name for name in settings.classes if name not in folders]:
        sys.exit(f"{settings.photos} has no folders {missing}; it has {sorted(folders)}.")
    photographs = {
        name: sorted(file for file in folders[name].rglob("*") if file.suffix.lower() in SUFFIXES)
        for name in sorted(settings.classes or folders)
    }
    fewest = min(map(len, photographs.values()), default=0)
    if not 0 < settings.of_each < fewest or len(photographs) < 2:
        sys.exit(
            f"{settings.photos} has {len(photographs)} classes, the smallest of {fewest} "
            f"photographs; expected two classes or more, each with more photographs than --of-each "
            f"{settings.of_each}. The others judge."
        )
    return photographs


def measured(command, photographs, of_each, seed):
    """Train one way -> (accuracy, seconds, CPU seconds, number of images that judged it)."""
    with tempfile.TemporaryDirectory() as scratch:
        photos, runs, rest = Path(scratch, "photos"), Path(scratch, "runs"), []
        for name, files in photographs.items():
            shuffled = [*files]
            random.Random(seed).shuffle(shuffled)
            (photos / name).mkdir(parents=True)
            for file in shuffled[:of_each]:
                shutil.copy(file, photos / name)
            rest += [(name, file) for file in shuffled[of_each:]]
        flags = ("--data", photos, "--seed", seed, "--runs", runs, "--name", "run")
        wall, processor = run([*command, *flags])
        finished = Run(next(runs.glob("*/run")))
        accuracy = accuracy_on(finished, rest)
        say(f"seed {seed}: {100 * accuracy:.1f} % of {len(rest)}, {processor:.0f} CPU seconds")
        return accuracy, wall, processor, len(rest)


def run(arguments):
    """Run a command of the zoo -> (seconds, CPU seconds of its processes)."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun, before = time.monotonic(), used.ru_utime + used.ru_stime
    subprocess.run([sys.executable, "-m", "zoo", *map(str, arguments)], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - begun, used.ru_utime + used.ru_stime - before


def accuracy_on(finished, photographs):
    """Return the share of (class, file) that the model of a run classifies rightly."""
    model = zoo.load_model(finished.folder)
    images = np.stack([data.read_image(file, model.input_shape[1:]) for _, file in photographs])
    answers = model.predict(images.astype("float32"), batch_size=256, verbose=0).argmax(1)
    names = np.array(finished.label_names)
    return float((names[answers] == np.array([name for name, _ in photographs])).mean())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
