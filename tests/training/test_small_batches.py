"""A last batch of fewer examples than replicas equals one device, or is refused in one line."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

# It runs in a process of its own: logical devices must be made before TensorFlow is first used.
PROGRAM = """
import json
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import numpy as np
import zoo
from zoo import distribute

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (5, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 3, 5)
batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)  # the last one has 1


def net():
    inputs = keras.Input((8, 8, 1))
    x = zoo.MLPConv((4, 3), 3, strides=2, kernel_regularizer="l2", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def deep():
    return zoo.DeeplySupervised(net(), {"conv": zoo.CompanionHead(3, kernel_regularizer="l2")})


def taught():
    return zoo.Distiller(student=net(), teacher=net(), agreement=True)


def made(make, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        model.compile("sgd", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    return model


def result(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
results = {}
for make in (deep, taught):
    alone = made(make, tf.distribute.get_strategy())
    alone.run_eagerly = True  # tracing a graph costs more than its two batches
    model = made(make, two)
    results[make.__name__] = {
        "alone": result(lambda: alone.evaluate(batches, verbose=0, return_dict=True)),
        "zoo": result(lambda: distribute.evaluate(model, two, batches)),
        "keras": result(lambda: model.evaluate(batches, verbose=0, return_dict=True)),
    }
print(json.dumps(results))
"""


@pytest.mark.parametrize("one_dnn", ["0", "1"])
def test_an_evaluation_equals_one_device_or_is_refused_in_one_line(one_dnn):
    """Without oneDNN, replicas may have an empty part; its convolution gives wrong channels."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": one_dnn}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for found in json.loads(ran.stdout.splitlines()[-1]).values():
        if one_dnn == "0":
            assert found["zoo"] == pytest.approx(found["alone"], rel=1e-5, abs=1e-6)
            assert found["keras"] == pytest.approx(found["alone"], rel=1e-5, abs=1e-6)
        else:
            assert found["zoo"].startswith("StrategyError: A batch has fewer examples than the 2")
            assert found["keras"].startswith("ValueError: Keras cannot evaluate these batches on 2")
            assert "\n" not in found["zoo"] + found["keras"]
