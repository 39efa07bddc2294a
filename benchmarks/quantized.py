"""What a LiteRT file costs and brings: bytes, images a second, accuracy, beside the SavedModel.

`python benchmarks/quantized.py [--models cifar10_student cifar10_nin_dsn] [--images 1000]`. Each
form answers one image at a time, on one core. The forms take turns in one process, because the
machine's speed drifts, and the times are CPU seconds, because a shared machine stalls.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table

from zoo import data, exports, measures
from zoo.precision import in_float32
from zoo.saving import load_model, shipped
from zoo.serving import quantizing
from zoo.serving.served_model import ServedModel


@dataclass(frozen=True)
class Settings:
    models: tuple[str, ...] = ("cifar10_student", "cifar10_nin_dsn")
    """Names of exports with trained weights."""
    images: int = 1000
    """Number of test images that the accuracy is of."""
    turns: int = 9
    calls: int = 50
    """Number of images in a turn."""


def forms_of(name, training, folder):
    """{form: (bytes, function of pixels (n, h, w, c) uint8 -> probabilities)}"""
    version = exports.find_version(exports.resolve(name))
    program = [version / exports.PROGRAM, *(version / "variables").iterdir()]
    served = ServedModel(version)
    forms = {
        "SavedModel": (
            sum(file.stat().st_size for file in program),
            lambda images: np.concatenate(
                [served.predict(image[np.newaxis])["probabilities"] for image in images]
            ),
        )
    }
    model = in_float32(shipped(load_model(name)))
    few = training.subset(quantizing.REPRESENTATIVE).images
    for form in ("float", "int8"):
        file = Path(folder) / f"{form}.tflite"
        file.write_bytes(quantizing.convert(model, form, few))
        forms[f"LiteRT {form}"] = file.stat().st_size, quantizing.LiteRT(file, threads=1)
    return model, forms


def take_turns(forms, images, turns):
    """{form: CPU seconds of each turn over the images}"""
    seconds = {form: [] for form in forms}
    for turn in range(turns + 1):
        for form, (_, answer) in forms.items():
            begun = time.process_time()
            answer(images)
            if turn:  # the first warms up
                seconds[form].append(time.process_time() - begun)
    return seconds


def main(settings):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    table = Table("model", "form", "bytes", "images/s", "to float", "accuracy", "as Keras")
    for name in settings.models:
        fields = exports.card(exports.find_version(exports.resolve(name)))["training"]["fields"]
        training = data.load(fields["data"], "train")
        test = data.load(fields["data"], "test").subset(settings.images)
        with tempfile.TemporaryDirectory() as folder:
            model, forms = forms_of(name, training, folder)
            of_keras = model.predict(test.images.astype("float32"), verbose=0).argmax(1)
            seconds = take_turns(forms, test.images[: settings.calls], settings.turns)
            base = seconds["LiteRT float"]
            for form, (size, answer) in forms.items():
                answers = answer(test.images).argmax(1)
                speed = statistics.median(settings.calls / s for s in seconds[form])
                ratio = statistics.median(b / s for b, s in zip(base, seconds[form], strict=True))
                right = float((answers == test.labels).mean())
                low, high = measures.wilson_interval(right, test.examples)
                table.add_row(
                    *(name, form, f"{size:,}", f"{speed:.0f}", f"{ratio:.2f}"),
                    f"{100 * right:.2f} % ({100 * low:.1f} to {100 * high:.1f})",
                    f"{100 * (answers == of_keras).mean():.2f} %",
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
