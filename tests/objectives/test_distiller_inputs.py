"""What a Distiller takes: structures of inputs, kinds of outputs, and the losses that suit them."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracles import log_softmax, softmax

import zoo
from zoo.losses import binary_soft_target_loss, soft_target_loss
from zoo.objectives import knowledge

pytestmark = pytest.mark.eager

PROGRAM = """
import sys

import keras
import numpy as np
from keras import layers

import zoo
from zoo import knowledge

RNG = np.random.default_rng(0)
RGB, DEPTH = (RNG.normal(size=(20, n)).astype("float32") for n in (4, 3))
TOKENS, MASK = RNG.integers(0, 7, (20, 5)), RNG.integers(0, 2, (20, 5))
LABELS = RNG.integers(0, 3, 20)


def of_two(kind, width, fill):
    # The keys are not in the order of the alphabet.
    rgb, depth = keras.Input((4,), name="rgb"), keras.Input((3,), name="depth")
    h = layers.Dense(width, "tanh", name="h")(layers.Concatenate()([rgb, depth]))
    inputs = {"rgb": rgb, "depth": depth} if kind == "dict" else [rgb, depth]
    return filled(keras.Model(inputs, layers.Dense(3)(h), name=kind), fill)


def of_tokens(kind, width, fill):
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    mask = keras.Input((5,), dtype="int32", name="padding_mask")
    weight = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    h = layers.Dense(width, "tanh", name="h")(
        keras.ops.sum(layers.Embedding(7, 4)(ids) * weight, axis=1)
    )
    inputs = {"token_ids": ids, "padding_mask": mask} if kind == "dict" else [ids, mask]
    return filled(keras.Model(inputs, layers.Dense(3)(h), name=kind), fill)


def filled(model, seed):
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


def train(make, kind):
    of_tokens_x = {"token_ids": TOKENS, "padding_mask": MASK}
    x = {of_two: {"rgb": RGB, "depth": DEPTH}, of_tokens: of_tokens_x}
    x = x[make] if kind == "dict" else list(x[make].values())
    distiller = zoo.Distiller(
        student=make(kind, 4, 1),
        teacher=make(kind, 6, 2),
        temperature=keras.optimizers.schedules.PolynomialDecay(6.0, 6, 2.0),
        soft_weight=keras.optimizers.schedules.PolynomialDecay(0.2, 6, 0.8),
        knowledge=[knowledge.Hint("h", "h")],
        agreement=True,
    )
    filled(distiller.knowledge[0], 3)
    distiller.compile(keras.optimizers.SGD(0.1), zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    fitting = {"batch_size": 10, "shuffle": False, "verbose": 0}
    logs = distiller.fit(x, LABELS, **fitting).history
    if make is of_two:
        distiller.knowledge[0].weight = 0.0
        logs["changed"] = distiller.fit(x, LABELS, **fitting).history["loss"]
        for key, value in distiller.evaluate(x, LABELS, verbose=0, return_dict=True).items():
            logs[f"val_{key}"] = [value]
    weights = [keras.ops.convert_to_numpy(w) for w in distiller.weights]
    return weights, {key: value[-1] for key, value in logs.items()}


def all_of_a(kind):
    return [train(make, kind) for make in (of_two, of_tokens)]


if __name__ == "__main__":
    found = {}
    for number, (weights, logs) in enumerate(all_of_a("dict")):
        found |= {f"{number}/{key}": value for key, value in logs.items()}
        found |= {f"{number}/w{index}": weight for index, weight in enumerate(weights)}
    np.savez(sys.argv[1], **found)
    print(keras.backend.backend())
"""
HERE = {"__name__": "program"}
exec(compile(PROGRAM, "program", "exec"), HERE)
RGB, DEPTH, LABELS = (HERE[name] for name in ("RGB", "DEPTH", "LABELS"))


@pytest.fixture(scope="module")
def trained():
    return HERE["all_of_a"]("dict")


def test_a_dictionary_of_inputs_trains_as_a_list(trained):
    for (weights, logs), (others, expected) in zip(trained, HERE["all_of_a"]("list"), strict=True):
        for one, other in zip(weights, others, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        assert logs.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(logs[key], value, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_to_the_same_numbers(backend, trained, tmp_path):
    """Structures of inputs, schedules, and a weight that is assigned between two trainings."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "taken.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip().endswith(backend), ran.stderr
    with np.load(tmp_path / "taken.npz") as taken:
        for number, (weights, logs) in enumerate(trained):
            for key, value in logs.items():
                np.testing.assert_allclose(taken[f"{number}/{key}"], value, rtol=1e-3, err_msg=key)
            for index, weight in enumerate(weights):
                np.testing.assert_allclose(taken[f"{number}/w{index}"], weight, atol=1e-4)


def of_two(kind="dict", width=4, fill=0, **renamed):
    model = HERE["of_two"](kind, width, fill)
    if renamed:
        inputs = {renamed.get(name, name): tensor for name, tensor in model.input.items()}
        model = keras.Model(inputs, model.outputs[0], name="renamed")
    return model


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (of_two(), of_two(fill=1, depth="thermal"), "of the inputs rgb, thermal, .* depth, rgb"),
        (of_two("list"), of_two(fill=1), "a dictionary .* depth, rgb, and the student a list of r"),
        (of_two("list"), HERE["of_tokens"]("dict", 4, 1), "token_ids, and the student a list"),
        (of_two(depth="d"), of_two("list", fill=1), "a list of rgb, depth, and the student a dict"),
    ],
)
def test_other_inputs_of_the_teacher_are_one_line(student, teacher, message):
    with pytest.raises(ValueError, match=message) as refused:
        zoo.Distiller(student=student, teacher=teacher)
    assert "\n" not in str(refused.value)


def test_a_teacher_takes_its_inputs_from_a_dictionary_by_name():
    """A teacher of images teaches a student of images and depth."""
    images = keras.Input((4,), name="rgb")
    teacher = HERE["filled"](keras.Model(images, layers.Dense(3)(images)), 5)
    distiller = zoo.Distiller(student=of_two(), teacher=teacher, soft_weight=1.0, temperature=1)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit({"rgb": RGB, "depth": DEPTH}, batch_size=20, verbose=0).history
    z = distiller.predict({"rgb": RGB, "depth": DEPTH}, verbose=0)
    v = teacher.predict(RGB, verbose=0)
    expected = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)


def test_a_subclassed_student_of_a_dictionary():
    class Fusing(keras.Model):
        def __init__(self):
            super().__init__()
            self.h = layers.Dense(3)

        def call(self, inputs):
            return self.h(ops.concatenate([inputs["rgb"], inputs["depth"]], axis=-1))

    x, student = {"rgb": RGB, "depth": DEPTH}, Fusing()
    student(x)
    distiller = zoo.Distiller(student=student, teacher=of_two(fill=1))
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    assert distiller.fit(x, LABELS, verbose=0).history["soft_target_loss"][0] > 0


def test_companions_of_a_dictionary_of_inputs(tmp_path):
    x = {"rgb": RGB, "depth": DEPTH}
    model = zoo.DeeplySupervised(of_two(), {"h": layers.Dense(3)})
    distiller = zoo.Distiller(student=model, teacher=of_two(fill=1))
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    distiller.fit(x, LABELS, verbose=0)
    exits = model.exits(x)
    np.testing.assert_allclose(exits["output"], distiller.predict(x, verbose=0), rtol=1e-6)
    assert set(distiller.input) == {"rgb", "depth"}
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), exits["output"], rtol=1e-6)
    distiller.export(tmp_path / "exported", verbose=False)
    import tensorflow as tf

    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), exits["output"], rtol=1e-5, atol=1e-6)


# Where classes matter.


def net(classes=3, seed=0, hidden=4, name=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    h = layers.Dense(hidden, "tanh", name="h")(inputs)
    return keras.Model(inputs, layers.Dense(classes)(h) if classes else h, name=name)


@pytest.mark.parametrize("classes", [None, 7], ids=["headless", "other classes"])
def test_a_teacher_of_features_alone(classes):
    given, student = net(classes, 1), net()
    taught = [knowledge.SimilarityPreserving("h", "h")]
    distiller = zoo.Distiller(student=student, teacher=given, soft_weight=0.0, knowledge=taught)
    distiller.compile(keras.optimizers.SGD(0.0), zoo.SoftmaxCrossEntropy())
    logs = distiller.fit(RGB, LABELS, batch_size=20, verbose=0).history
    rows = []
    for model in (student, given):
        h = keras.Model(model.input, model.get_layer("h").output).predict(RGB, verbose=0)
        rows.append(h @ h.T / np.linalg.norm(h @ h.T, axis=1, keepdims=True))
    expected = np.square(rows[0] - rows[1]).mean()
    np.testing.assert_allclose(logs["similarity_preserving_loss"], expected, rtol=1e-4)
    for arguments in ({"soft_weight": 0.5}, {"agreement": True}):
        with pytest.raises(ValueError, match=r"logits of shape.*With soft_weight=0"):
            zoo.Distiller(student=student, teacher=given, **{"soft_weight": 0.0, **arguments})
    lesson = knowledge.LogitRegression()
    with pytest.raises(ValueError, match="LogitRegression received 'output'"):
        zoo.Distiller(student=student, teacher=given, soft_weight=0.0, knowledge=[lesson])


# Independent labels.

LABELLED = np.random.default_rng(3).integers(0, 2, (20, 3)).astype("float32")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def binary_divergence(student, teacher, temperature):
    """Sum over labels of T^2 KL, as of `binary_cross_entropy_with_logits` minus its least value."""
    p, q = (sigmoid(np.asarray(z, "float64") / temperature) for z in (teacher, student))
    cross = -(p * np.log(q) + (1 - p) * np.log1p(-q))
    return temperature**2 * (cross + p * np.log(p) + (1 - p) * np.log1p(-p)).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 1000.0])
def test_the_binary_divergence_is_the_sum_over_the_labels(temperature):
    random = np.random.default_rng(0)
    z, v = random.normal(0, 3, (2, 6, 5)).astype("float32")
    found = ops.convert_to_numpy(binary_soft_target_loss(z, v, temperature))
    np.testing.assert_allclose(found, binary_divergence(z, v, temperature), rtol=1e-5, atol=1e-6)
    twice = [np.stack([np.zeros_like(each), each], -1) for each in (z, v)]
    np.testing.assert_allclose(found, ops.sum(soft_target_loss(*twice, temperature), -1), rtol=1e-6)
    assert not np.any(ops.convert_to_numpy(binary_soft_target_loss(v, v, temperature)))


def test_the_binary_divergence_with_certain_targets_is_that_of_keras():
    z = np.random.default_rng(1).normal(0, 2, (20, 3)).astype("float32")
    found = binary_soft_target_loss(z, np.where(LABELLED > 0, 100.0, -100.0), 1.0)
    stock = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")(LABELLED, z)
    np.testing.assert_allclose(found, 3 * np.asarray(stock), rtol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "temperature", "message"),
    [(((2, 3), (2, 4)), 1.0, "of the same labels"), (((2, 3), (2, 3)), 0.0, "temperature")],
)
def test_the_binary_divergence_refuses(shapes, temperature, message):
    with pytest.raises(ValueError, match=message):
        binary_soft_target_loss(*map(np.zeros, shapes), temperature)


def fitted(distiller, y, loss, x=RGB):
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller.fit(x, y, batch_size=20, verbose=0).history


def binary():
    return keras.losses.BinaryCrossentropy(from_logits=True)


@pytest.mark.parametrize("count", [1, 2])
def test_independent_labels_have_binary_soft_targets(count):
    student, teachers = net(), [net(seed=seed) for seed in range(1, 1 + count)]
    distiller = zoo.Distiller(
        student=student,
        teacher=teachers,
        temperature=2,
        soft_weight=0.25,
        activation="sigmoid",
        agreement=True,
    )
    logs = fitted(distiller, LABELLED, binary())
    z, *vs = (model.predict(RGB, verbose=0).astype("float64") for model in (student, *teachers))

    def mean(temperature):
        p = np.mean([sigmoid(v / temperature) for v in vs], axis=0)
        return temperature * np.log(p / (1 - p))

    soft = binary_divergence(z, mean(2), 2).mean()
    hard = -(LABELLED * np.log(sigmoid(z)) + (1 - LABELLED) * np.log1p(-sigmoid(z))).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], soft, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], 0.75 * hard + 0.25 * soft, rtol=1e-5)
    found = distiller.evaluate(RGB, LABELLED, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        found["teacher_divergence"], binary_divergence(z, mean(1), 1).mean(), rtol=1e-4
    )
    same = ((z > 0) == (mean(1) > 0)).mean()
    np.testing.assert_allclose(found["teacher_agreement"], same, rtol=1e-6)
    assert zoo.Distiller.from_config(distiller.get_config()).activation == "sigmoid"


def test_labels_that_both_know():
    student, teacher = net(), net(5, seed=1)
    distiller = zoo.Distiller(
        student=student,
        teacher=teacher,
        temperature=1,
        soft_weight=1.0,
        activation="sigmoid",
        class_map={1: 4},
    )
    logs = fitted(distiller, None, None)
    z, v = (model.predict(RGB, verbose=0) for model in (student, teacher))
    expected = binary_divergence(z[:, 1:2], v[:, 4:], 1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)


def several(form, names, seed, classes=3):
    """A model of the outputs kind (classes), tags (labels) and depth (a number)."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    sizes = {"kind": classes, "tags": 2, "depth": 1}
    outputs = {name: layers.Dense(sizes[name], name=name)(inputs) for name in names}
    outputs = outputs if form == "dict" else [*outputs.values()]
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 and form == "list" else outputs)


ALL = ("kind", "tags", "depth")
TARGETS = {"kind": LABELS, "tags": LABELLED[:, :2], "depth": DEPTH[:, :1]}
LOSSES = {"kind": zoo.SoftmaxCrossEntropy(), "tags": binary(), "depth": "mse"}


@pytest.mark.parametrize("form", ["dict", "list"])
@pytest.mark.parametrize("taught", [("tags", "kind"), ("kind",)])
def test_each_output_has_its_own_soft_targets(form, taught):
    """The student's depth has no teacher; with one output, its name does not matter."""
    student = several(form, ALL, 0)
    teacher = several(form, taught, 1)
    if taught == ("kind",) and form == "list":
        teacher = net(seed=1)
    kinds = {"kind": "softmax", "tags": "sigmoid"}
    activation = {name: kinds[name] for name in taught}
    distiller = zoo.Distiller(
        student=student, teacher=teacher, temperature=1, soft_weight=0.5, activation=activation
    )
    y, losses = TARGETS, LOSSES
    if form == "list":
        y, losses = [*y.values()], [*losses.values()]
    logs = fitted(distiller, y, losses)
    own = dict(zip(sorted(ALL) if form == "dict" else ALL, flat(student), strict=True))
    theirs = dict(zip(sorted(taught) if form == "dict" else taught, flat(teacher), strict=True))
    z, v = own["kind"], theirs["kind"]
    expected = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    if "tags" in taught:
        expected += binary_divergence(own["tags"], theirs["tags"], 1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)
    assert zoo.Distiller.from_config(distiller.get_config()).activation == activation


def flat(model):
    return [each.astype("float64") for each in keras.tree.flatten(model.predict(RGB, verbose=0))]


def test_outputs_of_dictionaries_are_paired_by_key():
    student, teacher = several("dict", ("tags", "kind"), 0), several("dict", ("kind", "tags"), 1)
    zoo.Distiller(student=student, teacher=teacher)
    renamed = keras.Model(teacher.input, {"x": teacher.outputs[0], "tags": teacher.outputs[1]})
    with pytest.raises(ValueError, match="2 outputs, kind, tags, and the teacher 2 outputs, tags"):
        zoo.Distiller(student=student, teacher=renamed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu"}, "received 'relu'"),
        ({"activation": {"kind": "relu"}}, "received {'kind': 'relu'}"),
        ({"activation": {"mind": "softmax"}}, "outputs mind, which the student does not have"),
        ({"activation": {"kind": "softmax", "depth": "softmax"}}, "depth, which the teacher does"),
        ({}, r"3 outputs, .* 2 outputs, kind, tags,.*activation={'kind': 'softmax', 'tags'"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.Distiller(
            student=several("dict", ALL, 0), teacher=several("dict", ALL[:2], 1), **arguments
        )


# What the compiled loss shows.


def distilled(**arguments):
    return zoo.Distiller(student=net(name="small"), teacher=net(seed=1), **arguments)


@pytest.mark.parametrize(
    "loss",
    ["binary_crossentropy", binary(), keras.losses.BinaryFocalCrossentropy(from_logits=True)],
    ids=["name", "object", "focal"],
)
def test_a_binary_loss_of_several_logits_wants_a_sigmoid(loss):
    if isinstance(loss, str):
        message = r"keras.losses.BinaryCrossentropy\(from_logits=True\)"
    else:
        message = r"3 labels are independent.*activation=\"sigmoid\""
    with pytest.raises(ValueError, match=message):
        fitted(distilled(), LABELLED, loss)
    if not isinstance(loss, str):
        fitted(distilled(activation="sigmoid"), LABELLED, loss)
        fitted(distilled(soft_weight=0.0), LABELLED, loss)


@pytest.mark.parametrize("loss", ["mse", "mae", keras.losses.Huber()], ids=["mse", "mae", "huber"])
def test_a_regression_has_no_soft_targets(loss):
    with pytest.raises(ValueError, match=r"a regression.*zoo.knowledge.LogitRegression"):
        fitted(distilled(), DEPTH, loss)
    lesson = knowledge.LogitRegression()
    fitted(distilled(soft_weight=0.0, knowledge=[lesson]), DEPTH, loss)


def test_a_regression_among_the_outputs_is_left_out():
    teacher = several("dict", ALL, 1)
    distiller = zoo.Distiller(student=several("dict", ALL, 0), teacher=teacher)
    with pytest.raises(ValueError, match=r"'depth' is compiled with MeanSquaredError.*activation="):
        fitted(distiller, TARGETS, {**LOSSES, "tags": zoo.SoftmaxCrossEntropy()})


@pytest.mark.parametrize(
    ("loss", "advice"),
    [
        ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy(from_logits=True)"),
        ("categorical_crossentropy", "CategoricalCrossentropy(from_logits=True)"),
        ("binary_crossentropy", "BinaryCrossentropy(from_logits=True)"),
        ("crossentropy", "a loss of from_logits=True"),
        (keras.losses.SparseCategoricalCrossentropy(), "SparseCategoricalCrossentropy(from"),
        (keras.losses.CategoricalFocalCrossentropy(), "CategoricalFocalCrossentropy(from"),
        (keras.losses.sparse_categorical_crossentropy, "SparseCategoricalCrossentropy(from"),
        ("kl_divergence", "CategoricalCrossentropy(from_logits=True)"),
    ],
    ids=["sparse", "categorical", "binary", "ce", "object", "focal", "function", "kl"],
)
@pytest.mark.parametrize("kind", ["distiller", "supervised", "companion"])
def test_a_loss_of_probabilities_is_refused_before_the_first_step(kind, loss, advice):
    if kind == "distiller":
        model = distilled()
    else:
        of_companion = loss if kind == "companion" else None
        if of_companion == "crossentropy":
            pytest.skip("Keras knows this name in `compile` alone")
        heads = {"h": layers.Dense(3)}
        model = zoo.DeeplySupervised(net(name="small"), heads, companion_loss=of_companion)
    before = model.get_weights()
    model.compile("sgd", zoo.SoftmaxCrossEntropy() if kind == "companion" else loss)
    with pytest.raises(ValueError) as refused:
        model.fit(RGB, LABELLED, verbose=0)
    assert "takes probabilities" in str(refused.value)
    assert advice in str(refused.value)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_losses_of_logits_are_not_refused():
    class Own(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(ops.square(y_pred), axis=-1)

    def function(y_true, y_pred):
        return ops.mean(ops.square(y_pred), axis=-1)

    for loss in (
        *(Own(), function, zoo.SoftmaxCrossEntropy(), zoo.losses.OneVsAllSquaredHinge()),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ):
        fitted(distilled(), np.eye(3)[LABELS], loss)


def test_a_trunk_that_ends_in_a_softmax_is_refused():
    inputs = keras.Input((4,))
    h = layers.Dense(4, name="h")(inputs)
    trunk = keras.Model(inputs, layers.Dense(3, "softmax")(h), name="net")
    with pytest.raises(ValueError, match="trunk 'net' gives probabilities, of a softmax"):
        zoo.DeeplySupervised(trunk, {"h": layers.Dense(3)})


@pytest.mark.parametrize(("loss", "message"), [(binary(), "independent"), ("mse", "regression")])
def test_companions_of_soft_targets_are_of_classes(loss, message):
    model = zoo.DeeplySupervised(net(), {"h": layers.Dense(3)}, soft_weight=0.5)
    with pytest.raises(ValueError, match=f"{message}.*DeeplySupervised soft_weight=0"):
        fitted(model, LABELLED, loss)


# Companions within a nested model.


def test_a_companion_on_a_layer_within_a_backbone(tmp_path):
    inner = keras.Input((4,))
    h = layers.Dense(5, "tanh", name="low")(inner)
    backbone = keras.Model(inner, layers.Dense(4, "tanh", name="high")(h), name="backbone")
    inputs = keras.Input((4,))
    trunk = keras.Model(inputs, layers.Dense(3)(backbone(inputs)))
    with pytest.raises(ValueError, match=r"\"backbone/conv3\": zoo.*received \['backbone/low'\]"):
        zoo.DeeplySupervised(trunk, ["backbone/low"])
    with pytest.raises(ValueError, match=r"has no layer 'lo'. Did you mean 'low'"):
        zoo.DeeplySupervised(trunk, {"backbone/lo": layers.Dense(3)})
    model = zoo.DeeplySupervised(trunk, {"backbone/low": layers.Dense(3)}, companion_weight=0.5)
    exits = model.exits(RGB)
    logs = fitted(model, LABELS, zoo.SoftmaxCrossEntropy())
    hard = {k: -log_softmax(z)[np.arange(20), LABELS].mean() for k, z in exits.items()}
    np.testing.assert_allclose(logs["backbone.low_loss"], hard["backbone/low"], rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], hard["output"] + 0.5 * hard["backbone/low"], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for layer, scores in again.exits(RGB).items():
        np.testing.assert_array_equal(scores, exits[layer])
