"""What each form of an export costs and brings: bytes, milliseconds, images a second, accuracy.

`python benchmarks/quantized.py [--models cifar10_student cifar10_fast] [--cores 1]`. The forms are
the SavedModel in the server's runtime, the same with the server's flag for bfloat16, LiteRT files
and, with `pip install 'keras-nin-zoo[onnx]'`, ONNX files. They take turns in one process, because
the machine's speed drifts. LiteRT files take one image, so they answer a batch image by image.
"""

import importlib.util
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from zoo import data, exports, measures
from zoo.precision import in_float32
from zoo.saving import load_model, shipped
from zoo.serving import converting, litert, onnx_int8, quantizing
from zoo.serving.server_runtime import ServerRuntime

BATCH = 32


@dataclass(frozen=True)
class Settings:
    models: tuple[str, ...] = ("cifar10_student", "cifar10_nin_dsn", "cifar10_fast")
    """Names of exports with trained weights."""
    images: int = 1000
    """Number of test images that the accuracy is of."""
    turns: int = 15
    cores: int = 1
    """Number of cores, which is also the number of threads."""


class Served:
    """A version in the server's runtime. `seconds` are those of its last answer, in the session."""

    def __init__(self, version, **options):
        self.server = ServerRuntime(version, **options)

    def __call__(self, images):
        answer = self.server.answer("serving_default", {"images": images.astype("float32")})
        self.seconds = self.server.runtime.seconds
        return answer["probabilities"]


def forms_of(version, model, training, folder, threads):
    """{form: (bytes, function of pixels (n, h, w, c) uint8 -> probabilities)}"""
    program = [version / exports.PROGRAM, *(version / "variables").iterdir()]
    size = sum(file.stat().st_size for file in program)
    forms = {
        "SavedModel": (size, Served(version)),
        "SavedModel, bfloat16": (size, Served(version, mixed_precision="bfloat16")),
    }
    few = training.subset(quantizing.REPRESENTATIVE).images
    for form in ("float", "int8"):
        file = Path(folder, f"{form}.tflite")
        file.write_bytes(litert.convert(model, form, few))
        forms[f"LiteRT {form}"] = file.stat().st_size, litert.LiteRT(file, threads=threads)
    if all(importlib.util.find_spec(package) for package in converting.NEEDED["onnx"]):
        floating, whole = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        converting.make_onnx(version, floating)
        whole.write_bytes(onnx_int8.convert(model, few))
        for form, file in (("float", floating), ("int8", whole)):
            forms[f"ONNX {form}"] = file.stat().st_size, converting.Onnx(file, threads=threads)
    return forms


def take_turns(forms, images, turns):
    """{form: seconds of each turn over the images}"""
    seconds = {form: [] for form in forms}
    for turn in range(turns + 2):
        for form, (_, answer) in forms.items():
            begun = time.perf_counter()
            answer(images)
            took = getattr(answer, "seconds", time.perf_counter() - begun)
            if turn > 1:  # the first two warm up
                seconds[form].append(took)
    return seconds


def answers_of(answer, images):
    """The classes of the images, asked in batches."""
    parts = range(0, len(images), BATCH)
    return np.concatenate([answer(images[start : start + BATCH]).argmax(1) for start in parts])


def main(settings):
    table = Table("model", "form", "bytes", "ms, 1 image", "images/s, 32", "accuracy", "as Keras")
    for name in settings.models:
        version = exports.find_version(exports.resolve(name))
        fields = exports.card(version)["training"]["fields"]
        training = data.load(fields["data"], "train")
        test = data.load(fields["data"], "test").subset(settings.images)
        model = in_float32(shipped(load_model(name)))
        of_keras = model.predict(test.images.astype("float32"), verbose=0).argmax(1)
        with tempfile.TemporaryDirectory() as folder:
            forms = forms_of(version, model, training, folder, settings.cores)
            alone = take_turns(forms, test.images[:1], 4 * settings.turns)
            batch = take_turns(forms, test.images[:BATCH], settings.turns)
            for form, (size, answer) in forms.items():
                right = answers_of(answer, test.images)
                accuracy = float((right == test.labels).mean())
                low, high = measures.wilson_interval(accuracy, test.examples)
                table.add_row(
                    *(name, form, f"{size:,}"),
                    f"{1000 * statistics.median(alone[form]):.2f}",
                    f"{statistics.median(BATCH / s for s in batch[form]):,.0f}",
                    f"{100 * accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f})",
                    f"{100 * (right == of_keras).mean():.2f} %",
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.cores])
    main(settings)
