"""With Keras' own fit, two replicas reach the weights and logs of one device.

test_distribute.py tests four replicas, parts of unequal sizes, clipping, micro-batches, hints and
cached targets.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

# It runs in a process of its own: logical devices must be made before TensorFlow is first used.
PROGRAM = """
import json, sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import numpy as np
from zoo import CompanionHead, CompanionDecay, DecodingHead, DeeplySupervised, LayerwiseSGD
from zoo import Distiller, MutualLearning, OneVsAllSquaredHinge

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (64, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 3, 64)
sample_weight = rng.uniform(0, 2, 64).astype("float32")


def deep(seed=1, form="pool", **arguments):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(5, 3, activation="relu", name="conv1", kernel_regularizer="l2")(x)
    x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="conv2")(x)
    trunk = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    heads = {
        layer: CompanionHead(3, form, kernel_regularizer="l2", name=f"{layer}_head")
        for layer in ("conv1", "conv2")
    }
    return DeeplySupervised(trunk, heads, **arguments)


def teacher(seed):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(7, 3, strides=2, activation="relu", name="conv")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def taught(**arguments):
    return Distiller(student=deep(companion_weight=0.3), temperature=2.0, **arguments)


# Made anew for each training: a layer belongs to the strategy that it was built under.
DISTILLERS = {
    "teacher and companions": lambda: taught(teacher=teacher(5), soft_companions=True),
    "ensemble": lambda: taught(teacher=[teacher(5), teacher(6)], soft_weight=0.9),
    "peers": lambda: MutualLearning([deep(1).trunk, deep(2).trunk], temperature=2.0),
}
CASES = {
    "weights, schedule and soft targets": lambda: {
        "companion_weight": {"conv1": CompanionDecay(1.0, 5, 4), "conv2": 0.3},
        "soft_weight": 0.5,
        "synergy": 0.2,
        "form": "conv",
    },
    # The loss of some batches is above this threshold, of others below.
    "gate": lambda: {
        "companion_weight": 0.5, "companion_loss": OneVsAllSquaredHinge(), "threshold": 2.7
    },
    "decoders": lambda: {
        "decoders": {"conv1": DecodingHead(), "conv2": DecodingHead("conv1")},
        "decoder_weight": 2.0,
    },
}


def trained(case, replicas):
    devices = [f"CPU:{i}" for i in range(replicas)]
    strategy = tf.distribute.get_strategy()
    if replicas:
        strategy = tf.distribute.MirroredStrategy(
            devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
    with strategy.scope():
        model = DISTILLERS[case]() if case in DISTILLERS else deep(**CASES[case]())
        rate = keras.optimizers.schedules.CosineDecay(0.05, 30)
        optimizer = LayerwiseSGD(
            rate, momentum=0.9, multipliers={"bias": 2.0, "conv2": 0.5}, fresh_momentum_at=(10,)
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Keras makes the variables of metrics within a step, which is then traced twice.
        metrics = ["accuracy"] if case == "decoders" else None
        # One device goes without a graph: tracing costs more than its few steps.
        how = {"jit_compile": False, "run_eagerly": not replicas}
        model.compile(optimizer, loss, metrics=metrics, **how)
        y = np.where(np.arange(64) % 5 == 2, -1, labels) if case == "decoders" else labels
        fitting = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
        if case in DISTILLERS:
            fitting["sample_weight"] = sample_weight
        history = model.fit(images, y, **fitting).history
    return [np.asarray(w, "float64") for w in model.get_weights()], history


differences = {}
for case, counts in json.loads(sys.argv[1]).items():
    weights, history = trained(case, 0)
    gates = [g for key, values in history.items() if key.endswith("_gate") for g in values]
    for replicas in counts:
        others, logs = trained(case, replicas)
        differences[f"{case}, {replicas}"] = dict(
            weights=max(float(np.abs(a - b).max()) for a, b in zip(weights, others)),
            logs=max(float(np.abs(np.subtract(history[k], logs[k])).max()) for k in history),
            gates=[min(gates), max(gates)] if gates else None,
            keys=sorted(history) == sorted(logs),
        )
print("RESULT", json.dumps(differences))
"""


# Tracing a step costs seconds, and four times as many on four replicas.
REPLICAS = {
    "weights, schedule and soft targets": [2],
    "gate": [2],
    "decoders": [2],
    "teacher and companions": [2],
    "ensemble": [2],
    "peers": [2],
}


@pytest.fixture(scope="module")
def differences():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(REPLICAS)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.rpartition("RESULT")[2])


@pytest.mark.parametrize(
    ("case", "replicas"), [(case, n) for case, counts in REPLICAS.items() for n in counts]
)
def test_replicas_train_to_the_same_weights_and_logs(differences, case, replicas):
    difference = differences[f"{case}, {replicas}"]
    assert difference["weights"] < 5e-6  # sums in another order: 1.7e-6 at most on AVX2
    assert difference["logs"] < 1e-5
    assert difference["keys"]


def test_the_gate_of_that_test_is_open_in_some_batches_and_closed_in_others(differences):
    least, most = differences["gate, 2"]["gates"]
    assert least < 1 and most > 0 and least != most, (least, most)  # noqa: PT018
