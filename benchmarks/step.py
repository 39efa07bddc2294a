"""What a training step costs: fused against stock normalization, and companions against none.

`make bench` or `python benchmarks/step.py [--precision float32]`. All variants take turns in one
process, because the machine's speed drifts, and the ratios are of CPU seconds, because a shared
machine stalls: wall-clock times of one turn came in multiples of 2.5 s here.
"""

import statistics
import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table

import zoo


@dataclass(frozen=True)
class Settings:
    precision: str = "mixed_bfloat16"
    width: float = 1.0
    """Factor on the widths of the CIFAR-10 net."""
    batch_size: int = 128
    steps: int = 4
    """Of one turn."""
    turns: int = 7


def variants(width):
    """{name: model}; NIN for CIFAR-10 in all of them."""
    models = {"nin, fused normalization": zoo.nin(width=width)}
    stock = keras.layers.BatchNormalization(momentum=0.9)
    models["nin, stock normalization"] = zoo.nin(width=width, normalization=stock)
    models["nin without normalization"] = zoo.nin(width=width, variant="cifar10", final_relu=False)
    models["nin_dsn, pooled companions"] = zoo.nin_dsn(width=width)
    models["nin_dsn, dense companions"] = zoo.nin_dsn(width=width, companion_form="dense")
    # On the first convolution of each of the three mlpconv layers, as the released code.
    models["nin_dsn, three pooled companions"] = zoo.nin_dsn(width=width, companion_taps="conv")
    models["nin_dsn, three dense companions"] = zoo.nin_dsn(
        width=width, companion_taps="conv", companion_form="dense"
    )
    return models


def take_turns(calls, turns):
    """{name: CPU seconds of each turn}; each is called once before, to trace."""
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            seconds[name].append(time.process_time() - begun)
    return seconds


def ratios(times, others):
    """Turn by turn."""
    return [time / other for time, other in zip(times, others, strict=True)]


def main(settings):
    keras.config.set_dtype_policy(settings.precision)
    rng = np.random.default_rng(0)
    count = settings.batch_size * settings.steps
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, rng.integers(0, 10, count)))
    data = data.batch(settings.batch_size).cache().prefetch(2)
    models = variants(settings.width)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model in models.values():
        model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss)
    fits = {name: lambda m=model: m.fit(data, verbose=0) for name, model in models.items()}
    seconds = take_turns(fits, settings.turns)
    table = Table("model", "CPU ms an image", "times the first, median of turns", box=None)
    for name, times in seconds.items():
        ratio = statistics.median(ratios(times, next(iter(seconds.values()))))
        table.add_row(name, f"{1000 * statistics.median(times) / count:.2f}", f"x {ratio:.2f}")
    Console().print(f"NIN for 32x32x3, {settings}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
