"""One, two and four replicas train to the weights and logs of none, whatever the batches."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

# A process a strategy: the devices are divided before TensorFlow is first used.
PROGRAM = """
import json, sys
import zoo.distribute

replicas = int(sys.argv[1])
strategy = zoo.distribute.make_strategy("mirrored" if replicas else "none", replicas)
import keras
import numpy as np
import tensorflow as tf
import os
if os.environ.get("NOMETA"): tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
from zoo import BatchNormalization, CompanionDecay, CompanionHead, DeeplySupervised, Distiller
from zoo import LayerwiseSGD, MLPConv, OneVsAllSquaredHinge, knowledge

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (64, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 3, 64)
logits = rng.normal(size=(64, 3)).astype("float32")
weights = rng.uniform(0, 2, 64).astype("float32")


def plain(seed=1, width=4, name="conv"):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = MLPConv((width, 3), 3, strides=2, normalization="batch", name=name, kernel_regularizer="l2")(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(keras.layers.Flatten()(x)))


def deep(**arguments):
    head = CompanionHead(3, kernel_regularizer="l2", name="head")
    return DeeplySupervised(plain(), {"conv": head}, **arguments)


GATED = {
    "companion_weight": CompanionDecay(1.0, 5, 4),
    "companion_loss": OneVsAllSquaredHinge(),
    "threshold": 2.72,
}
# (model, examples: of 50 in batches of 16 four replicas get 0, 1, 0 and 1 of the last,
#  what else the optimizer gets, what else fit gets)
CASES = {
    "plain": (plain, 50, {"global_clipnorm": 0.5}, {}),
    "gate": (lambda: deep(**GATED), 50, {"clipnorm": 0.3}, {}),
    "micro-batches": (lambda: deep(**GATED), 64, {"clipvalue": 0.1}, {"micro_batches": 2}),
    "ensemble": (
        lambda: Distiller(
            student=deep(companion_weight=0.3),
            teacher=[plain(5, name="a"), plain(6, name="b")],
            soft_companions=True,
            agreement=True,
        ), 58, {}, {},
    ),
    "hint": (
        lambda: Distiller(
            student=plain(),
            teacher=plain(5, 5, "taught"),
            knowledge=[knowledge.Hint("conv", "taught", weight=0.5)],
        ), 58, {"global_clipnorm": 0.5}, {"micro_batches": 2},
    ),
    "cached targets": (lambda: Distiller(student=plain()), 50, {}, {}),
    "mixed_bfloat16": (plain, 58, {"global_clipnorm": 0.5}, {}),
}
CASES = {k: v for k, v in CASES.items() if len(sys.argv) < 4 or k in sys.argv[3:]}


def trained(case):
    make, examples, clipping, more = CASES[case]
    keras.config.set_dtype_policy("mixed_bfloat16" if case == "mixed_bfloat16" else "float32")
    with zoo.distribute.scope(strategy):
        model = make()
        rate = keras.optimizers.schedules.CosineDecay(0.05, 30)
        optimizer = LayerwiseSGD(rate, momentum=0.9, multipliers={"bias": 2.0}, **clipping)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
    y = {"labels": labels, "teacher_logits": logits} if case == "cached targets" else labels
    data = tf.data.Dataset.from_tensor_slices((images, y, weights)).take(examples).batch(16)
    test = data if case != "cached targets" else tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    if strategy is None and not more:
        history = model.fit(data, validation_data=test, epochs=5, verbose=0).history
    else:
        history = zoo.distribute.fit(
            model, strategy or tf.distribute.get_strategy(), data, validation=test, epochs=5, **more
        ).history
    return model.get_weights(), history


results, arrays = {}, {}
for case in CASES:
    values, results[case] = trained(case)
    arrays |= {f"{case}/{index}": value for index, value in enumerate(values)}
np.savez(sys.argv[2] + ".npz", **arrays)
with open(sys.argv[2] + ".json", "w") as file:
    json.dump(results, file)
"""
if __name__ == "__main__":
    exec(PROGRAM)
