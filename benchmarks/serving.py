"""Whether every kind of model can be served, and what a killed export leaves behind.

`python benchmarks/serving.py [--only nin_dsn] [--kills 20]`. Exports each model and runs all checks
of `zoo verify` on it, beside Keras itself; then kills an exporting process at random moments and
verifies whatever version can be seen. The weights are random, scaled until the logits spread like
those of a trained net. Exit code 1 if anything is wrong.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import zoo
from zoo import data, exports
from zoo.serving import exporting, verifying

VARIANTS = ("modern", "plain", "cnn", "mnist", "cifar10", "cifar100", "svhn", "imagenet")
SHAPES = {"mnist": (28, 28, 1), "imagenet": (224, 224, 3)}


@dataclass(frozen=True)
class Settings:
    only: tuple[str, ...] = ("",)
    """The models whose names hold one of these."""
    kills: int = 20
    seed: int = 0


def models():
    """{name: function that builds it}"""

    def variant(factory, name, **arguments):
        shape = SHAPES.get(name, (32, 32, 3))
        classes = 1000 if name == "imagenet" else 10
        return lambda: factory(shape, classes, variant=name, **arguments)

    found = {f"nin {name}": variant(zoo.nin, name) for name in VARIANTS}
    found |= {f"nin_dsn {name}, exits": variant(zoo.nin_dsn, name) for name in VARIANTS}
    found["nin modern, dense head"] = variant(zoo.nin, "modern", head="dense")
    found["nin_dsn official taps, exits"] = variant(
        zoo.nin_dsn, "cifar10", companion_taps="conv", companion_form="dense"
    )
    found["nin modern, whitened"] = whitened
    found["nin modern, mixed_bfloat16"] = mixed
    found["nin_dsn modern, jit, exits"] = compiled
    found["mlp"] = lambda: zoo.mlp()
    found["student"] = student
    found["MobileNetV2"] = mobile_net
    return found


def whitened():
    digits = data.load("digits").images.astype("float32")
    normalization, whitening = zoo.GlobalContrastNormalization(), zoo.ZCAWhitening()
    whitening.adapt(normalization(digits))
    return zoo.nin((8, 8, 1), 10, preprocessing=[normalization, whitening])


def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return zoo.nin()
    finally:
        keras.config.set_dtype_policy("float32")


def compiled():
    model = zoo.nin_dsn()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=True)
    return model


def student():
    """Taught for a step, so that the teacher and the optimizer are there to be left out."""
    model = zoo.Distiller(
        student=zoo.nin_dsn((32, 32, 3), 10, width=0.25), teacher=zoo.nin(width=0.5)
    )
    model.compile("adam", zoo.SoftmaxCrossEntropy())
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("float32")
    model.fit(images, np.arange(16) % 10, verbose=0)
    return model


def mobile_net():
    images = keras.Input((96, 96, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(images)
    net = keras.applications.MobileNetV2((96, 96, 3), weights=None, classifier_activation=None)
    return keras.Model(images, net(scaled))


def spread(trunk):
    """Scale the last kernel until the logits have a standard deviation of 3."""
    shape = trunk.input_shape[1:]
    images = np.random.default_rng(1).integers(0, 256, (8, *shape)).astype("float32")
    for _ in range(3):
        trunk(images, training=True)  # moves the statistics of batch normalization
    deviation = float(np.std(np.asarray(trunk(images, training=False), "float32")))
    kernel = [w for w in trunk.trainable_weights if len(w.shape) > 1][-1]
    if deviation > 1e-6:
        kernel.assign(kernel * (3 / deviation))


def verify(name, build, base):
    """(seconds of the export, size in MB, the checks)"""
    keras.utils.set_random_seed(0)
    model = build()
    shipped = getattr(model, "student", model)
    trunk = getattr(shipped, "trunk", shipped)
    spread(trunk)
    labels = [f"class {index}" for index in range(trunk.output_shape[-1])]
    begun = time.perf_counter()
    version = exporting.export_savedmodel(model, labels, base, exits="exits" in name)
    seconds = time.perf_counter() - begun
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) / 1e6
    return seconds, size, verifying.verify(version, model=shipped)


def export_for_ever(folder):
    """In the process that is killed."""
    keras.utils.set_random_seed(0)
    model = zoo.nin((8, 8, 1), 10, width=0.25)
    while True:
        exporting.export_savedmodel(model, [str(digit) for digit in range(10)], folder)


def killed(folder, kills, seed):
    """(versions seen, those that failed a check, kills that fell into an export)"""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["zoo.serving.exporting"])
    hits = 0
    for delay in np.random.default_rng(seed).uniform(0, 2, kills):
        before, left = set(exports.versions(folder)), len(list(folder.glob(".export-*")))
        child = processes.Process(target=export_for_ever, args=(folder,))
        child.start()
        while child.is_alive() and set(exports.versions(folder)) == before:
            time.sleep(0.01)
        time.sleep(delay)
        child.kill()
        child.join()
        hits += len(list(folder.glob(".export-*"))) > left
    torn = []
    for number, version in sorted(exports.versions(folder).items()):
        wrong = [check for check in verifying.verify(version) if not check.passed]
        if [check for check in wrong if check.name != "beside it"]:
            torn.append(number)
    return len(exports.versions(folder)), torn, hits


def main(settings):
    console, failed = Console(width=150, highlight=False), 0
    table = Table("model", "checks", "off Keras", "export s", "MB", "wrong", box=None)
    with tempfile.TemporaryDirectory() as folder:
        for name, build in models().items():
            if any(part in name for part in settings.only):
                base = Path(folder, "".join(c if c.isalnum() else "_" for c in name))
                seconds, size, checks = verify(name, build, base)
                wrong = [f"{check.name}: {check.found}" for check in checks if not check.passed]
                off = next(c.found for c in checks if c.name == "Keras, the model")
                off = off.partition("largest difference ")[2].split()[0]
                row = (name, str(len(checks)), off, f"{seconds:.1f}", f"{size:.1f}")
                table.add_row(*row, "; ".join(wrong) or "-")
                print(*row, *wrong, flush=True)
                failed += bool(wrong)
        console.print(table)
        if settings.kills:
            base = Path(folder, "killed")
            base.mkdir()
            seen, torn, hits = killed(base, settings.kills, settings.seed)
            hits = f"{settings.kills} kills, {hits} of them inside an export"
            print(f"{hits}: {seen} versions seen, {len(torn)} torn {torn or ''}")
            failed += bool(torn)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main(tyro.cli(Settings, description=__doc__))
