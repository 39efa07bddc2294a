"""From a folder of photographs to a classifier: trained weights, from scratch, and a plain CNN.

`python benchmarks/finetuning.py PHOTOS [--seeds 3]`. PHOTOS has a folder for each class, with more
photographs than `--of-each`; folders in these folders count, as in tiny-imagenet-200/train. The
first `--of-each` of a shuffle with the seed are copied to a temporary folder, on which
`zoo finetune` and `zoo train photos` run with no other flag than `--data`, `--seed` and those of
this machine. The plain CNN learns from the same photographs for as many CPU seconds as
`zoo train photos` took. All photographs that were not copied judge the results. The goals: 78 % are
right after 3 minutes of two cores, and from scratch 6 points more than with the CNN.
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

import keras
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
    tuned: bool = True
    """Train from trained weights: zoo finetune."""
    scratch: bool = True
    """Also train the recipe photos from random weights, and then the CNN for as long."""


SUFFIXES = (".jpeg", ".jpg", ".png")


def main(settings):
    photographs = photographs_of(settings)
    results = {}
    for seed in range(settings.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            rest = laid_out(photographs, settings.of_each, seed, Path(scratch, "photos"))
            flags = ("--data", Path(scratch, "photos"), "--seed", seed, "--name", "run")
            found = {}
            if settings.tuned:
                way = "zoo finetune"
                found[way] = measured(("finetune", *flags), Path(scratch, "tuned"), rest)
            if settings.scratch:
                way = "zoo train photos"
                found[way] = measured(
                    ("train", "photos", *flags), Path(scratch, "photos_runs"), rest
                )
                learned = (Path(scratch, "photos"), seed, found[way][2])
                found["plain CNN, as long"] = plain_cnn(*learned, rest)
        for way, result in found.items():
            results.setdefault(way, []).append(result)
            say(f"{way}, seed {seed}: {100 * result[0]:.1f} %, {result[2]:.0f} CPU seconds")
    rows = []
    for way, of_seeds in results.items():
        accuracies, wall, processor, images = map(list, zip(*of_seeds, strict=True))
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


def laid_out(photographs, of_each, seed, folder):
    """Copy the photographs to learn from to a folder of class folders -> the rest, to judge by."""
    rest = []
    for name, files in photographs.items():
        shuffled = [*files]
        random.Random(seed).shuffle(shuffled)
        (folder / name).mkdir(parents=True)
        for file in shuffled[:of_each]:
            shutil.copy(file, folder / name)
        rest += [(name, file) for file in shuffled[of_each:]]
    return rest


def measured(command, runs, rest):
    """Train one way -> (accuracy, seconds, CPU seconds, number of images that judged it)."""
    wall, processor = run([*command, "--runs", runs])
    finished = Run(next(runs.glob("*/run")))
    model = zoo.load_model(finished.folder)
    return accuracy_on(model, finished.label_names, rest), wall, processor, len(rest)


def plain_cnn(folder, seed, seconds, rest):
    """Train the CNN of many tutorials for so many CPU seconds -> the same as `measured`."""
    keras.utils.set_random_seed(seed)
    training = data.load(str(folder), "train", image_size=(64, 64))
    layers = [keras.Input((64, 64, 3)), keras.layers.Rescaling(1 / 255)]
    layers += [keras.layers.RandomFlip("horizontal")]
    for filters in (32, 64, 128):
        convolution = keras.layers.Conv2D(filters, 3, activation="relu")
        layers += [convolution, keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.5)]
    layers += [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(training.classes)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    begun, processor = time.monotonic(), time.process_time()
    images = training.images[:].astype("float32")
    while time.process_time() - processor < seconds:
        model.fit(images, training.labels, batch_size=32, verbose=0)
    took = time.monotonic() - begun, time.process_time() - processor
    return accuracy_on(model, training.label_names, rest), *took, len(rest)


def run(arguments):
    """Run a command of the zoo -> (seconds, CPU seconds of its processes)."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun, before = time.monotonic(), used.ru_utime + used.ru_stime
    subprocess.run([sys.executable, "-m", "zoo", *map(str, arguments)], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - begun, used.ru_utime + used.ru_stime - before


def accuracy_on(model, label_names, photographs):
    """Return the share of (class, file) that a model classifies rightly."""
    images = np.stack([data.read_image(file, model.input_shape[1:]) for _, file in photographs])
    answers = model.predict(images.astype("float32"), batch_size=256, verbose=0).argmax(1)
    right = np.array(label_names)[answers] == np.array([name for name, _ in photographs])
    return float(right.mean())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
