"""What knowledge takes: shapes, sizes, labels, one logit, offsets; and what it refuses."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracles import softmax

import zoo
from zoo.objectives import knowledge
from zoo.objectives.feature_math import averaged, lengths, products

pytestmark = pytest.mark.eager


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(rng, *shapes):
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


# Sizes.


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 8), (5, 3), (2, 8), (9, 16)])
def test_an_average_covers_the_windows_of_adaptive_pooling(size, rng):
    (maps,) = drawn(rng, (2, 7, 8, 3))
    found = np.asarray(averaged(maps, size))
    expected = np.empty((2, *size, 3), "float32")
    for i, j in itertools.product(*map(range, size)):
        rows = slice(math.floor(i * 7 / size[0]), math.ceil((i + 1) * 7 / size[0]))
        columns = slice(math.floor(j * 8 / size[1]), math.ceil((j + 1) * 8 / size[1]))
        expected[:, i, j] = maps[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_hint_of_tokens_is_the_formula(rng):
    student, teacher = drawn(rng, (4, 5, 3), (4, 5, 2))
    hint = knowledge.Hint("a", "b")
    found = np.asarray(hint([student], [teacher]))
    kernel, bias = hint.get_weights()
    expected = ((student @ kernel + bias - teacher) ** 2).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_hint_of_maps_of_one_dimension_resizes_as_of_two(rng):
    student, teacher = drawn(rng, (4, 6, 3), (4, 4, 2))
    one, two = knowledge.Hint("a", "b"), knowledge.Hint("a", "b")
    one([student], [teacher])
    two([student[:, None]], [teacher[:, None]])
    kernel, bias = one.get_weights()
    two.set_weights([kernel[None, None], bias])
    np.testing.assert_allclose(
        one([student], [teacher]), two([student[:, None]], [teacher[:, None]]), rtol=1e-6
    )


# name: the arguments, and the channels of the student's and the teacher's maps
OF_MAPS = {
    "Hint": ([["a", "b"], ["c", "d"]], [2, 3], [3, 3]),
    "AttentionTransfer": ([["a", "b"], ["c", "d"]], [2, 3], [3, 3]),
    "NeuronSelectivityTransfer": ([["a", "b"], ["c", "d"]], [2, 3], [3, 3]),
    "VariationalInformation": ([["a", "b"], ["c", "d"]], [2, 3], [3, 3]),
    "Flow": ([["a", "b"], ["c", "d"]], [2, 3], [3, 3]),
    "MapRegression": (["a", "c"], [3], [3]),
    "ProjectedFeatures": (["a", "c"], [2], [3]),
    "ClassAttentionTransfer": (["a", "c"], [3], [3]),
    "ScaleDecoupledSoftTargets": (["a", "c"], [3], [3]),
    "SimilarityPreserving": (["a", "c"], [2], [3]),
    "RelationalDistance": (["a", "c"], [2], [3]),
    "RelationalAngle": (["a", "c"], [2], [3]),
    "ProbabilisticTransfer": (["a", "c"], [2], [3]),
}


@pytest.mark.parametrize("name", OF_MAPS)
def test_maps_of_unknown_size_give_the_numbers_of_known_ones(name, rng):
    arguments, *channels = OF_MAPS[name]
    sizes = [(9, 8), (4, 4)], [(5, 8), (7, 4)]
    features = [
        drawn(rng, *((4, *size, c) for size, c in zip(own, widths, strict=False)))
        for own, widths in zip(sizes, channels, strict=True)
    ]
    specs = [[tf.TensorSpec((None, None, None, c)) for c in widths] for widths in channels]
    labels = np.array([0, 2, 1, 1])
    unknown, known = (getattr(knowledge, name)(*arguments) for _ in range(2))
    unknown(*([keras.KerasTensor((None, None, None, c)) for c in side] for side in channels))
    known(*features)
    weights = [np.cos(np.arange(w.size)).reshape(w.shape) for w in known.get_weights()]
    for taught in (unknown, known):
        taught.set_weights(weights)
    traced = tf.function(lambda *sides: unknown(*sides, labels=labels))
    tensors = keras.tree.map_structure(tf.constant, features)
    found = traced.get_concrete_function(*specs)(*tensors)
    expected = known(*features, labels=labels)
    assert found.shape == (4,)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


# Labels.


@pytest.mark.parametrize(
    "labels", [[1, -1, 99, 2], [[1], [-1], [99], [2]], [1.0, float("nan"), 3, 2]]
)
@pytest.mark.parametrize("name", ["DecoupledSoftTargets", "ScaleDecoupledSoftTargets"])
def test_a_label_that_is_no_class_gives_nan_for_its_example(name, labels, rng):
    arguments = () if name == "DecoupledSoftTargets" else ("a", "b")
    shape = (4, 3) if name == "DecoupledSoftTargets" else (4, 4, 4, 3)
    taught, (student, teacher) = getattr(knowledge, name)(*arguments), drawn(rng, shape, shape)
    found = np.asarray(taught([student], [teacher], labels=np.array(labels)))
    assert np.isnan(found).tolist() == [False, True, True, False]
    known = np.asarray(taught([student], [teacher], labels=np.array([1, 0, 0, 2])))
    np.testing.assert_array_equal(found[[0, 3]], known[[0, 3]])


def deep_net(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))


def test_an_image_without_a_label_weighs_0_beside_decoders(rng):
    (images,) = drawn(rng, (4, 4, 4, 1))
    labels, weights = np.array([2, -1, 0, -1]), np.float32([1, 2, 3, 4])
    student = zoo.DeeplySupervised(deep_net(1), {}, decoders={"conv": zoo.DecodingHead()})
    taught = knowledge.DecoupledSoftTargets()
    teacher = deep_net(2)
    distiller = zoo.Distiller(student=student, teacher=teacher, knowledge=[taught])
    distiller.compile(keras.optimizers.SGD(0.0), zoo.SoftmaxCrossEntropy())
    logits = [[each.predict(images, verbose=0)] for each in (student, teacher)]
    losses = np.asarray(taught(*logits, labels=np.maximum(labels, 0))) * (labels >= 0)
    for weight in (None, weights):
        logs = distiller.train_on_batch(images, labels, sample_weight=weight, return_dict=True)
        expected = (losses * (1 if weight is None else weights)).mean()
        np.testing.assert_allclose(logs["decoupled_soft_targets_loss"], expected, rtol=1e-5)
        assert np.isfinite(logs["loss"])


# Two classes, one logit.


def test_one_logit_is_that_of_the_second_of_two_classes(rng):
    student, teacher = drawn(rng, (6, 1), (6, 1))
    labels = np.array([0, 1, 1, 0, 1, 0])
    for make in (
        lambda: knowledge.LogitRegression(),
        lambda: knowledge.LogitRegression(centered=True),
        lambda: knowledge.SoftTargets(2.0),
        lambda: knowledge.DecoupledSoftTargets(2.0),
        lambda: knowledge.RelationalMatching(),
        lambda: knowledge.MultiLevelLogits(),
    ):
        two = [np.concatenate([np.zeros_like(z), z], axis=1) for z in (student, teacher)]
        found = np.asarray(make()([student], [teacher], labels=labels[:, None]))
        expected = make()([two[0]], [two[1]], labels=labels)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.max() > 0
    p, q = softmax(two[1] / 2), softmax(two[0] / 2)
    np.testing.assert_allclose(
        knowledge.DecoupledSoftTargets(2.0, 1.0, 5.0)([student], [teacher], labels=labels),
        4 * (p * np.log(p / q)).sum(-1),  # among the other classes there is one alone
        rtol=1e-4,
    )


def test_a_distiller_of_one_logit_learns_the_true_class_apart(rng):
    def one_logit(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(1, name="logit")(inputs))

    distiller = zoo.Distiller(
        student=one_logit(0), teacher=one_logit(1), knowledge=[knowledge.DecoupledSoftTargets()]
    )
    distiller.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    (x,) = drawn(rng, (6, 4))
    logs = distiller.train_on_batch(x, np.arange(6) % 2, return_dict=True)
    assert 0 < logs["decoupled_soft_targets_loss"] < np.inf


# Powers and weights.


@pytest.mark.parametrize("power", [0.5, 1, 2.5])
def test_attention_of_maps_with_zeros_has_a_gradient(power, rng):
    student, teacher = (np.maximum(each, 0) for each in drawn(rng, (2, 4, 4, 3), (2, 4, 4, 3)))
    features, taught = tf.Variable(student), knowledge.AttentionTransfer("a", "b", power=power)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(taught([tf.convert_to_tensor(features)], [teacher]))
    gradient = tape.gradient(loss, features).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-4
    attention = [
        (each.astype("float64") ** power).mean(-1).reshape(2, -1) for each in (student, teacher)
    ]
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in attention)
    np.testing.assert_allclose(loss, ((one - other) ** 2).mean(-1).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: knowledge.AttentionTransfer("a", "b", power=0), "power .* is 0"),
        (lambda: knowledge.AttentionTransfer("a", "b", power=-1), "power .* is -1"),
        (lambda: knowledge.AttentionTransfer("a", "b", power=float("nan")), "power .* is nan"),
        (lambda: knowledge.DecoupledSoftTargets(other_weight=-8), "other_weight .* is -8"),
        (
            lambda: knowledge.DecoupledSoftTargets(target_weight=float("nan")),
            "target_weight .* nan",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# What is no knowledge of one tensor.


def of_two_outputs(seed, kind):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    outputs = {name: layers.Dense(3, name=name)(inputs) for name in ("left", "right")}
    return keras.Model(inputs, outputs if kind is dict else list(outputs.values()))


@pytest.mark.parametrize("kind", [list, dict])
def test_a_model_of_several_outputs_is_taught_layer_by_layer(kind, rng):
    models = {"student": of_two_outputs(0, kind), "teacher": of_two_outputs(1, kind)}
    with pytest.raises(ValueError, match=r"LogitRegression .* 'output' gives 2 of them") as error:
        zoo.Distiller(**models, knowledge=[knowledge.LogitRegression()])
    assert "\n" not in str(error.value)
    taught = knowledge.LogitRegression(["left", "right"], ["left", "right"])
    distiller = zoo.Distiller(**models, soft_weight=0, knowledge=[taught])
    distiller.compile("sgd")
    (x,) = drawn(rng, (6, 4))
    outputs = [keras.tree.flatten(each.predict(x, verbose=0)) for each in models.values()]
    logs = distiller.train_on_batch(x, return_dict=True)
    expected = sum(((s - t) ** 2).sum(-1) / 2 for s, t in zip(*outputs, strict=True)).mean()
    np.testing.assert_allclose(logs["logit_regression_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [lambda student, teacher: 0.0, knowledge.Hint, "hint"])
def test_what_is_no_knowledge_is_refused_in_one_line(wrong):
    with pytest.raises(ValueError, match=r"objects of zoo[.]knowledge; received") as error:
        zoo.Distiller(student=deep_net(0), teacher=deep_net(1), knowledge=[wrong])
    assert "\n" not in str(error.value)


# Distances and angles of many or far features.

RELATIONS = {
    "RelationalDistance": lambda: knowledge.RelationalDistance("a", "b"),
    "RelationalAngle": lambda: knowledge.RelationalAngle("a", "b"),
}


def graph_of(taught, batch, values):
    @tf.function
    def step(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = taught([student], [teacher])
        return loss, tape.gradient(loss, student)

    shape = tf.TensorSpec((batch, values))
    return step.get_concrete_function(shape, shape).graph


@pytest.mark.parametrize("name", RELATIONS)
def test_no_array_has_the_size_of_batch_times_batch_times_features(name):
    batch, values = 8, 1000
    taught = RELATIONS[name]()
    sizes = [
        math.prod(output.shape)
        for operation in graph_of(taught, batch, values).get_operations()
        for output in operation.outputs
        if output.shape.is_fully_defined()
    ]
    assert max(sizes) == batch * values


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5)


def relation(name, student, teacher):
    """The direct formula, in float64."""

    def of(x):
        towards = x[None] - x[:, None]
        lengths = np.linalg.norm(towards, axis=-1)
        if name == "RelationalDistance":
            return lengths / lengths[lengths > 0].mean()
        directions = towards / np.where(lengths > 0, lengths, 1)[..., None]
        return np.einsum("ijn,ikn->ijk", directions, directions)

    return huber(of(student) - of(teacher)).mean()


@pytest.mark.parametrize("name", RELATIONS)
def test_a_common_offset_takes_no_digits(name, rng):
    student, teacher = (each + 100 for each in drawn(rng, (6, 4), (6, 7)))
    features, taught = tf.Variable(student), RELATIONS[name]()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(taught([tf.convert_to_tensor(features)], [teacher]))
    found = tape.gradient(loss, features).numpy()
    exact, target, numeric = student.astype("float64"), teacher.astype("float64"), []
    for index in np.ndindex(exact.shape):
        ends = []
        for sign in (1, -1):
            moved = exact.copy()
            moved[index] += sign * 1e-5
            ends.append(relation(name, moved, target))
        numeric.append((ends[0] - ends[1]) / 2e-5)
    np.testing.assert_allclose(loss, relation(name, exact, target), rtol=1e-5)
    numeric = np.reshape(numeric, found.shape)
    np.testing.assert_allclose(found, numeric, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.parametrize("apart", [0.0, 5e-4, 1e-2])
def test_examples_within_a_thousandth_of_their_lengths_are_at_distance_0(apart, rng):
    centers, directions = drawn(rng, (20, 50), (20, 50))
    sizes = np.linalg.norm(centers, axis=1) / np.linalg.norm(directions, axis=1)
    vectors = np.concatenate([centers, centers + apart * sizes[:, None] * directions])
    found = np.asarray(lengths(products(ops.convert_to_tensor(vectors))))
    of_pairs = np.diagonal(found, 20) / np.linalg.norm(centers, axis=1)
    np.testing.assert_allclose(of_pairs, apart if apart > 1e-3 else 0, rtol=0.02)
    assert (np.diagonal(found) == 0).all()
    assert (found[:20, :20] + np.eye(20) > 0).all()


@pytest.mark.parametrize("name", RELATIONS)
def test_equal_examples_far_away_have_small_gradients(name, rng):
    student, teacher = drawn(rng, (6, 50), (6, 50))
    student += 100
    student[1] = student[0]
    student[3] = np.nextafter(student[2], np.float32(1e9))
    features, taught = tf.Variable(student), RELATIONS[name]()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(taught([tf.convert_to_tensor(features)], [teacher]))
    gradient = tape.gradient(loss, features)
    assert np.abs(gradient).max() < 1  # NaN is not
