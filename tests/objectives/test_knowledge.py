"""Each loss against its formula in NumPy, written from the papers and the authors' code."""

import importlib.util
import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import exact_divergence, exact_probabilities, softmax

from zoo.losses import soft_target_loss
from zoo.objectives import knowledge

pytestmark = pytest.mark.eager


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def values(taught, student, teacher, labels=None):
    return np.asarray(taught(list(student), list(teacher), labels=labels))


def gradients(taught, student, teacher, labels=None):
    """Of the sum of the losses, for every feature of student and teacher."""
    features = [tf.Variable(np.asarray(each, "float32")) for each in (*student, *teacher)]
    count = len(student)
    with tf.GradientTape() as tape:
        tensors = [tf.convert_to_tensor(each) for each in features]
        loss = tf.reduce_sum(taught(tensors[:count], tensors[count:], labels=labels))
    return tape.gradient(loss, features)


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


# The formulas: student and teacher features (lists) -> one number, as the authors' code returns.


def attention(student, teacher):
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        one, other = (unit((each**2).mean(-1).reshape(len(each), -1)) for each in pair)
        total += ((one - other) ** 2).mean()
    return total


def similarity(student, teacher):
    def matrix(features):
        flat = features.reshape(len(features), -1)
        return unit(flat @ flat.T)

    batch = len(student[0])
    pairs = zip(student, teacher, strict=True)
    return sum(((matrix(a) - matrix(b)) ** 2).sum() / batch**2 for a, b in pairs)


def flow(student, teacher):
    def matrices(maps):
        places = maps[0].shape[1] * maps[0].shape[2]
        pairs = itertools.pairwise(maps)
        return [np.einsum("bhwc,bhwd->bcd", one, other) / places for one, other in pairs]

    pairs = zip(matrices(student), matrices(teacher), strict=True)
    return sum(((one - other) ** 2).mean() for one, other in pairs)


def distance(student, teacher):
    def matrix(features):
        flat = features.reshape(len(features), -1)
        found = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
        return found / found[found > 0].mean()

    return huber(matrix(student[0]) - matrix(teacher[0])).mean()


def angle(student, teacher):
    def cosines(features):
        flat, found = features.reshape(len(features), -1), []
        for at in flat:
            towards = unit(flat - at)
            found.append(towards @ towards.T)
        return np.stack(found)

    return huber(cosines(student[0]) - cosines(teacher[0])).mean()


def regression(student, teacher):
    return ((student[0] - teacher[0]) ** 2).sum(-1).mean() / 2


# name: (the object, its formula, shapes of the student's and the teacher's features)
MAPS = [(4, 5, 6, 3), (4, 5, 6, 2)]
CASES = {
    "regression": (lambda: knowledge.LogitRegression(), regression, [(6, 5)], [(6, 5)]),
    "attention": (
        lambda: knowledge.AttentionTransfer(["a", "b"], ["c", "d"]),
        attention,
        MAPS,
        [(4, 5, 6, 7), (4, 5, 6, 1)],
    ),
    "similarity": (
        lambda: knowledge.SimilarityPreserving(["a", "b"], ["c", "d"]),
        similarity,
        [(4, 5, 6, 3), (4, 8)],
        [(4, 2, 2, 2), (4, 3)],
    ),
    "flow": (lambda: knowledge.Flow(["a", "b"], ["c", "d"]), flow, MAPS, MAPS),
    "distance": (
        lambda: knowledge.RelationalDistance("a", "c"),
        distance,
        [(6, 4)],
        [(6, 2, 2, 3)],
    ),
    "angle": (lambda: knowledge.RelationalAngle("a", "c"), angle, [(6, 4)], [(6, 3)]),
}


def features(rng, shapes):
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_the_batch_is_the_formula(name, rng):
    make, formula, student, teacher = CASES[name]
    student, teacher = features(rng, student), features(rng, teacher)
    found = values(make(), student, teacher)
    assert found.shape == (len(student[0]),)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(), formula(student, teacher), rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_already_costs_nothing_and_teaches_nothing(name, rng):
    make, _, shapes, _ = CASES[name]
    given = features(rng, shapes)
    taught = make()
    np.testing.assert_allclose(values(taught, given, given), 0, atol=1e-10)
    for gradient in gradients(taught, given, given)[: len(given)]:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_student_gets_a_gradient_and_the_teacher_none(name, rng):
    make, _, student, teacher = CASES[name]
    student, teacher = features(rng, student), features(rng, teacher)
    found = gradients(make(), student, teacher)
    for gradient in found[: len(student)]:
        assert np.abs(gradient).max() > 1e-5
    assert found[len(student) :] == [None] * len(teacher)


@pytest.mark.parametrize("name", ["attention", "similarity", "distance", "angle"])
@pytest.mark.parametrize("alike", ["zeros", "two examples equal", "one example"])
def test_gradients_are_numbers_where_features_coincide(name, alike, rng):
    make, _, student, teacher = CASES[name]
    student, teacher = features(rng, student), features(rng, teacher)
    if alike == "zeros":
        student = [np.zeros_like(each) for each in student]
    elif alike == "one example":
        student, teacher = [s[:1] for s in student], [t[:1] for t in teacher]
    else:
        for each in student:
            each[1] = each[0]
    for gradient in gradients(make(), student, teacher)[: len(student)]:
        assert np.abs(np.asarray(gradient)).max() < 100  # NaN is not


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0].astype("float32")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("attention", lambda x, rng: 3 * x),
        ("similarity", lambda x, rng: (2 * x.reshape(len(x), -1)) @ rotation(rng, x[0].size)),
        ("distance", lambda x, rng: 3 * x @ rotation(rng, x.shape[-1]) + 5),
        ("angle", lambda x, rng: 3 * x @ rotation(rng, x.shape[-1]) + 5),
    ],
)
def test_what_a_relation_does_not_depend_on(name, change, rng):
    make, _, shapes, _ = CASES[name]
    given = features(rng, shapes)
    changed = [change(each, rng) for each in given]
    np.testing.assert_allclose(values(make(), changed, given), 0, atol=1e-6)
    other = [each[::-1].copy() for each in given]
    assert values(make(), other, given).mean() > 1e-4


# Response.


def test_centered_regression_does_not_see_a_shift_and_is_the_limit_at_high_temperatures(rng):
    student, teacher = features(rng, [(6, 5), (6, 5)])
    centered = knowledge.LogitRegression(centered=True)
    found = values(centered, [student + 7], [teacher])
    difference = (student - teacher) - (student - teacher).mean(-1, keepdims=True)
    np.testing.assert_allclose(found, (difference**2).sum(-1) / 2, rtol=1e-4)
    soft = np.asarray(soft_target_loss(student, teacher, 300.0))
    np.testing.assert_allclose(5 * soft, found, rtol=0.05)


def dkd(student, teacher, labels, temperature, target_weight, other_weight):
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        both = np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]])
        others = [np.delete(each, y) / (1 - each[y]) for each in (p, q)]
        kls = [(one * np.log(one / other)).sum() for one, other in (both, others)]
        total += temperature**2 * (target_weight * kls[0] + other_weight * kls[1])
    return total / len(student)


@pytest.mark.parametrize("form", ["whole", "column", "rows"])
def test_decoupled_soft_targets_are_the_formula(form, rng):
    student, teacher = features(rng, [(6, 5), (6, 5)])
    labels = rng.integers(0, 5, 6)
    given = {"whole": labels, "column": labels[:, None], "rows": np.eye(5, dtype="float32")[labels]}
    taught = knowledge.DecoupledSoftTargets(3.0, 0.7, 2.5)
    found = values(taught, [student], [teacher], labels=given[form])
    expected = dkd(*(x.astype("float64") for x in (student, teacher)), labels, 3.0, 0.7, 2.5)
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-4)
    assert gradients(taught, [student], [teacher], labels)[1] is None


@pytest.mark.parametrize("temperature", [1e-1, 4.0, 1e4, 1e8])
def test_decoupled_soft_targets_keep_their_digits_at_every_temperature(temperature, rng):
    student, teacher = features(rng, [(6, 5), (6, 5)])
    labels = rng.integers(0, 5, 6)
    taught = knowledge.DecoupledSoftTargets(temperature, 0.7, 2.5)
    found = values(taught, [student], [teacher], labels=labels)
    for s, t, y, value in zip(student, teacher, labels, found, strict=True):
        q, p = (exact_probabilities(logits, temperature) for logits in (s, t))
        others = [exact_probabilities(np.delete(logits, y), temperature) for logits in (s, t)]
        both = [[own[y], sum(own) - own[y]] for own in (q, p)]
        parts = [exact_divergence(*pair, temperature) for pair in (both, others)]
        np.testing.assert_allclose(value, 0.7 * parts[0] + 2.5 * parts[1], rtol=1e-5)


def test_soft_targets_are_the_two_parts_with_the_weight_that_the_paper_takes_away(rng):
    student, teacher = features(rng, [(6, 5), (6, 5)])
    labels = rng.integers(0, 5, 6)
    whole = np.asarray(soft_target_loss(student, teacher, 2.0))
    target, others = (
        values(knowledge.DecoupledSoftTargets(2.0, *w), [student], [teacher], labels=labels)
        for w in ((1.0, 0.0), (0.0, 1.0))
    )
    sure = softmax(teacher / 2)[np.arange(6), labels]
    np.testing.assert_allclose(target + (1 - sure) * others, whole, rtol=1e-4, atol=1e-6)


# Features.


def test_a_hint_of_maps_of_one_size_is_the_formula(rng):
    student, teacher = features(rng, [(4, 5, 6, 3), (4, 5, 6, 2)])
    hint = knowledge.Hint("a", "b")
    found = values(hint, [student], [teacher])
    kernel, bias = hint.get_weights()
    difference = student @ kernel[0, 0] + bias - teacher
    np.testing.assert_allclose(found, (difference**2).mean((1, 2, 3)), rtol=1e-4)


def test_a_hint_of_vectors_is_the_formula_and_pairs_add_up(rng):
    student, teacher = features(rng, [(4, 3), (4, 2)]), features(rng, [(4, 5), (4, 2)])
    hint = knowledge.Hint(["a", "b"], ["c", "d"])
    found = values(hint, student, teacher)
    first, second = (
        ((s @ c.kernel.numpy() - t) ** 2).mean(-1)
        for s, t, c in zip(student, teacher, hint.connectors, strict=True)
    )
    np.testing.assert_allclose(found, first + second, rtol=1e-4)


@pytest.mark.parametrize(("student", "teacher"), [((8, 6), (4, 3)), ((4, 3), (8, 6))])
def test_a_hint_resizes_the_student_to_the_teacher(student, teacher, rng):
    small, large = features(rng, [(2, *student, 3), (2, *teacher, 3)])
    hint = knowledge.Hint("a", "b")
    found = values(hint, [small], [large])
    kernel, bias = hint.get_weights()
    size = tf.image.resize(small, teacher, antialias=True).numpy()
    expected = ((size @ kernel[0, 0] + bias - large) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_connectors_are_trained():
    hint = knowledge.Hint("a", "b")
    student, teacher = np.ones((2, 3, 3, 4), "float32"), np.ones((2, 3, 3, 2), "float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(hint([student], [teacher]))
    assert len(hint.trainable_variables) == 2
    for variable, gradient in zip(
        hint.trainable_variables,
        tape.gradient(loss, [v.value for v in hint.trainable_variables]),
        strict=True,
    ):
        assert np.abs(gradient).max() > 0, variable.path


def test_the_power_of_attention(rng):
    student, teacher = features(rng, [(2, 4, 4, 3), (2, 4, 4, 5)])
    found = values(knowledge.AttentionTransfer("a", "b", power=1), [student], [teacher])
    one, other = (unit(np.abs(x).mean(-1).reshape(2, -1)) for x in (student, teacher))
    np.testing.assert_allclose(found, ((one - other) ** 2).mean(-1), rtol=1e-4)


# Relations.


def test_a_flow_between_maps_of_unlike_sizes_and_widths(rng):
    student = features(rng, [(2, 8, 8, 3), (2, 4, 4, 4)])
    teacher = features(rng, [(2, 8, 8, 5), (2, 4, 4, 4)])
    taught = knowledge.Flow(["a", "b"], ["c", "d"])
    found = values(taught, student, teacher)
    (kernel,) = taught.get_weights()  # of the first alone: the second has the teacher's width

    def matrix(first, second):
        first = first.reshape(2, 4, 2, 4, 2, -1).mean((2, 4))
        return np.einsum("bhwc,bhwd->bcd", first, second) / 16

    difference = matrix(student[0] @ kernel[0, 0], student[1]) - matrix(*teacher)
    np.testing.assert_allclose(found, (difference**2).mean((1, 2)), rtol=1e-3)


def test_flows_of_three_maps_are_two(rng):
    shapes = [(2, 3, 3, 2)] * 3
    student, teacher = features(rng, shapes), features(rng, shapes)
    found = values(knowledge.Flow(list("abc"), list("def")), student, teacher)
    halves = [
        values(knowledge.Flow(["a", "b"], ["d", "e"]), student[i : i + 2], teacher[i : i + 2])
        for i in (0, 1)
    ]
    np.testing.assert_allclose(found, sum(halves), rtol=1e-5)
    assert knowledge.Flow(list("abc"), list("def")).weights == []


# What all have in common.

MADE = {
    "LogitRegression": lambda: knowledge.LogitRegression(centered=True, weight=0.5),
    "DecoupledSoftTargets": lambda: knowledge.DecoupledSoftTargets(3.0, 0.5, 2.0, weight=2.0),
    "Hint": lambda: knowledge.Hint(["a", "b"], ["c", "d"], weight=0.1),
    "AttentionTransfer": lambda: knowledge.AttentionTransfer("a", "b", power=3),
    "SimilarityPreserving": lambda: knowledge.SimilarityPreserving("a", "b", weight=0),
    "Flow": lambda: knowledge.Flow(["a", "b"], ["c", "d"]),
    "RelationalDistance": lambda: knowledge.RelationalDistance("a", "b", weight=25),
    "RelationalAngle": lambda: knowledge.RelationalAngle("a", "b", weight=50),
    "SoftTargets": lambda: knowledge.SoftTargets(2.0, standardize=True, weight=9),
    "RelationalMatching": lambda: knowledge.RelationalMatching(4.0, 1.0, 2.0, weight=2),
    "MultiLevelLogits": lambda: knowledge.MultiLevelLogits((2.0, 4.0), weight=0.9),
    "MapRegression": lambda: knowledge.MapRegression("a", "b", weight=2),
    "ProjectedFeatures": lambda: knowledge.ProjectedFeatures(["a", "b"], ["c", "d"], weight=2),
    "NeuronSelectivityTransfer": lambda: knowledge.NeuronSelectivityTransfer("a", "b", weight=50),
    "VariationalInformation": lambda: knowledge.VariationalInformation(["a", "b"], ["c", "d"]),
    "ClassAttentionTransfer": lambda: knowledge.ClassAttentionTransfer(
        "a", "b", size=3, normalize=False, weight=15
    ),
    "ScaleDecoupledSoftTargets": lambda: knowledge.ScaleDecoupledSoftTargets(
        "a", "b", temperature=3.0, scales=(1, 3), weight=9
    ),
    "ProbabilisticTransfer": lambda: knowledge.ProbabilisticTransfer("a", "b", weight=30000),
    "CorrelationCongruence": lambda: knowledge.CorrelationCongruence("a", "b", units=3),
    "KnowledgeReview": lambda: knowledge.KnowledgeReview(["a", "b"], ["c", "d"], weight=5),
}
OF_LOGITS = ("LogitRegression", "DecoupledSoftTargets", "SoftTargets", "RelationalMatching")
OF_LOGITS += ("MultiLevelLogits",)


def test_every_knowledge_is_tested_here():
    assert {*MADE, "Knowledge"} == set(knowledge.__all__)


@pytest.mark.parametrize("name", MADE)
def test_an_object_comes_back_from_its_config(name):
    one = MADE[name]()
    assert type(one).__name__ == name
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one))
    assert type(again) is type(one)
    assert again.get_config() == one.get_config()
    assert (again.student_layers, again.weight) == (one.student_layers, one.weight)


@pytest.mark.parametrize("name", MADE)
def test_the_computation_is_in_float32_under_mixed_precision(name, rng):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        taught = MADE[name]()
        shape = (4, 5) if name in OF_LOGITS else (4, 3, 3, 5)
        student, teacher = (features(rng, [shape] * len(taught.student_layers)) for _ in "st")
        half = [tf.cast(each, "bfloat16") for each in student]
        labels = np.arange(4)
        found = taught(half, teacher, labels=labels)
        exact = taught([tf.cast(each, "float32") for each in half], teacher, labels=labels)
    finally:
        keras.config.set_dtype_policy(before)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, exact)
    assert {variable.dtype for variable in taught.variables} <= {"float32"}


def symbolic(*shapes):
    return [keras.KerasTensor((None, *shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("make", "student", "teacher", "message"),
    [
        (lambda: knowledge.Hint("a", "b"), (3,), (4, 4, 2), "'a' of the student.*two maps, or two"),
        (lambda: knowledge.Hint("a", "b"), (3, 3, None), (3, 3, 2), "known channels"),
        (lambda: knowledge.Hint("a", "b"), (2, 3, 3, 2), (2, 3, 3, 2), "two maps, or two"),
        (lambda: knowledge.AttentionTransfer("a", "b"), (3,), (3,), "two maps"),
        (lambda: knowledge.LogitRegression(), (3,), (4,), "features of one shape"),
        (lambda: knowledge.DecoupledSoftTargets(), (3,), (4,), "of the same classes"),
    ],
)
def test_features_that_do_not_fit_are_refused_by_name_and_shape(make, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        make()(symbolic(student), symbolic(teacher))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: knowledge.Hint("a", "b", weight=-1), "weight of Hint is -1"),
        (lambda: knowledge.Hint("a", "b", weight=float("nan")), "weight of Hint is nan"),
        (lambda: knowledge.Hint(["a", "b"], "c"), "received a, b and c"),
        (lambda: knowledge.Flow("a", "b"), "two or more"),
        (lambda: knowledge.DecoupledSoftTargets(0), "temperature"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


PROGRAM = """
import sys
import keras
import numpy as np
from zoo import knowledge

if keras.backend.backend() == "jax":
    import jax

rng = np.random.default_rng(0)
student = [rng.normal(size=s).astype("float32") for s in [(4, 6, 6, 3), (4, 3, 3, 2)]]
teacher = [rng.normal(size=s).astype("float32") for s in [(4, 6, 6, 3), (4, 3, 3, 2)]]
logits = [rng.normal(size=(4, 5)).astype("float32") for _ in "st"]
maps = [rng.normal(size=(4, 6, 6, 5)).astype("float32") for _ in "st"]
made = {
    "LogitRegression": ([], logits[:1], logits[1:]),
    "DecoupledSoftTargets": ([], logits[:1], logits[1:]),
    "SoftTargets": ([2.0, True], logits[:1], logits[1:]),
    "RelationalMatching": ([], logits[:1], logits[1:]),
    "MultiLevelLogits": ([], logits[:1], logits[1:]),
    "Hint": (["a", "c"], student[1:], teacher[:1]),
    "RelationalAngle": (["a", "c"], student[:1], teacher[:1]),
    "NeuronSelectivityTransfer": (["a", "c"], student[:1], teacher[1:]),
    "VariationalInformation": (["a", "c"], student[:1], teacher[1:]),
    "CorrelationCongruence": (["a", "c"], student[:1], teacher[1:]),
    "MapRegression": (["a", "c"], maps[:1], maps[1:]),
    "ProjectedFeatures": (["a", "c"], student[1:], teacher[:1]),
    "ClassAttentionTransfer": (["a", "c"], maps[:1], maps[1:]),
    "ScaleDecoupledSoftTargets": (["a", "c"], maps[:1], maps[1:]),
}
for name in ("AttentionTransfer", "SimilarityPreserving", "Flow", "RelationalDistance"):
    made[name] = ([["a", "b"], ["c", "d"]], student, teacher)
for name in ("ProbabilisticTransfer", "KnowledgeReview"):
    made[name] = ([["a", "b"], ["c", "d"]], student, teacher)
found = {}
for name, (arguments, *features) in made.items():
    taught = getattr(knowledge, name)(*arguments)
    given = {"labels": np.array([0, 1, 99, -1])} if taught.needs_labels else {}
    taught(*([keras.KerasTensor(each.shape) for each in side] for side in features))
    weights = [np.cos(np.arange(w.size)).reshape(w.shape) for w in taught.get_weights()]
    taught.set_weights(weights)
    run = taught.stateless_call
    if keras.backend.backend() == "jax":  # or JAX compiles each operation
        run = jax.jit(run)
    both = taught.trainable_variables, taught.non_trainable_variables
    values = ([variable.value for variable in each] for each in both)
    found[name] = run(*values, *features, **given)[0]
np.savez(sys.argv[1], **{k: keras.ops.convert_to_numpy(v) for k, v in found.items()})
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same_numbers(backend, tmp_path, monkeypatch):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "here.npz")])
    exec(compile(PROGRAM, "program", "exec"), {})
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "there.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        assert len(here.files) == len(MADE)
        for name in here:
            np.testing.assert_allclose(there[name], here[name], rtol=1e-4, err_msg=name)
