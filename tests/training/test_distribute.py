"""Two and four replicas reach the weights and logs of one device, for any size of batch."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import zoo
import zoo.data
from zoo.training import distribute
from zoo.training.loops.replicas import divided

pytestmark = pytest.mark.long

# It runs in a process of its own: the CPU must be divided before TensorFlow is first used. Of its
# four parts one device uses one, and two replicas two.
PROGRAM = """
import json, sys
import zoo.distribute

strategies = {replicas: zoo.distribute.make_strategy("mirrored", replicas) for replicas in (4, 2)}
strategies[0] = zoo.distribute.make_strategy("none")
import keras
import numpy as np
import tensorflow as tf
from zoo import CompanionDecay, CompanionHead, DeeplySupervised, Distiller
from zoo import LayerwiseSGD, MLPConv, OneVsAllSquaredHinge, knowledge

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (64, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 3, 64)
weights = rng.uniform(0, 2, 64).astype("float32")
logits = rng.normal(size=(64, 3)).astype("float32")


def plain(seed=1, width=4, name="conv"):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = MLPConv(
        (width, 3), 3, strides=2, normalization="batch", name=name, kernel_regularizer="l2"
    )(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(keras.layers.Flatten()(x)))


def deep(**arguments):
    trunk = plain()  # first: it seeds the head's initial weights too
    head = CompanionHead(3, kernel_regularizer="l2", name="head")
    return DeeplySupervised(trunk, {"conv": head}, **arguments)


GATED = {
    "companion_weight": CompanionDecay(1.0, 5, 4),
    "companion_loss": OneVsAllSquaredHinge(),
    "threshold": 2.72,
}
# (model, examples, arguments of the optimizer, arguments of fit). Of 51 examples in batches of 16,
# the last batch has 3: four replicas get 0, 1, 1 and 1 of them, two replicas 1 and 2.
CASES = {
    "plain": (plain, 51, {"global_clipnorm": 0.5}, {"validation": True}),
    "gate": (lambda: deep(**GATED), 51, {"clipnorm": 0.3}, {}),
    "micro-batches": (lambda: deep(**GATED), 64, {"clipvalue": 0.1}, {"micro_batches": 2}),
    "hint": (
        lambda: Distiller(
            student=plain(),
            teacher=plain(5, 5, "taught"),
            knowledge=[knowledge.Hint("conv", "taught", weight=0.5)],
        ), 59, {"global_clipnorm": 0.5}, {},
    ),
    "cached targets": (lambda: Distiller(student=plain()), 51, {}, {}),
    "mixed_bfloat16": (plain, 58, {"global_clipnorm": 0.5}, {}),
    "mixed_float16": (
        lambda: Distiller(
            student=plain(), teacher=[plain(5, name="a"), plain(6, name="b")]
        ), 58, {"global_clipnorm": 0.5}, {},
    ),
}


def trained(case, strategy):
    make, examples, clipping, more = CASES[case]
    keras.config.set_dtype_policy(case if case.startswith("mixed") else "float32")
    with zoo.distribute.scope(strategy):
        model = make()
        rate = keras.optimizers.schedules.CosineDecay(0.05, 30)
        optimizer = LayerwiseSGD(rate, momentum=0.9, multipliers={"bias": 2.0}, **clipping)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Keras makes the variables of metrics within a step, which is then traced twice. One
        # device goes without a graph: tracing costs more than its few steps.
        metrics = ["accuracy"] if case == "plain" else None
        model.compile(optimizer, loss, metrics=metrics, run_eagerly=strategy is None)
    y = {"labels": labels, "teacher_logits": logits} if case == "cached targets" else labels
    data = tf.data.Dataset.from_tensor_slices((images, y, weights)).take(examples).batch(16)
    more = dict(more)
    test = {"validation": data} if more.pop("validation", False) else {}
    if strategy is None and not more:
        test = {"validation_data": data} if test else {}
        history = model.fit(data, epochs=3, verbose=0, shuffle=False, **test).history
    else:
        history = zoo.distribute.fit(model, strategy, data, epochs=3, **test, **more).history
    assert optimizer.global_clipnorm == clipping.get("global_clipnorm")  # put back
    return model.get_weights(), history


def masks(strategy):
    # The output of dropout for ones, on each replica; twice from the same state.
    keras.config.set_dtype_policy("float32")
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((200,)), keras.layers.Dropout(0.5)])
        (state,) = model.variables
        before, drawn = np.array(state), []
        for _ in range(2):
            state.assign(before)
            zoo.distribute.decorrelate(model, strategy)
            results = strategy.run(lambda: model(tf.ones((1, 200)), training=True))
            drawn.append([np.asarray(r) for r in strategy.experimental_local_results(results)])
        assert np.array_equal(drawn[0], drawn[1])
        state.assign(before)
        own = strategy.run(lambda: model(tf.ones((1, 200)), training=True))
        assert np.array_equal(strategy.experimental_local_results(own)[0], drawn[0][0])
    return np.concatenate(drawn[0])


for replicas, cases in json.loads(sys.argv[2]).items():
    results, arrays = {}, {}
    for case in cases:
        values, results[case] = trained(case, strategies[int(replicas)])
        arrays |= {f"{case}/{index}": value for index, value in enumerate(values)}
    if replicas == "2":
        arrays["masks"] = masks(strategies[2])
    np.savez(f"{sys.argv[1]}/{replicas}.npz", **arrays)
    with open(f"{sys.argv[1]}/{replicas}.json", "w") as file:
        json.dump(results, file)
"""
ALL = ["plain", "gate", "micro-batches", "hint", "cached targets"]
ALL += ["mixed_bfloat16", "mixed_float16"]
# Tracing a step costs seconds, and four times as many on four replicas.
RUN = {0: ALL, 2: [case for case in ALL if case != "gate"], 4: ["gate"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return {replicas: (weights, logs)}."""
    folder, results = tmp_path_factory.mktemp("trained"), {}
    # Some replicas get an empty part of a batch. TensorFlow 2.21's oneDNN convolution gives an
    # empty batch the channels of its input, and the sum over replicas fails; see
    # docs/guides/several_gpus.md.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(RUN)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for replicas in RUN:
        with np.load(folder / f"{replicas}.npz") as arrays:
            weights = {name: arrays[name] for name in arrays.files}
        results[replicas] = (weights, json.loads((folder / f"{replicas}.json").read_text()))
    return results


@pytest.mark.parametrize(("replicas", "case"), [(n, case) for n in (2, 4) for case in RUN[n]])
def test_replicas_train_to_the_weights_and_logs_of_one_device(trained, replicas, case):
    (weights, logs), (alone, alone_logs) = trained[replicas], trained[0]
    loose = case.startswith("mixed")  # they round to 4e-3 or 5e-4 of a number
    names = [name for name in alone if name.startswith(f"{case}/")]
    assert len(names) >= 12
    for name in names:
        np.testing.assert_allclose(
            weights[name], alone[name], atol=3e-2 if loose else 1e-6, err_msg=name
        )
    assert sorted(logs[case]) == sorted(alone_logs[case])
    for key, values in alone_logs[case].items():
        assert logs[case][key] == pytest.approx(values, abs=3e-2 if loose else 2e-6), key


def test_the_gates_of_that_test_are_open_in_some_batches_and_closed_in_others(trained):
    for case in ("gate", "micro-batches"):
        assert 0 < np.mean(trained[0][1][case]["conv_gate"]) < 1


def test_each_replica_drops_units_of_its_own(trained):
    first, second = trained[2][0]["masks"] > 0
    assert 60 < (first != second).sum() < 140  # of 200; half of them by chance


def compiled(optimizer=None, loss="sparse_categorical_crossentropy", normalization=None, **more):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((3,))
    x = normalization(x) if normalization else x
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile(optimizer or keras.optimizers.SGD(), loss, **more)
    return model


def jitted():
    model = compiled()
    # Keras takes a set one back where operations are deterministic, as an earlier test may have it.
    model.__class__ = type("Jitted", (type(model),), {"jit_compile": True})
    return model


SGD = keras.optimizers.SGD


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compiled(SGD(gradient_accumulation_steps=2)), "--micro-batches"),
        (lambda: compiled(SGD(use_ema=True, ema_overwrite_frequency=3)), "ema_overwrite_frequency"),
        (jitted, "jit_compile"),
        (lambda: compiled(steps_per_execution=2), "steps_per_execution=2"),
        (lambda: compiled(loss=keras.losses.MeanSquaredError(reduction="sum")), "'sum'"),
        (
            lambda: compiled(normalization=keras.layers.BatchNormalization(name="bn")),
            "'bn' would normalize.*zoo.BatchNormalization",
        ),
    ],
)
def test_what_keras_gets_wrong_on_replicas_is_refused(make, message):
    with pytest.raises(distribute.StrategyError, match=message):
        distribute.check(make())


def test_what_is_right_on_replicas_is_not_refused():
    for layer in (
        zoo.BatchNormalization(),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.BatchNormalization(trainable=False),
    ):
        distribute.check(compiled(SGD(global_clipnorm=1.0, use_ema=True), normalization=layer))


def test_a_loss_of_one_number_a_batch_is_refused():
    def scalar(labels, scores):
        return keras.ops.mean(keras.losses.mean_squared_error(labels, scores))

    ones = np.ones((3, 2), "float32")
    with pytest.raises(distribute.StrategyError, match="one number for a batch"):
        distribute.check_gives_one_loss_an_example(scalar, ones, ones)
    distribute.check_gives_one_loss_an_example("mse", ones, ones)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        (("several",), None, "auto, none, mirrored, multi"),
        (("mirrored",), None, "no GPU.*--replicas 2"),
        (("multi",), None, "TF_CONFIG.*not set"),
        (("multi",), "{", "not JSON"),
        (("auto",), "[]", "no object"),
        (("none", 2), None, "mirrored"),
        (
            ("auto",),
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            "worker 0, worker 1",
        ),
    ],
)
def test_a_strategy_that_cannot_be_had_is_refused(arguments, config, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(distribute.StrategyError, match=message):
        distribute.make_strategy(*arguments)


def test_auto_is_none_on_one_device(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribute.make_strategy() is None
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}')
    assert distribute.make_strategy() is None


def test_a_metric_counts_on_after_its_numbers_are_put_back():
    model = compiled(loss="mse", metrics=["mae"])
    x, y = np.ones((8, 3), "float32"), np.zeros((8, 2))
    model.evaluate(x, y, verbose=0)
    rows = distribute.Counted(model).read()
    before = model.get_metrics_result()
    model.reset_metrics()
    halves = (np.array(rows) / 2).tolist() * 2  # the rows of two replicas
    distribute.Counted(model).write(halves)
    assert model.get_metrics_result() == before


class _ThreeWorkers:
    """Stands for a strategy of three workers with two replicas each."""

    cluster_resolver = "three"

    def distribute_datasets_from_function(self, parts):
        numbers = {"num_input_pipelines": 3, "num_replicas_in_sync": 6}
        return parts, [
            types.SimpleNamespace(input_pipeline_id=index, **numbers) for index in range(3)
        ]


@pytest.mark.parametrize("batch_size", [15, 24])
def test_a_worker_that_makes_its_shard_alone_trains_on_the_same_parts(batch_size, monkeypatch):
    names = [f"{name}:1" for name in "abc"]
    pixels = np.arange(40, dtype="uint8")[:, None, None, None]
    data = zoo.data.ImageData("counted", "train", pixels, np.arange(40) % 2, ("even", "odd"))
    strategy = _ThreeWorkers()
    for index in range(3):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": names}, "task": task})
        monkeypatch.setenv("TF_CONFIG", config)
        assert distribute.shard(strategy, batch_size) == (index, 3)
        assert distribute.shard(strategy, batch_size + 1) == (0, 1)
        own = dataclasses.replace(data, shard=distribute.shard(strategy, batch_size))
        received = []
        for images, sharded in ((data, False), (own, True)):
            batches = images.training_batches(batch_size, seed=5).take(4)
            parts, contexts = divided(strategy, batches, 6, sharded)
            received.append([(x.numpy(), y.numpy()) for x, y in parts(contexts[index])])
        whole, shard = received
        assert len(whole) == len(shard) == 2 * 4
        for (x, y), (own_x, own_y) in zip(whole, shard, strict=True):
            np.testing.assert_array_equal(x, own_x)
            np.testing.assert_array_equal(y, own_y)
