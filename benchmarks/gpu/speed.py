"""Job 2: how fast does a GPU train NIN and the fast net, in Keras on JAX and in PyTorch?

    KERAS_BACKEND=jax python benchmarks/gpu/speed.py --out speed.json

Both train the same net: the PyTorch one gets the weights of ours, and must give the same logits, or
the job ends with exit code 1. Then they take turns with steps of SGD with Nesterov momentum in
bfloat16, on one batch that lies on the card. PyTorch has channels_last and autocast, and runs eager
and compiled. The share is that of a product of matrices that JAX makes in bfloat16 here; the
operations are those that XLA counts. `--out` holds the seconds of every turn.
"""

import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# JAX would take three quarters of the card, and leave PyTorch too little.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
import tyro
from torch import nn

import zoo

SHAPE, CLASSES = (32, 32, 3), 10
FORMS = ("Keras on JAX", "PyTorch, eager", "PyTorch, compiled")


@dataclass(frozen=True)
class Settings:
    width: float = 1.0
    """Factor on the widths of the nets."""
    batch_sizes: tuple[int, ...] = (128, 500, 2000)
    steps: int = 20
    """Steps of one turn."""
    turns: int = 7
    matrix: int = 8192
    """Rows and columns of the matrices whose product gives the card's rate."""
    compiled: bool = True
    """Measure torch.compile too."""
    out: Path | None = None
    """Write all numbers to a JSON file."""


class Twin(nn.Module):
    """An mlpconv layer in PyTorch, with the weights of ours: (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, layer):
        super().__init__()
        self.pool, self.residual = layer.pool_size, layer.residual
        self.convolutions = nn.ModuleList(map(convolution, layer.convolutions))
        self.normalizations = nn.ModuleList(map(normalization, layer.normalizations))

    def forward(self, x):
        before = x
        for index, convolve in enumerate(self.convolutions):
            x = convolve(x)
            if index == 0 and self.pool > 1:
                x = nn.functional.max_pool2d(x, self.pool)
            if self.normalizations:
                x = self.normalizations[index](x)
            if self.residual and index == len(self.convolutions) - 1:
                x = x + before
            x = nn.functional.relu(x)
        return x


def convolution(layer):
    """Return a layer of ours, with padding "same" and no stride, as a layer of PyTorch."""
    kernel = np.asarray(layer.kernel).transpose(3, 2, 0, 1)
    made = nn.Conv2d(*kernel.shape[1::-1], kernel.shape[2:], padding="same", bias=layer.use_bias)
    made.weight.data = torch.tensor(kernel)
    if layer.use_bias:
        made.bias.data = torch.tensor(np.asarray(layer.bias))
    return made


def normalization(layer):
    return nn.BatchNorm2d(layer.gamma.shape[0], eps=layer.epsilon, momentum=1 - layer.momentum)


class Pool(nn.Module):
    """3 x 3 max pooling of stride 2, whose windows hang over maps of an even size by one."""

    def forward(self, x):
        return nn.functional.max_pool2d(nn.functional.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)


class Scale(nn.Module):
    def forward(self, x):
        return x / 127.5 - 1


class Average(nn.Module):
    def forward(self, x):
        return x.float().mean((2, 3))


def twin(model):
    """Return a `nin` as a module of PyTorch, (n, 3, h, w) in 0..255 -> logits."""
    parts = []
    for layer in model.layers[1:]:
        makers = {
            keras.layers.Rescaling: lambda _: Scale(),
            keras.layers.MaxPooling2D: lambda _: Pool(),
            keras.layers.Conv2D: convolution,
            keras.layers.GlobalAveragePooling2D: lambda _: Average(),
            zoo.MLPConv: Twin,
        }
        parts.append(makers[type(layer)](layer))
    return nn.Sequential(*parts)


def in_jax(model, images, labels):
    """Return (a function that runs steps of ours, operations of one step)."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)

    def objective(weights, others):
        logits, others = model.stateless_call(weights, others, images, training=True)
        return loss(labels, logits), others

    @jax.jit
    def step(weights, others, state):
        (value, others), gradients = jax.value_and_grad(objective, has_aux=True)(weights, others)
        weights, state = optimizer.stateless_apply(state, gradients, weights)
        return value, (weights, others, state)

    states = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    kept = [[jnp.array(variable.value) for variable in variables] for variables in states]

    def run(steps):
        for _ in range(steps):
            value, kept[:] = step(*kept)
        return float(value)

    return run, step.lower(*kept).cost_analysis()["flops"]


def in_torch(module, images, labels, device, compiled):
    """Return a function that runs steps of PyTorch's."""
    module = module.train().to(device, memory_format=torch.channels_last)
    images = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(np.asarray(labels)).long().to(device)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9, nesterov=True)
    forward = torch.compile(module) if compiled else module

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                logits = forward(images)
            value = nn.functional.cross_entropy(logits.float(), labels)
            value.backward()
            optimizer.step()
        return value.item()

    return run


def matrix_rate(size):
    """Return the operations a second of a product of matrices in bfloat16."""
    a = jnp.ones((size, size), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        multiply(a, a).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds)


def take_turns(runs, steps, turns):
    """Return {form: seconds a step in each turn}."""
    for run in runs.values():
        run(3)  # compiles
    seconds = {form: [] for form in runs}
    for _ in range(turns):
        for form, run in runs.items():
            begun = time.perf_counter()
            run(steps)
            seconds[form].append((time.perf_counter() - begun) / steps)
    return seconds


def apart(model, module, images):
    """Return how far the twin's logits are from ours, as a share of the largest, in float32."""
    ours = np.asarray(model(images[:8], training=False))
    with torch.no_grad():
        pixels = torch.tensor(np.asarray(images[:8])).permute(0, 3, 1, 2)
        theirs = module.eval()(pixels).numpy()
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def main(settings):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = jax.devices()[0].device_kind
    rate = matrix_rate(settings.matrix)
    print(f"{card}, JAX {jax.__version__}, Keras {keras.__version__}, PyTorch {torch.__version__}")
    print(f"product of {settings.matrix:,}^2 matrices in bfloat16: {rate / 1e12:.3g} TFLOP/s")
    rng, found = np.random.default_rng(0), []
    for variant in ("modern", "fast"):
        for batch_size in settings.batch_sizes:
            images = jnp.array(rng.integers(0, 256, (batch_size, *SHAPE)).astype("float32"))
            labels = jnp.array(rng.integers(0, CLASSES, batch_size))
            made = {"variant": variant, "width": settings.width, "dropout": 0}
            keras.config.set_dtype_policy("float32")
            exact = zoo.nin(SHAPE, CLASSES, **made)
            with jax.default_matmul_precision("highest"):
                difference = apart(exact, twin(exact), images)
            if not difference < 1e-3:
                print(f"{variant}: PyTorch's logits differ by {difference:.1e} of the largest")
                return 1
            keras.config.set_dtype_policy("mixed_bfloat16")
            model = zoo.nin(SHAPE, CLASSES, **made)
            model.set_weights(exact.get_weights())
            ours, operations = in_jax(model, images, labels)
            runs = {FORMS[0]: ours}
            for form, compiled in zip(FORMS[1:], (False, True), strict=True):
                if settings.compiled or not compiled:
                    runs[form] = in_torch(twin(exact), images, labels, device, compiled)
            seconds = take_turns(runs, settings.steps, settings.turns)
            for form, times in seconds.items():
                middle = statistics.median(times)
                ratios = [a / b for a, b in zip(times, seconds[FORMS[0]], strict=True)]
                print(
                    f"{variant}, batches of {batch_size}, {form}: {batch_size / middle:,.0f} "
                    f"images/s, {operations / middle / rate:.0%} of the card's rate, "
                    f"x {statistics.median(ratios):.2f} the time of the first"
                )
            found.append({"variant": variant, "batch_size": batch_size, "seconds": seconds})
            found[-1] |= {"operations": operations, "logits apart": difference}
            if settings.out:  # after each net, so that a job that is stopped keeps what it has
                record = {"card": card, "matrix rate": rate, "measured": found}
                record["settings"] = asdict(settings) | {"out": str(settings.out)}
                settings.out.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    if keras.backend.backend() != "jax":
        sys.exit("Set KERAS_BACKEND=jax: this job compares Keras on JAX with PyTorch.")
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
