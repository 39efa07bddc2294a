"""Job 1: does the zoo calculate the same on a GPU? One step of three models, in JAX.

    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/gpu/check.py --write expected.json
    KERAS_BACKEND=jax python benchmarks/gpu/check.py --expect expected.json    # there

`nin`, `nin_dsn` and a `Distiller` with a hint and attention transfer train one step on 64 made
images in float32. The loss before the step, the logits after it and the mean square of every weight
after it are compared: each differs by at most a thousandth of the largest number of its kind. Exit
code 1 if one differs by more. It takes a minute on two cores.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import keras
import numpy as np
import tyro

import zoo
from zoo import knowledge

TOLERANCE = 1e-3
CLASSES, SHAPE, IMAGES = 10, (32, 32, 3), 64


@dataclass(frozen=True)
class Settings:
    write: Path | None = None
    """Write the numbers of this machine to a JSON file."""
    expect: Path | None = None
    """Compare the numbers of this machine with those of a JSON file."""
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net."""


def models(width):
    """Return {name: a model to train}. JAX draws the same weights on every device."""
    keras.utils.set_random_seed(0)
    student = zoo.nin(SHAPE, CLASSES, width=width / 2, dropout=0, name="student")
    teacher = zoo.nin(SHAPE, CLASSES, width=width, name="teacher")
    learned = [
        knowledge.Hint("mlpconv2", "mlpconv2"),
        knowledge.AttentionTransfer("mlpconv1", "mlpconv1"),
    ]
    return {
        "nin": zoo.nin(SHAPE, CLASSES, width=width, dropout=0),
        "nin, fast": zoo.nin(SHAPE, CLASSES, width=width, variant="fast"),
        "nin_dsn": zoo.nin_dsn(SHAPE, CLASSES, width=width, dropout=0),
        "Distiller": zoo.Distiller(student=student, teacher=teacher, knowledge=learned),
    }


def measured(width):
    """Return {model: {quantity: numbers}} of one step of each model."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, *SHAPE)).astype("float32")
    labels = rng.integers(0, CLASSES, IMAGES)
    found = {}
    for name, model in models(width).items():
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), zoo.SoftmaxCrossEntropy())
        logs = model.train_on_batch(images, labels, return_dict=True)
        squares = [float((keras.ops.convert_to_numpy(v) ** 2).mean()) for v in model.weights]
        logits = model.predict(images[:8], verbose=0)
        found[name] = {"loss": [float(logs["loss"])], "logits": logits.ravel().tolist()}
        found[name]["mean squares of the weights"] = squares
    return found


def difference(found, expected):
    """Return the largest difference, as a share of the largest number expected."""
    found, expected = np.array(found), np.array(expected)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def main(settings):
    # Else a GPU rounds the factors of matrix products to 10 bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    found = measured(settings.width)
    device = jax.devices()[0]
    print(f"{device.device_kind}, JAX {jax.__version__}, Keras {keras.__version__}")
    if settings.write:
        settings.write.write_text(json.dumps(found))
    worst = 0.0
    if settings.expect:
        expected = json.loads(settings.expect.read_text())
        for name, quantities in expected.items():
            for quantity, numbers in quantities.items():
                apart = difference(found[name][quantity], numbers)
                worst = max(worst, apart)
                print(f"{name}, {quantity}: {apart:.1e}")
        print("equal" if worst <= TOLERANCE else f"differs by more than {TOLERANCE}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if keras.backend.backend() != "jax":
        sys.exit("Set KERAS_BACKEND=jax: this job is for machines with JAX.")
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
