"""Where the time of a training step goes: TensorFlow's own profiler, as a table and a picture.

`python benchmarks/profile.py [--recipes cifar10_fast cifar10_nin_dsn] [--out FILE.png]`. A recipe
is compiled and fed as `zoo train` does it. Steps are timed first, without the profiler, and then
traced. The share of a kind of operation is that of the time in which the cores calculated it.
"""

import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from zoo import data, provenance, recipe
from zoo.training import operations
from zoo.training.plan import compiled_plan

REST = "the rest"
# By the begin of the operation's name, without what oneDNN puts in front of it.
KINDS = {
    "convolution, forward": ("Conv2D", "FusedConv2D"),
    "convolution, gradient of the maps": ("Conv2DBackpropInput",),
    "convolution, gradient of the kernel": ("Conv2DBackpropFilter",),
    "batch normalization": ("FusedBatchNorm",),
    "ReLU": ("Relu",),
    "pooling": ("MaxPool", "AvgPool", "Mean", "Tile"),
    "products of matrices (Muon, dense layers)": ("MatMul", "BatchMatMul", "FusedMatMul"),
    "casts and layouts": ("Cast", "Transpose", "Pack", "Concat", "Slice", "Reshape", "ToTf"),
    "images": ("GatherV2", "GatherNd", "Pad", "MirrorPad", "StridedSlice", "ResizeBilinear"),
    "elementwise": ("Mul", "Add", "Sub", "Neg", "Select", "Square", "Sqrt", "RealDiv", "Sum"),
}


@dataclass(frozen=True)
class Settings:
    recipes: tuple[str, ...] = ("cifar10_fast", "cifar10_nin_dsn")
    steps: int = 10
    """Steps of one turn."""
    turns: int = 3
    threads: int = 0
    """Threads of an operation; 0 is one for each core. With 1 the whole of an operation's time is
    its own. The parts that other threads calculate have no name."""
    deterministic: bool = True
    """With operations that repeat their bits, as `zoo train` does it."""
    out: Path | None = None
    """File for the picture."""


def step_of(name):
    """(function that trains one step, images in a batch, operations of a step)"""
    trained = recipe.load(recipe.find(name))()
    keras.utils.set_random_seed(trained.seed)
    keras.config.set_dtype_policy(provenance.dtype_policy(trained.precision))
    training = data.load(trained.data, "train")
    steps = trained.epochs * training.examples // trained.batch_size
    model = compiled_plan(trained, training, steps, None).model
    batches = iter(trained.training_batches(training, 0))
    model.make_train_function()

    def train():
        model.train_function(batches)

    net = getattr(model, "trunk", model)
    an_image = operations.of_an_image(net)
    return train, trained.batch_size, operations.of_training(an_image, trained.batch_size)


def seconds_of(train, steps):
    begun = time.perf_counter()
    for _ in range(steps):
        train()
    return (time.perf_counter() - begun) / steps


def shares_of(train, steps):
    """{kind: share of the cores' time}, from the profiler."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            train()
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    spent = Counter()
    for plane in space.planes:
        if plane.name == "/host:CPU":
            names = {key: entry.name for key, entry in plane.event_metadata.items()}
            for line in plane.lines:
                if line.name == "python":  # it waits for the others
                    continue
                for name, picoseconds in own_time(line.events, names):
                    spent[kind_of(name)] += picoseconds
    total = sum(spent.values())
    return {kind: each / total for kind, each in spent.most_common()}


def own_time(events, names):
    """Yield (operation, its time less that of the operations within it)."""
    stack = []
    for event in sorted(events, key=lambda e: (e.offset_ps, -e.duration_ps)):
        name, end = names[event.metadata_id], event.offset_ps + event.duration_ps
        while stack and stack[-1][1] <= event.offset_ps:
            yield stack.pop()[0::2]
        if stack:
            stack[-1][2] -= event.duration_ps
        stack.append([name, end, event.duration_ps])
    for entry in stack:
        yield entry[0::2]


def kind_of(name):
    operation = name.rpartition(":")[2].removeprefix("_Mkl").removeprefix("Native").lstrip("_")
    found = [
        (len(prefix), kind)
        for kind, prefixes in KINDS.items()
        for prefix in prefixes
        if operation.startswith(prefix)
    ]
    return max(found)[1] if found else REST


def draw(found, file):
    """Draw the shares {title: {kind: share}} as bars side by side."""
    kinds = [kind for kind in (*KINDS, REST) if any(kind in shares for shares in found.values())]
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(kinds) + 1.2), layout="constrained")
    height = 0.8 / len(found)
    for index, (title, shares) in enumerate(found.items()):
        places = [place + height * (index - (len(found) - 1) / 2) for place in range(len(kinds))]
        values = [100 * shares.get(kind, 0) for kind in kinds]
        bars = axes.barh(places, values, height, label=title)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlabel("Share of a training step (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=130)


def main(settings):
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    console, found = Console(width=120, highlight=False), {}
    for name in settings.recipes:
        train, batch, flop = step_of(name)
        seconds_of(train, 3)
        seconds = statistics.median(
            seconds_of(train, settings.steps) for _ in range(settings.turns)
        )
        shares = shares_of(train, settings.steps)
        rates = f"{batch / seconds:.0f} images/s, {flop / seconds / 1e12:.2f} TFLOP/s"
        found[f"{name}, {rates}"] = shares
        table = Table("operation", "share", title=f"{name}: {rates}", box=None)
        for kind, share in shares.items():
            table.add_row(kind, f"{100 * share:.1f} %")
        console.print(table)
    if settings.out:
        draw(found, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
