"""The Distiller, by number; and the 29 defects of keras.distillation that it must not have.

The numbers of the defects are those of shared/notes/distillation.md, section 4.
"""

import gc
import importlib.util
import os
import subprocess
import sys
import weakref
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracles import log_softmax, softmax

import zoo
from zoo.fingerprint import fingerprint
from zoo.objectives import knowledge

pytestmark = pytest.mark.eager

CLASSES, FEATURES, EXAMPLES = 3, 5, 22


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(EXAMPLES, FEATURES)).astype("float32")


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(1).integers(0, CLASSES, EXAMPLES)


def net(seed=0, hidden=4, classes=CLASSES, l2=None, normalized=False, dropout=0.0, **arguments):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    h = layers.Dense(hidden, "tanh", kernel_regularizer=l2, name="h")(inputs)
    if normalized:
        h = layers.BatchNormalization(momentum=0.5, name="norm")(h)
    if dropout:
        h = layers.Dropout(dropout, seed=7)(h)
    return keras.Model(
        inputs, layers.Dense(classes, name="logits", dtype="float32")(h), **arguments
    )


def teacher(**arguments):
    return net(**{"seed": 9, "hidden": 6, **arguments})


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(model, x, y, *, epochs=2, batch_size=8, loss=cross_entropy, compiling=None, **fitting):
    """The history of a few steps of SGD with momentum; the last batch is smaller."""
    keras.utils.set_random_seed(3)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    compiling = {"optimizer": optimizer, "metrics": ["accuracy"], **(compiling or {})}
    model.compile(loss=loss() if loss else None, **compiling)
    fitting = {"epochs": epochs, "batch_size": batch_size, "shuffle": False, "verbose": 0} | fitting
    return model.fit(x, y, **fitting).history


def assert_same(one, other, **tolerance):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0, "atol": 0, **tolerance})


# The objective.


def test_the_objective_is_the_formula(x, y):
    """Defects 1, 5, 9, 10 and 18: softened, scaled, weighted, regularized, averaged by example."""
    student, given = net(l2=keras.regularizers.L2(0.1)), teacher()
    weights = np.random.default_rng(2).uniform(0, 2, EXAMPLES).astype("float32")
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (student, given))
    penalty = 0.1 * np.square(student.get_layer("h").kernel.numpy()).sum()
    p, log_q = softmax(v / 3), log_softmax(z / 3)
    soft = 9 * (p * (np.log(p) - log_q)).sum(-1)
    hard = -log_softmax(z)[np.arange(EXAMPLES), y]

    distiller = zoo.Distiller(student=student, teacher=given, temperature=3, soft_weight=0.3)
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    logs = trained(distiller, x, y, epochs=1, compiling=still, sample_weight=weights)
    np.testing.assert_allclose(logs["label_loss"], (weights * hard).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["soft_target_loss"], (weights * soft).mean(), rtol=1e-5)
    expected = 0.7 * (weights * hard).mean() + 0.3 * (weights * soft).mean() + penalty
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_a_step_of_soft_targets_follows_the_gradient_of_the_paper(x):
    """T (q - p) / batch with respect to the logits, through the last layer. Defects 1 and 4."""
    student, given, temperature = net(), teacher(), 2.5
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (student, given))
    gradient = temperature * (softmax(z / temperature) - softmax(v / temperature)) / EXAMPLES
    before = student.get_layer("logits").get_weights()
    hidden = keras.Model(student.input, student.get_layer("h").output).predict(x, verbose=0)
    distiller = zoo.Distiller(
        student=student, teacher=given, temperature=temperature, soft_weight=1.0
    )
    step = {"optimizer": keras.optimizers.SGD(1.0), "metrics": None}
    trained(distiller, x, None, epochs=1, batch_size=EXAMPLES, loss=None, compiling=step)
    kernel, bias = student.get_layer("logits").get_weights()
    np.testing.assert_allclose(before[0] - kernel, hidden.T @ gradient, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(before[1] - bias, gradient.sum(0), rtol=1e-3, atol=1e-6)


def test_a_twin_teaches_nothing(x, y):
    """Zero value and zero gradient where student equals teacher. Defect 1."""
    student, twin = net(), net()
    distiller = zoo.Distiller(student=student, teacher=twin, soft_weight=1.0)
    logs = trained(distiller, x, y)
    np.testing.assert_allclose(logs["soft_target_loss"], 0, atol=1e-6)
    assert_same(student, twin, atol=1e-7)


@pytest.mark.parametrize(
    "compiling",
    [
        {},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"jit_compile": True},
        {"optimizer": "accumulating"},
    ],
    ids=str,
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_without_soft_targets_the_numbers_are_those_of_the_student_alone(compiling, policy, x, y):
    if policy != "float32" and compiling:
        pytest.skip("the modes of execution are compared in float32")
    keras.config.set_dtype_policy(policy)
    students = []
    try:
        for alone in (True, False):
            given, how = teacher(), dict(compiling)
            student = net(l2=keras.regularizers.L2(0.01), normalized=True, dropout=0.2)
            model = student
            if not alone:
                model = zoo.Distiller(student=student, teacher=given, soft_weight=0.0)
            if how.get("optimizer"):
                how["optimizer"] = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
            history = trained(model, x, y, compiling=how)
            students.append((student, history))
    finally:
        keras.config.set_dtype_policy("float32")
    (alone, logs), (taught, others) = students
    assert_same(alone, taught, atol=1e-6 if compiling.get("jit_compile") else 0)
    for key in ("loss", "accuracy"):
        np.testing.assert_allclose(others[key], logs[key], rtol=1e-5)
    assert "soft_target_loss" not in others


def test_half_precision_scales_the_loss(x, y):
    """A float16 gradient that is not scaled back moves nothing."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = net()
        before = student.get_weights()
        distiller = zoo.Distiller(student=student, teacher=teacher(), soft_weight=0.5)
        trained(distiller, x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    moved = [np.abs(a - b).max() for a, b in zip(before, student.get_weights(), strict=True)]
    assert min(moved) > 1e-3


def test_regularization_keeps_its_weight_whoever_teaches(x, y):
    """Defect 10; `add_loss` too."""

    class Charging(layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.mean(ops.square(inputs)))
            return inputs

    inputs = keras.Input((FEATURES,))
    h = layers.Dense(4, kernel_regularizer="l2", name="h")(inputs)
    student = keras.Model(inputs, layers.Dense(CLASSES)(Charging()(h)))
    distiller = zoo.Distiller(student=student, teacher=teacher(), soft_weight=1.0)
    still = {"optimizer": keras.optimizers.SGD(0.0), "metrics": None}
    logs = trained(distiller, x, y, epochs=1, batch_size=EXAMPLES, loss=None, compiling=still)
    activity = np.square(keras.Model(inputs, h).predict(x, verbose=0)).mean()
    penalty = 0.01 * np.square(student.get_layer("h").kernel.numpy()).sum()
    extra = logs["loss"][0] - logs["soft_target_loss"][0]
    np.testing.assert_allclose(extra, activity + penalty, rtol=1e-4)


def test_class_weights_weigh_both_parts(x, y):
    """Defect 9."""
    weights = {0: 0.5, 1: 2.0, 2: 0.0}
    per_example = np.array([weights[each] for each in y], "float32")
    results = []
    for how in ({"class_weight": weights}, {"sample_weight": per_example}):
        distiller = zoo.Distiller(student=net(), teacher=teacher())
        results.append((distiller, trained(distiller, x, y, **how)))
    assert_same(results[0][0].student, results[1][0].student, atol=1e-7)
    np.testing.assert_allclose(results[0][1]["loss"], results[1][1]["loss"], rtol=1e-5)


def test_masked_steps_do_not_count():
    """(batch, time, classes), of which a mask leaves some out."""
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])

    def tagger(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4,), dtype="int32")
        h = layers.Embedding(5, 6, mask_zero=True)(inputs)
        return keras.Model(inputs, layers.Dense(CLASSES)(h))

    student, given = tagger(0), tagger(1)
    z, v = (m.predict(tokens, verbose=0).astype("float64") for m in (student, given))
    p = softmax(v / 2)
    soft = 4 * (p * (np.log(p) - log_softmax(z / 2))).sum(-1)
    stock = keras.losses.MeanSquaredError()  # how Keras averages over what a mask leaves
    masked = student(tokens)
    expected = (soft * (tokens > 0)).sum() / (tokens > 0).sum()
    distiller = zoo.Distiller(student=student, teacher=given, temperature=2, soft_weight=1.0)
    still = {"optimizer": keras.optimizers.SGD(0.0), "metrics": None}
    logs = trained(distiller, tokens, None, epochs=1, batch_size=2, loss=None, compiling=still)
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4, atol=1e-6)
    errors = np.square(z).mean(-1)
    np.testing.assert_allclose(
        stock(np.zeros_like(z), masked),
        (errors * (tokens > 0)).sum() / (tokens > 0).sum(),
        rtol=1e-4,
    )


def test_an_unlabelled_transfer_set_has_soft_targets_alone_with_their_whole_weight(x):
    """Defect 19."""
    one, other = (
        zoo.Distiller(student=net(), teacher=teacher(), soft_weight=w) for w in (0.4, 1.0)
    )
    logs = trained(one, x, None)
    trained(other, x, None, loss=None, compiling={"metrics": None})
    assert_same(one.student, other.student)
    np.testing.assert_allclose(logs["loss"], logs["soft_target_loss"], rtol=1e-6)
    assert "accuracy" not in logs


def test_labels_without_a_loss_are_refused_before_a_step(x, y):
    distiller = zoo.Distiller(student=net(), teacher=teacher(), soft_weight=0.5)
    with pytest.raises(ValueError, match="Compile with a loss of the labels, or set soft_weight=1"):
        trained(distiller, x, y, loss=None, compiling={"metrics": None})


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_outputs_are_paired(form, x, y):
    """Defects 11 and 13."""

    def two(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((FEATURES,))
        a, b = layers.Dense(CLASSES, name="a")(inputs), layers.Dense(2, name="b")(inputs)
        return keras.Model(inputs, [a, b] if form == "list" else {"a": a, "b": b})

    student, given = two(0), two(1)
    zs, vs = (keras.tree.flatten(m.predict(x, verbose=0)) for m in (student, given))
    soft = sum(
        (softmax(v / 4) * (log_softmax(v / 4) - log_softmax(z / 4))).sum(-1).mean() * 16
        for z, v in zip(zs, vs, strict=True)
    )
    labels = [y, y % 2]
    hard = [-log_softmax(z)[np.arange(EXAMPLES), k].mean() for z, k in zip(zs, labels, strict=True)]
    distiller = zoo.Distiller(student=student, teacher=given, soft_weight=0.5)
    losses, weights = [cross_entropy(), cross_entropy()], [1.0, 0.25]
    if form == "dict":
        losses, weights, labels = (
            dict(zip("ab", each, strict=True)) for each in (losses, weights, labels)
        )
    distiller.compile(keras.optimizers.SGD(0.0), losses, loss_weights=weights)
    logs = distiller.fit(x, labels, batch_size=EXAMPLES, verbose=0).history
    np.testing.assert_allclose(logs["soft_target_loss"], soft, rtol=1e-4)
    expected = 0.5 * (hard[0] + 0.25 * hard[1]) + 0.5 * soft
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_one_logit_is_that_of_the_second_of_two_classes(x, y):
    """Defect 6."""
    student, given = net(classes=1), teacher(classes=1)
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (student, given))
    z, v = (np.hstack([np.zeros_like(each), each]) / 2 for each in (z, v))
    soft = 4 * (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    distiller = zoo.Distiller(student=student, teacher=given, temperature=2, soft_weight=0.5)
    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    logs = trained(
        distiller, x, y % 2, loss=lambda: binary, epochs=1, batch_size=EXAMPLES, compiling=still
    )
    np.testing.assert_allclose(logs["soft_target_loss"], soft, rtol=1e-4)
    assert soft > 0.01


def test_a_class_map_compares_the_classes_that_are_the_same(x):
    """Defect 20: unlike label spaces."""
    student, given = net(), teacher(classes=5)
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (student, given))
    z, v = z[:, [0, 2]], v[:, [4, 1]]
    soft = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    distiller = zoo.Distiller(
        student=student, teacher=given, temperature=1, soft_weight=1.0, class_map={0: 4, 2: 1}
    )
    still = {"optimizer": keras.optimizers.SGD(0.0), "metrics": None}
    logs = trained(distiller, x, None, loss=None, epochs=1, batch_size=EXAMPLES, compiling=still)
    np.testing.assert_allclose(logs["soft_target_loss"], soft, rtol=1e-4)


def test_an_ensemble_is_the_sum_of_the_cross_entropies_with_each(x):
    """Defect 22: the gradient of the mean of probabilities is the mean of the gradients."""
    members, temperature = [teacher(seed=seed) for seed in (4, 5, 6)], 3.0
    student = net()
    z, *vs = (m.predict(x, verbose=0).astype("float64") for m in (student, *members))
    p = np.mean([softmax(v / temperature) for v in vs], axis=0)
    gradient = temperature * (softmax(z / temperature) - p) / EXAMPLES
    before = student.get_layer("logits").bias.numpy()
    distiller = zoo.Distiller(
        student=student, teacher=members, temperature=temperature, soft_weight=1.0
    )
    step = {"optimizer": keras.optimizers.SGD(1.0), "metrics": None}
    trained(distiller, x, None, epochs=1, batch_size=EXAMPLES, loss=None, compiling=step)
    moved = before - student.get_layer("logits").bias.numpy()
    np.testing.assert_allclose(moved, gradient.sum(0), rtol=1e-3, atol=1e-6)
    assert distiller.teacher == members


def test_targets_that_come_with_the_data_teach_as_the_teacher_does(x, y):
    given = teacher()
    logits = given.predict(x, verbose=0)
    live = zoo.Distiller(student=net(), teacher=given)
    cached = zoo.Distiller(student=net())
    weights = np.random.default_rng(2).uniform(0, 2, EXAMPLES)
    one = trained(live, x, y, sample_weight=weights)
    other = trained(cached, x, {"labels": y, "teacher_logits": logits}, sample_weight=weights)
    assert_same(live.student, cached.student, atol=1e-6)
    for key, values in one.items():
        np.testing.assert_allclose(other[key], values, rtol=1e-5)
    without = trained(zoo.Distiller(student=net()), x, {"teacher_logits": logits})
    assert "accuracy" not in without


# The teacher.


def test_the_teacher_predicts_and_is_not_changed(x, y):
    """Defects 21 and 27: no dropout, moving averages that stay, weights that stay trainable."""
    given = teacher(normalized=True, dropout=0.5)
    before, config = [w.copy() for w in given.get_weights()], given.get_config()
    distiller = zoo.Distiller(
        student=net(), teacher=given, knowledge=[knowledge.Hint("h", "h")], soft_weight=0.5
    )
    trained(distiller, x, y)
    for one, other in zip(before, given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert given.trainable
    assert all(layer.trainable for layer in given.layers)
    assert given.get_config() == config
    assert not any("call" in vars(layer) for layer in (*given.layers, *distiller.student.layers))

    still = {"optimizer": keras.optimizers.SGD(0.0)}
    quiet = zoo.Distiller(student=net(), teacher=given, temperature=1, soft_weight=0.5)
    logs = trained(quiet, x, y, epochs=1, batch_size=EXAMPLES, compiling=still)
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (quiet.student, given))
    expected = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)


def test_the_teacher_is_outside_of_the_tape(x, y, monkeypatch):
    """Defect 27: what the tape watches is what is trained."""
    watched = []

    class Tape(tf.GradientTape):
        def gradient(self, *arguments, **keywords):
            watched.extend(self.watched_variables())
            return super().gradient(*arguments, **keywords)

    monkeypatch.setattr(tf, "GradientTape", Tape)
    distiller = zoo.Distiller(student=net(), teacher=teacher())
    trained(distiller, x, y, epochs=1, batch_size=EXAMPLES, compiling={"run_eagerly": True})
    expected = {id(variable.value) for variable in distiller.student.trainable_variables}
    assert {id(variable) for variable in watched} == expected


class Counting(layers.Layer):
    """Counts its passes, also in a graph."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.passes = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="passes"
        )

    def call(self, inputs):
        self.passes.assign(self.passes + 1)
        return inputs


def counted(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    h = layers.Dense(4, name="h")(Counting(name="count")(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(h))


def passes(model):
    return int(model.get_layer("count").passes.numpy())


def test_one_pass_of_each_a_step_and_the_student_alone_in_evaluation(x, y):
    """Defects 7, 28 and 29."""
    student, given = counted(0), counted(1)
    taught = [knowledge.Hint("h", "h"), knowledge.SimilarityPreserving("h", "h")]
    distiller = zoo.Distiller(student=student, teacher=given, knowledge=taught)
    trained(distiller, x, y, epochs=1, batch_size=11)
    assert (passes(student), passes(given)) == (2, 2)
    distiller.evaluate(x, y, batch_size=11, verbose=0)
    assert (passes(student), passes(given)) == (4, 2)
    distiller.predict(x, batch_size=11, verbose=0)
    assert (passes(student), passes(given)) == (6, 2)


def test_evaluation_leaves_every_weight_as_it_is(x, y):
    """Defect 8."""
    distiller = zoo.Distiller(
        student=net(normalized=True, dropout=0.3),
        teacher=teacher(normalized=True),
        knowledge=[knowledge.Hint("norm", "norm")],
        agreement=True,
    )
    trained(distiller, x, y)
    before = [np.array(v) for v in (*distiller.weights, *distiller.teacher.weights)]
    distiller.evaluate(x, y, verbose=0)
    for one, other in zip(before, (*distiller.weights, *distiller.teacher.weights), strict=True):
        np.testing.assert_array_equal(one, other)


def test_teacher_and_student_may_differ_in_type(x, y):
    """Defect 20."""
    given = teacher()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        student = net()
        distiller = zoo.Distiller(student=student, teacher=given)
        logs = trained(distiller, x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert logs["soft_target_loss"][-1] < logs["soft_target_loss"][0]


def test_a_teacher_of_other_images_has_what_makes_them_in_front():
    """Defect 20."""
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1)).astype("float32")
    large = zoo.mlp((12, 12, 1), CLASSES, hidden=(4,))
    student = zoo.mlp((6, 6, 1), CLASSES, hidden=(3,))
    with pytest.raises(ValueError, match=r"\(None, 6, 6, 1\).*12, 12, 1\).*Resizing") as refused:
        zoo.Distiller(student=student, teacher=large)
    assert "Exception encountered" not in str(refused.value)  # the message of Keras
    pooling = layers.MaxPooling2D(7)
    small = keras.Sequential([keras.Input((None, None, 1)), pooling, layers.Flatten()])
    with pytest.raises(ValueError, match="MaxPooling2D"):
        zoo.Distiller(student=student, teacher=small)
    seen = keras.Sequential([keras.Input((6, 6, 1)), layers.Resizing(12, 12), large])
    distiller = zoo.Distiller(student=student, teacher=seen, temperature=1, soft_weight=1.0)
    still = {"optimizer": keras.optimizers.SGD(0.0), "metrics": None}
    logs = trained(distiller, images, None, loss=None, epochs=1, compiling=still)
    z = student.predict(images, verbose=0)
    v = large.predict(tf.image.resize(images, (12, 12)), verbose=0)
    expected = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-3)


# What is refused, before the first step.


def ends_in(layer):
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, layer(layers.Dense(CLASSES, name="before")(inputs)), name="given")


@pytest.mark.parametrize(
    "given",
    [
        ends_in(layers.Dense(CLASSES, "softmax")),
        ends_in(layers.Softmax()),
        ends_in(layers.Activation("softmax")),
        ends_in(layers.Dense(1, "sigmoid")),
        keras.Sequential([keras.Input((FEATURES,)), ends_in(layers.Softmax())]),
    ],
    ids=["dense", "softmax", "activation", "sigmoid", "nested"],
)
def test_probabilities_are_recognized_and_those_of_a_student_refused(given, x):
    """Defects 2 and 3. What a teacher of probabilities teaches: test_foreign_teachers.py."""
    with pytest.warns(UserWarning, match=r"The teacher .* gives the probabilities of a"):
        zoo.Distiller(student=net(classes=given.output_shape[-1]), teacher=given)
    with pytest.raises(ValueError, match=r"The student .* gives probabilities"):
        zoo.Distiller(student=given, teacher=teacher(classes=given.output_shape[-1]))


def test_the_way_out_for_probabilities_works(x):
    given = ends_in(layers.Softmax())
    logits = keras.Model(given.inputs, keras.ops.log(given.output + 1e-30))
    distiller = zoo.Distiller(student=net(), teacher=logits, temperature=2, soft_weight=1.0)
    still = {"optimizer": keras.optimizers.SGD(0.0), "metrics": None}
    logs = trained(distiller, x, None, loss=None, epochs=1, batch_size=EXAMPLES, compiling=still)
    z = distiller.student.predict(x, verbose=0) / 2
    v = keras.Model(given.input, given.get_layer("before").output).predict(x, verbose=0) / 2
    expected = 4 * (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)


def test_a_model_does_not_teach_itself():
    """Defect 21."""
    model = net()
    same = keras.Model(model.inputs, layers.Dense(CLASSES)(model.get_layer("h").output))
    for given in (model, same, [teacher(), model]):
        with pytest.raises(ValueError, match=r"share weights.*clone_model"):
            zoo.Distiller(student=model, teacher=given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature is a finite number > 0; received 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"soft_weight": 1.5}, "share in 0..1; received 1.5"),
        ({"teacher": teacher(classes=4)}, r"\(None, 3\), the teacher \(None, 4\).*class_map"),
        ({"teacher": "large"}, "a Keras model; received 'large'"),
        ({"class_map": {0: 0}}, "two classes or more"),
        ({"class_map": {0: 0, 1: 7}}, "has 1: 7"),
        ({"soft_companions": True}, "those of a DeeplySupervised"),
        ({"knowledge": [knowledge.Hint("hh", "h")]}, "no layer 'hh'. Did you mean 'h'"),
        ({"knowledge": [knowledge.Hint("h", "x")]}, "has no layer 'x'"),
        (
            {"knowledge": [knowledge.SimilarityPreserving("h", "h")], "teacher": [teacher()] * 2},
            "takes one teacher; received 2",
        ),
        # Defect 15.
        ({"knowledge": [knowledge.LogitRegression("h", "h")]}, r"\(None, 4\).*\(None, 6\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.Distiller(**{"student": net(), "teacher": teacher(), **arguments})


def test_without_teacher_and_targets_training_says_what_to_do(x, y):
    with pytest.raises(ValueError, match=r"learn_from\(teacher\).*teacher_logits"):
        trained(zoo.Distiller(student=net()), x, y)


def test_knowledge_of_layers_is_not_in_cached_targets(x, y):
    """Nor are labels in data without."""
    distiller = zoo.Distiller(
        student=net(), teacher=teacher(), knowledge=[knowledge.Hint("h", "h")]
    )
    logits = np.zeros((EXAMPLES, CLASSES), "float32")
    with pytest.raises(ValueError, match="give the Distiller its teacher"):
        trained(distiller, x, {"labels": y, "teacher_logits": logits})
    needy = zoo.Distiller(
        student=net(), teacher=teacher(), knowledge=[knowledge.DecoupledSoftTargets()]
    )
    with pytest.raises(ValueError, match="DecoupledSoftTargets needs labels"):
        trained(needy, x, None)


# Knowledge.


def test_knowledge_is_added_with_its_weight(x, y):
    """Defect 16; the connector of defect 14 is in the formula."""
    student, given = net(), teacher()
    hint = knowledge.Hint("h", "h", weight=0.5)
    regression = knowledge.LogitRegression(weight=2.0)
    distiller = zoo.Distiller(
        student=student, teacher=given, soft_weight=0.0, knowledge=[hint, regression]
    )
    features = [
        keras.Model(m.input, m.get_layer("h").output).predict(x, verbose=0)
        for m in (student, given)
    ]
    kernel, bias = hint.get_weights()
    hinted = np.square(features[0] @ kernel + bias - features[1]).mean()
    z, v = (m.predict(x, verbose=0) for m in (student, given))
    regressed = np.square(z - v).sum(-1).mean() / 2
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    logs = trained(distiller, x, y, epochs=1, compiling=still)
    np.testing.assert_allclose(logs["hint_loss"], hinted, rtol=1e-4)
    np.testing.assert_allclose(logs["logit_regression_loss"], regressed, rtol=1e-4)
    expected = logs["label_loss"][0] + 0.5 * hinted + 2 * regressed
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_connectors_are_trained_and_stay_behind(x, y, tmp_path):
    """Defect 14."""
    distiller = zoo.Distiller(
        student=net(), teacher=teacher(), knowledge=[knowledge.Hint("h", "h")]
    )
    hint = distiller.knowledge[0]
    before = hint.get_weights()
    trained(distiller, x, y)
    for one, other in zip(before, hint.get_weights(), strict=True):
        assert np.abs(one - other).max() > 1e-4
    assert len(distiller.trainable_variables) == len(distiller.student.trainable_variables) + 2
    assert len(distiller.student.weights) == 4


def test_two_of_a_kind_have_logs_of_their_own(x, y):
    taught = [knowledge.Hint("h", "h"), knowledge.Hint("logits", "logits")]
    logs = trained(zoo.Distiller(student=net(), teacher=teacher(), knowledge=taught), x, y)
    assert {"hint_loss", "hint_loss_2"} <= set(logs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, "tanh", name="first")
        self.second = layers.Dense(CLASSES, name="second")

    def call(self, inputs):
        return self.second(self.first(inputs))


@pytest.mark.parametrize("kind", ["nested", "subclassed"])
def test_layers_are_reached_where_there_is_no_graph(kind, x, y):
    """Defect 17."""
    keras.utils.set_random_seed(0)
    if kind == "nested":
        inputs, inner = keras.Input((FEATURES,)), keras.Input((FEATURES,))
        backbone = keras.Model(inner, layers.Dense(4, "tanh", name="h")(inner), name="backbone")
        student, layer = keras.Model(inputs, layers.Dense(CLASSES)(backbone(inputs))), "backbone/h"
        first = backbone.get_layer("h")
    else:
        student, layer = Subclassed(), "first"
        student(x[:2])
        first = student.first
    distiller = zoo.Distiller(
        student=student,
        teacher=teacher(hidden=4),
        soft_weight=0.0,
        knowledge=[knowledge.SimilarityPreserving(layer, "h")],
    )
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    logs = trained(distiller, x, y, epochs=1, batch_size=EXAMPLES, compiling=still)
    one = np.asarray(first(x))
    other = np.asarray(distiller.teacher.get_layer("h")(x))
    rows = [f @ f.T / np.linalg.norm(f @ f.T, axis=1, keepdims=True) for f in (one, other)]
    expected = np.square(rows[0] - rows[1]).mean()
    np.testing.assert_allclose(logs["similarity_preserving_loss"], expected, rtol=1e-4)


# Deep supervision.


def deep():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    h = layers.Conv2D(3, 3, activation="relu", name="conv1", kernel_regularizer="l2")(inputs)
    trunk = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(h)), name="trunk")
    head = zoo.CompanionHead(CLASSES, name="head", kernel_regularizer="l2")
    return zoo.DeeplySupervised(trunk, {"conv1": head}, companion_weight=0.4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(EXAMPLES, 6, 6, 1)).astype("float32")


def of_images():
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6, 6, 1))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(inputs)))


def test_a_deeply_supervised_student_keeps_its_companions(images, y):
    alone = deep()
    logs = trained(alone, images, y, validation_data=(images, y))
    taught = zoo.Distiller(student=deep(), teacher=of_images(), soft_weight=0.0)
    others = trained(taught, images, y, validation_data=(images, y))
    assert_same(alone, taught.student)
    for key, values in logs.items():
        np.testing.assert_allclose(others[key], values, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("companions", [False, True])
def test_companions_may_learn_the_soft_targets_too(companions, images, y):
    student, given = deep(), of_images()
    distiller = zoo.Distiller(
        student=student,
        teacher=given,
        temperature=2,
        soft_weight=0.25,
        soft_companions=companions,
    )
    exits = student.exits(images)
    v = given.predict(images, verbose=0) / 2
    soft = {
        k: 4 * (softmax(v) * (log_softmax(v) - log_softmax(z / 2))).sum(-1).mean()
        for k, z in exits.items()
    }
    hard = {k: -log_softmax(z)[np.arange(EXAMPLES), y].mean() for k, z in exits.items()}
    kernels = [
        student.trunk.get_layer("conv1").kernel,
        student.companions["conv1"].classifier.kernel,
    ]
    conv, head = (0.01 * np.square(kernel.numpy()).sum() for kernel in kernels)
    expected = 0.75 * (hard["output"] + 0.4 * (hard["conv1"] + head)) + 0.25 * soft["output"] + conv
    expected += 0.25 * 0.4 * soft["conv1"] if companions else 0
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    logs = trained(distiller, images, y, epochs=1, batch_size=EXAMPLES, compiling=still)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_the_layers_of_a_deeply_supervised_student_can_be_taught(images, y):
    student = deep()
    distiller = zoo.Distiller(
        student=student,
        teacher=deep().trunk,
        knowledge=[knowledge.AttentionTransfer("conv1", "conv1")],
    )
    logs = trained(distiller, images, y)
    np.testing.assert_allclose(logs["attention_transfer_loss"][0], 0, atol=1e-3)
    assert "conv1_loss" in logs


def decoding():
    """A student of `deep` with a decoder, of images in 0..255."""
    student = deep()
    heads = {"conv1": zoo.CompanionHead(CLASSES, name="head")}
    decoders = {"conv1": zoo.DecodingHead()}
    return zoo.DeeplySupervised(student.trunk, heads, decoders=decoders, companion_weight=0.4)


@pytest.mark.parametrize(("labelled", "soft_weight"), [(True, 0.25), (True, 1.0), (False, 0.25)])
def test_decoders_keep_their_weight_whoever_teaches(labelled, soft_weight, images, y):
    student, given = decoding(), of_images()
    distiller = zoo.Distiller(student=student, teacher=given, soft_weight=soft_weight)
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    labels = y if labelled else None
    logs = trained(distiller, images, labels, epochs=1, batch_size=EXAMPLES, compiling=still)
    kernel = student.trunk.get_layer("conv1").kernel.numpy()
    conv = 0.01 * np.square(kernel).sum()
    share = soft_weight if labelled else 1.0
    hard = logs["label_loss"][0] if share < 1 else 0.0
    expected = (1 - share) * hard + share * logs["soft_target_loss"][0] + conv
    assert logs["conv1_decoding_error"][0] > 0.01
    np.testing.assert_allclose(
        logs["loss"][0], expected + logs["conv1_decoding_error"][0], rtol=1e-5
    )


def test_images_without_a_label_are_not_counted_as_errors(images, y):
    missing = np.arange(EXAMPLES) % 2 == 1
    labels = np.where(missing, -1, y)
    student = decoding()
    right = (student.predict(images, verbose=0).argmax(1) == y)[~missing].mean()
    distiller = zoo.Distiller(student=student, teacher=of_images())
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy(), metrics=["accuracy"])
    logs = distiller.fit(images, labels, batch_size=EXAMPLES, verbose=0).history
    np.testing.assert_allclose(logs["accuracy"], right, rtol=1e-6)
    found = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["accuracy"], right, rtol=1e-6)


def test_a_student_does_not_keep_its_teacher_alive():
    student, given = net(), teacher()
    gone = weakref.ref(given)
    distiller = zoo.Distiller(student=student, teacher=given)
    del distiller, given
    keras.backend.clear_session(free_memory=False)
    gc.collect()
    assert gone() is None


# Logs, files, and the rest of what a Keras model does.


def test_an_ensemble_is_compared_at_temperature_1(x, y):
    members, student = [teacher(seed=4), teacher(seed=5)], net()
    distiller = zoo.Distiller(student=student, teacher=members, temperature=4, agreement=True)
    distiller.compile("sgd", cross_entropy())
    found = distiller.evaluate(x, y, verbose=0, return_dict=True)
    z, *vs = (m.predict(x, verbose=0).astype("float64") for m in (student, *members))
    p = np.mean([softmax(v) for v in vs], axis=0)
    divergence = (p * (np.log(p) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(found["teacher_divergence"], divergence, rtol=1e-4)
    same = (z.argmax(1) == p.argmax(1)).mean()
    np.testing.assert_allclose(found["teacher_agreement"], same, rtol=1e-5)


def test_an_ensemble_has_one_temperature():
    decoupled = knowledge.DecoupledSoftTargets(temperature=2.0)
    zoo.Distiller(student=net(), teacher=teacher(), knowledge=[decoupled])
    with pytest.raises(ValueError, match=r"one temperature, here 4.0; DecoupledSoftTargets has 2"):
        zoo.Distiller(student=net(), teacher=[teacher(), teacher()], knowledge=[decoupled])


def test_agreement_is_measured_on_request(x, y):
    student, given = net(), teacher()
    distiller = zoo.Distiller(student=student, teacher=given, agreement=True)
    logs = trained(distiller, x, y, validation_data=(x, y))
    found = distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    z, v = (m.predict(x, verbose=0).astype("float64") for m in (student, given))
    same = (z.argmax(1) == v.argmax(1)).mean()
    divergence = (softmax(v) * (log_softmax(v) - log_softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(found["teacher_agreement"], same, rtol=1e-5)
    np.testing.assert_allclose(found["teacher_divergence"], divergence, rtol=1e-4)
    assert "teacher_agreement" not in logs
    assert "val_teacher_agreement" in logs


def test_evaluation_logs_what_the_student_alone_would(x, y):
    """Defect 18: nothing doubled, nothing stale, nothing of training."""
    student = net(l2="l2")
    distiller = zoo.Distiller(student=student, teacher=teacher())
    logs = trained(distiller, x, y, validation_data=(x, y))
    assert set(logs) == {
        *("loss", "accuracy", "label_loss", "soft_target_loss", "val_loss", "val_accuracy")
    }
    student.compile(loss=cross_entropy(), metrics=["accuracy"])
    alone = student.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    for found in (
        distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True),
        distiller.evaluate(
            x, {"labels": y, "teacher_logits": np.zeros((EXAMPLES, 3))}, verbose=0, return_dict=True
        ),
        distiller.test_on_batch(x, y, return_dict=True),
    ):
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5)


def test_a_student_that_was_compiled_before_does_not_disturb(x, y):
    fresh, compiled = net(), net()
    compiled.compile("adam", "mse", metrics=["mae"])
    results = []
    for student in (fresh, compiled):
        distiller = zoo.Distiller(student=student, teacher=teacher())
        results.append((distiller, trained(distiller, x, y)))
    assert results[0][1].keys() == results[1][1].keys()
    assert_same(results[0][0].student, results[1][0].student)


def test_calls_and_predictions_are_those_of_the_student(x):
    distiller = zoo.Distiller(student=net(), teacher=teacher())
    expected = distiller.student.predict(x, verbose=0)
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), expected)
    np.testing.assert_allclose(distiller(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hinted", [False, True])
def test_a_saved_distiller_goes_on_where_it_was(hinted, x, y, tmp_path):
    """Defects 23, 24 and 26."""

    def made():
        hints = [knowledge.Hint("h", "h", weight=0.3)] if hinted else []
        keras.utils.set_random_seed(8)
        return zoo.Distiller(
            student=net(),
            teacher=teacher(hidden=300),
            temperature=2,
            soft_weight=0.7,
            knowledge=hints,
        )

    whole, halved = made(), made()
    fitting = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    for distiller in (whole, halved):
        distiller.compile("adam", cross_entropy(), metrics=["accuracy"])
        distiller.fit(x, y, **fitting)
    halved.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    assert again.teacher is None
    assert again.teacher_fingerprint == [fingerprint(whole.teacher)]
    with pytest.raises(ValueError, match="has learned from the teacher"):
        again.learn_from(teacher(hidden=300, seed=1))
    again.learn_from(halved.teacher)
    assert int(again.optimizer.iterations.numpy()) == 6
    assert (again.temperature, again.soft_weight) == (2, 0.7)
    whole.fit(x, y, **fitting)
    again.fit(x, y, **fitting)
    assert_same(whole, again)
    # The teacher has 300 units; the file none of its weights.
    with zipfile.ZipFile(tmp_path / "d.keras") as file:
        size = file.getinfo("model.weights.h5").file_size
    assert halved.teacher.count_params() * 4 < 4 * size  # so that the next line says something
    halved.student.save(tmp_path / "s.keras")
    assert size < 300 * FEATURES * 4 * 20
    names = zipfile.ZipFile(tmp_path / "d.keras").read("config.json").decode()
    assert '"units": 300' not in names


class Label(knowledge.LogitRegression):
    """Its log would be "label_loss", which is that of the labels."""


def named(name, **arguments):
    """A net of two maps, the first from a layer of this name."""
    inputs = keras.Input((8, 8, 1))
    h = layers.Conv2D(2, 3, name=name)(inputs)
    return zoo.DeeplySupervised(
        keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(h))),
        {name: zoo.CompanionHead(CLASSES)},
        **arguments,
    )


def of_two_outputs():
    inputs = keras.Input((FEATURES,))
    return keras.Model(
        inputs, {name: layers.Dense(CLASSES, name=name)(inputs) for name in ("label", "other")}
    )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: named("output"), "output_loss"),
        (lambda: zoo.Distiller(student=named("label")), "label_loss"),
        (lambda: zoo.Distiller(student=named("soft_target")), "soft_target_loss"),
        (
            lambda: zoo.Distiller(student=named("hint"), knowledge=[knowledge.Hint("hint", "h")]),
            "hint_loss",
        ),
        (lambda: zoo.Distiller(student=net(), knowledge=[Label()]), "label_loss"),
        (lambda: zoo.Distiller(student=of_two_outputs()), "label_loss"),
    ],
)
def test_two_values_of_one_name_in_the_logs_are_refused(make, name):
    """The second one would replace the first."""
    with pytest.raises(ValueError, match=f"Two values would have the name '{name}' in the logs"):
        make()


def test_names_that_are_not_in_the_logs_are_free():
    zoo.Distiller(student=named("label"), soft_weight=1.0)
    zoo.Distiller(student=named("soft_target"), soft_weight=0.0)


def test_the_student_ships_by_itself(x, y, tmp_path):
    distiller = zoo.Distiller(student=net(), teacher=teacher())
    trained(distiller, x, y)
    distiller.student.save(tmp_path / "student.keras")
    np.savez(tmp_path / "x.npz", x=x)
    code = (
        "import sys, keras, numpy as np; m = keras.models.load_model(sys.argv[1]);"
        "print(m.predict(np.load(sys.argv[2])['x'], verbose=0).sum());"
        "assert 'zoo' not in sys.modules"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "student.keras", tmp_path / "x.npz"],
        env={**os.environ, "KERAS_BACKEND": "numpy"},  # it starts at once, without TensorFlow
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    total = distiller.predict(x, verbose=0).sum()
    np.testing.assert_allclose(float(ran.stdout.split()[-1]), total, rtol=1e-4)


def test_keras_backs_up_and_restores_it(x, y, tmp_path):
    """Defect 25."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = zoo.Distiller(student=net(), teacher=teacher())
    trained(whole, x, y, epochs=4)
    halved = zoo.Distiller(student=net(), teacher=teacher())

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        trained(halved, x, y, epochs=4, callbacks=[backup(), Stop()])
    fresh = zoo.Distiller(student=net(1), teacher=teacher())
    logs = trained(fresh, x, y, epochs=4, callbacks=[backup()])
    assert len(logs["loss"]) == 2
    assert_same(whole.student, fresh.student)


def test_a_new_teacher_of_an_old_distiller_is_heard(x, y):
    """What was traced with the first teacher is not kept."""
    distiller = zoo.Distiller(student=net(), teacher=teacher())
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    first = trained(distiller, x, y, epochs=1, compiling=still)["soft_target_loss"]
    other = teacher(seed=2)
    distiller.teacher_fingerprint = None
    distiller.learn_from(other)
    second = distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["soft_target_loss"]
    fresh = zoo.Distiller(student=net(), teacher=other)
    still = {"optimizer": keras.optimizers.SGD(0.0)}
    expected = trained(fresh, x, y, epochs=1, compiling=still)["soft_target_loss"]
    np.testing.assert_allclose(second, expected, rtol=1e-5)
    assert abs(first[0] - second[0]) > 1e-3


PROGRAM = """
import sys
import keras
import numpy as np
import zoo
from zoo import knowledge

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (32, 8, 8, 1)).astype("float32")
LABELS = rng.integers(0, 3, 32)


def train(weights=None):
    def made(width):
        x = inputs = keras.Input((8, 8, 1))
        x = keras.layers.Rescaling(1 / 255)(x)
        x = zoo.MLPConv((width, 6), 3, strides=2, normalization="batch", name="mlpconv1")(x)
        x = keras.layers.ActivityRegularization(l2=1e-3)(x)  # a loss of the pass
        return keras.Model(inputs, zoo.GlobalAveragePoolingHead(3)(x))

    student = zoo.DeeplySupervised(made(5), {"mlpconv1": zoo.CompanionHead(3, name="head")})
    teacher = made(7)
    distiller = zoo.Distiller(
        student=student,
        teacher=teacher,
        temperature=2.0,
        soft_weight=0.5,
        soft_companions=True,
        knowledge=[knowledge.Hint("mlpconv1", "mlpconv1", weight=0.1)],
        agreement=True,
    )
    everything = [*distiller.weights, *teacher.weights]
    if weights:
        for variable, value in zip(everything, weights, strict=True):
            variable.assign(value)
    first = [keras.ops.convert_to_numpy(v) for v in everything]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    fitting = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    logs = distiller.fit(IMAGES, LABELS, **fitting).history
    logs = {key: value[-1] for key, value in logs.items()}
    for key, value in distiller.evaluate(IMAGES, LABELS, verbose=0, return_dict=True).items():
        logs[f"val_{key}"] = value
    return first, [keras.ops.convert_to_numpy(v) for v in distiller.weights], logs


if __name__ == "__main__":
    given, taken = sys.argv[1:]
    with np.load(given) as arrays:
        weights = [arrays[f"w{index}"] for index in range(len(arrays))]
    _, after, logs = train(weights)
    np.savez(
        taken,
        **{f"log_{key}": value for key, value in logs.items()},
        **{f"w{index}": weight for index, weight in enumerate(after)},
    )
    print(keras.backend.backend())
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_to_the_same_numbers(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = {"__name__": "program"}
    exec(compile(PROGRAM, "program", "exec"), here)
    before, after, logs = here["train"]()
    np.savez(tmp_path / "given.npz", **{f"w{i}": w for i, w in enumerate(before)})
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "given.npz", tmp_path / "taken.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip().endswith(backend), ran.stderr
    with np.load(tmp_path / "taken.npz") as taken:
        for key, value in logs.items():
            np.testing.assert_allclose(taken[f"log_{key}"], value, rtol=2e-3, err_msg=key)
        for index, weight in enumerate(after):
            np.testing.assert_allclose(taken[f"w{index}"], weight, atol=2e-3, rtol=2e-3)
