"""Methods of other papers: each value and gradient against the authors' formula in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from oracles import log_softmax, softmax

import zoo
from zoo.objectives import knowledge

pytestmark = pytest.mark.eager

LABELS = np.array([0, 1, 2, 1])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(vectors, axis=-1):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=axis, keepdims=True), 1e-12)


def averaged(maps, height, width):
    """Adaptive average pooling, window by window: (batch, h, w, c) -> (batch, height, width, c)."""
    windows = np.empty((len(maps), height, width, maps.shape[-1]))
    for i in range(height):
        rows = slice(i * maps.shape[1] // height, -(-(i + 1) * maps.shape[1] // height))
        for j in range(width):
            columns = slice(j * maps.shape[2] // width, -(-(j + 1) * maps.shape[2] // width))
            windows[:, i, j] = maps[:, rows, columns].mean((1, 2))
    return windows


def of_one_size(one, other):
    size = np.minimum(one.shape[1:3], other.shape[1:3])
    return averaged(one, *size), averaged(other, *size)


def divergence(student, teacher, temperature):
    logs = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)


# The formulas: lists of features of student and teacher -> one number, as the authors' code
# returns. The weights of connectors come after the features.


def standardized(student, teacher):
    def of(z):
        return (z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=1, keepdims=True) + 1e-7)

    return divergence(of(student[0]), of(teacher[0]), 2.0).mean()


def dist(student, teacher):
    def pearson(one, other):
        one, other = (x - x.mean(1, keepdims=True) for x in (one, other))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return ((one * other).sum(1) / (lengths + 1e-8)).mean()

    p, q = softmax(student[0] / 1.5), softmax(teacher[0] / 1.5)
    return 1.5**2 * (2 * (1 - pearson(p, q)) + 3 * (1 - pearson(p.T, q.T)))


def multi_level(student, teacher):
    total = 0.0
    for temperature in (2.0, 5.0):
        p, q = softmax(student[0] / temperature), softmax(teacher[0] / temperature)
        total += divergence(student[0], teacher[0], temperature).mean()
        total += ((p @ p.T - q @ q.T) ** 2).sum() / len(p)
        total += ((p.T @ p - q.T @ q) ** 2).sum() / p.shape[1]
    return total


def attention(student, teacher):
    pair = of_one_size(student[0], teacher[0])
    one, other = (unit((each**2).mean(-1).reshape(len(each), -1)) for each in pair)
    return ((one - other) ** 2).mean()


def flow(student, teacher):
    def matrix(maps):
        first, second = of_one_size(*maps)
        places = first.shape[1] * first.shape[2]
        return np.einsum("bhwc,bhwd->bcd", first, second) / places

    return ((matrix(student) - matrix(teacher)) ** 2).mean()


def neuron_selectivity(student, teacher):
    pair = of_one_size(student[0], teacher[0])
    s, t = (unit(each.reshape(len(each), -1, each.shape[-1]), axis=1) for each in pair)

    def kernel(one, other):
        return (np.einsum("bpc,bpd->bcd", one, other) ** 2).mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def class_attention(student, teacher, normalize=True):
    small = [averaged(each, 2, 2) for each in (student[0], teacher[0])]
    if normalize:
        small = [each / np.linalg.norm(each, axis=(1, 2), keepdims=True) for each in small]
    return ((small[0] - small[1]) ** 2).mean()


def class_attention_as_it_is(student, teacher):
    return class_attention(student, teacher, normalize=False)


def scale_decoupled(student, teacher):
    def windows(maps):
        largest = averaged(maps, 4, 4)
        scales = (averaged(largest, n, n).reshape(len(maps), n * n, -1) for n in (1, 2, 4))
        return np.concatenate(list(scales), axis=1)

    s, t = windows(student[0]), windows(teacher[0])
    right = t.argmax(-1) == LABELS[:, None]
    weight = np.where(right == right[:, :1], 1, 2)
    assert 0 < (weight == 2).sum() < weight.size - len(LABELS)
    return (weight * divergence(s, t, 4.0)).sum() / (len(LABELS) * 21)


def probabilistic(student, teacher):
    def probabilities(features):
        flat = unit(features.reshape(len(features), -1))
        similarity = (flat @ flat.T + 1) / 2
        return similarity / similarity.sum(1, keepdims=True)

    s, t = probabilities(student[0]), probabilities(teacher[0])
    return (t * np.log((t + 1e-7) / (s + 1e-7))).mean()


def correlation(student, teacher, student_kernel, student_bias, teacher_kernel, teacher_bias):
    one = student[0].reshape(len(student[0]), -1) @ student_kernel + student_bias
    other = teacher[0].reshape(len(teacher[0]), -1) @ teacher_kernel + teacher_bias
    error = np.abs(one - other)
    return (error[:-1] * error[1:]).sum(1).mean()


def variational(student, teacher, *weights):
    """Three convolutions without bias, and one scale for each channel of the teacher."""
    (scale,) = (each for each in weights if each.ndim == 1)
    mean, target = of_one_size(student[0], teacher[0])
    kernels = [each[0, 0] for each in weights if each.ndim == 4]
    mean = np.maximum(np.maximum(mean @ kernels[0], 0) @ kernels[1], 0) @ kernels[2]
    variance = np.log1p(np.exp(scale)) + 1e-5
    return (0.5 * ((mean - target) ** 2 / variance + np.log(variance))).mean()


def map_regression(student, teacher):
    size = [min(pair) for pair in zip(student[0].shape[1:3], teacher[0].shape[1:3], strict=True)]
    one, other = (averaged(each, *size) for each in (student[0], teacher[0]))
    return ((one - other) ** 2).mean()


def projected(student, teacher, kernel):
    """OurDistillationLoss.forward_loss of the authors' code for ImageNet."""

    def pooled(features):
        return features.reshape(len(features), -1, features.shape[-1]).mean(1)

    own, target = pooled(student[0]) @ kernel, pooled(teacher[0])
    own, target = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-4) for x in (own, target))
    return np.log((np.abs(own - target) ** 4).sum() + 1e-5)


# name: (the object, its formula, shapes of the student's and the teacher's features)
TWO = (["a", "b"], ["c", "d"])
LOGITS, MAPS = [(4, 5)], [(4, 4, 4, 3)]
CASES = {
    "standardized": (
        lambda: knowledge.SoftTargets(2.0, standardize=True),
        standardized,
        LOGITS,
        LOGITS,
    ),
    "dist": (lambda: knowledge.RelationalMatching(1.5, 2.0, 3.0), dist, LOGITS, LOGITS),
    "multi_level": (lambda: knowledge.MultiLevelLogits((2.0, 5.0)), multi_level, LOGITS, LOGITS),
    "attention, x 2": (
        lambda: knowledge.AttentionTransfer("a", "b"),
        attention,
        [(3, 8, 8, 2)],
        [(3, 4, 4, 5)],
    ),
    "attention, x 1.5": (
        lambda: knowledge.AttentionTransfer("a", "b"),
        attention,
        MAPS,
        [(4, 6, 6, 2)],
    ),
    "attention, 16 x 8": (
        lambda: knowledge.AttentionTransfer("a", "b"),
        attention,
        [(2, 16, 8, 2)],
        [(2, 8, 8, 3)],
    ),
    "flow, x 2": (
        lambda: knowledge.Flow(*TWO),
        flow,
        [(2, 4, 8, 3), (2, 4, 4, 2)],
        [(2, 3, 3, 3), (2, 6, 6, 2)],
    ),
    "selectivity": (
        lambda: knowledge.NeuronSelectivityTransfer("a", "b"),
        neuron_selectivity,
        MAPS,
        [(4, 2, 3, 5)],
    ),
    "class attention": (
        lambda: knowledge.ClassAttentionTransfer("a", "b"),
        class_attention,
        MAPS,
        [(4, 3, 5, 3)],
    ),
    "class attention as it is": (
        lambda: knowledge.ClassAttentionTransfer("a", "b", normalize=False),
        class_attention_as_it_is,
        MAPS,
        [(4, 3, 5, 3)],
    ),
    "scale decoupled": (
        lambda: knowledge.ScaleDecoupledSoftTargets("a", "b"),
        scale_decoupled,
        [(4, 6, 5, 3)],
        [(4, 4, 4, 3)],
    ),
    "probabilistic": (
        lambda: knowledge.ProbabilisticTransfer("a", "b"),
        probabilistic,
        [(4, 3)],
        [(4, 2, 1, 3)],
    ),
    "correlation": (
        lambda: knowledge.CorrelationCongruence("a", "b", units=3),
        correlation,
        [(4, 2, 2, 1)],
        [(4, 5)],
    ),
    "maps, x 1.5": (
        lambda: knowledge.MapRegression("a", "b"),
        map_regression,
        MAPS,
        [(4, 6, 6, 3)],
    ),
    "projected": (
        lambda: knowledge.ProjectedFeatures("a", "b"),
        projected,
        [(4, 2, 3, 3)],
        [(4, 2)],
    ),
    "variational": (
        lambda: knowledge.VariationalInformation("a", "b"),
        variational,
        MAPS,
        [(4, 2, 2, 2)],
    ),
}


def drawn(rng, shapes, scale=2.0):
    return [scale * rng.normal(size=shape).astype("float32") for shape in shapes]


def built(make, student, teacher, rng):
    """An object whose connectors have random weights, so that no part of them is near 0."""
    taught = make()
    taught(student, teacher, labels=labels_for(taught, student))
    for variable in taught.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(rng.normal(size=variable.shape))
    return taught


def labels_for(taught, student):
    return np.resize(LABELS, len(student[0])) if taught.needs_labels else None


def value_and_gradients(taught, student, teacher):
    """The mean over the batch, and its gradients for features and weights, in float64."""
    features = [tf.Variable(each) for each in student]
    variables = [*features, *(each.value for each in taught.trainable_variables)]
    with tf.GradientTape() as tape:
        tensors = [tf.convert_to_tensor(each) for each in features]
        loss = taught(tensors, teacher, labels=labels_for(taught, student))
        assert loss.shape == (len(student[0]),)
        assert loss.dtype == tf.float32
        loss = tf.reduce_mean(loss)
    return float(loss), [np.float64(each) for each in tape.gradient(loss, variables)]


def numeric_gradients(function, arrays, step=1e-5):
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept, ends = array[index], []
            for sign in (1, -1):
                array[index] = kept + sign * step
                ends.append(function())
            array[index] = kept
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_formula(name, rng):
    make, formula, student, teacher = CASES[name]
    student, teacher = drawn(rng, student), drawn(rng, teacher)
    taught = built(make, student, teacher, rng)
    value, gradients = value_and_gradients(taught, student, teacher)

    arrays = [np.float64(each) for each in (*student, *taught.trainable_variables)]
    targets = [np.float64(each) for each in teacher]
    count = len(student)

    def expected():
        return formula(arrays[:count], targets, *arrays[count:])

    np.testing.assert_allclose(value, expected(), rtol=1e-5)
    for found, numeric in zip(gradients, numeric_gradients(expected, arrays), strict=True):
        scale = np.abs(numeric).max()
        assert scale > 0
        np.testing.assert_allclose(found / scale, numeric / scale, atol=2e-5)


@pytest.mark.parametrize("alike", ["zeros", "equal examples", "one example"])
@pytest.mark.parametrize("name", [*CASES, "review"])
def test_values_and_gradients_are_numbers_where_features_coincide(name, alike, rng):
    make, _, student, teacher = CASES.get(name) or REVIEW
    student, teacher = drawn(rng, student), drawn(rng, teacher)
    taught = built(make, student, teacher, rng)
    if alike == "zeros":
        student = [np.zeros_like(each) for each in student]
    elif alike == "equal examples":
        student = [np.repeat(each[:1], len(each), axis=0) for each in student]
        teacher = [np.repeat(each[:1], len(each), axis=0) for each in teacher]
    else:
        student, teacher = [s[:1] for s in student], [t[:1] for t in teacher]
    value, gradients = value_and_gradients(taught, student, teacher)
    assert np.isfinite(value)
    for gradient in gradients:
        # NaN is not. Each batch normalization of equal values divides by the root of 1e-5.
        assert np.abs(gradient).max() < (1e7 if name == "review" else 1e3)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"correlation", "projected", "variational"}))
def test_what_is_known_already_teaches_nothing(name, rng):
    make, _, shapes, _ = CASES[name]
    given = drawn(rng, shapes)
    value, gradients = value_and_gradients(make(), given, given)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_projected_features_that_are_known_already_have_the_least_loss(rng):
    (given,) = drawn(rng, [(4, 3)])
    taught = knowledge.ProjectedFeatures("a", "b")
    taught([given], [given])
    taught.set_weights([np.eye(3)])
    value, gradients = value_and_gradients(taught, [given], [7 * given + 2])
    np.testing.assert_allclose(value, np.log(1e-5), atol=1e-3)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-3)
    other = [given[::-1].copy()]
    assert value_and_gradients(taught, other, [given])[0] > 0


def test_the_variance_of_known_maps_begins_at_5_and_falls(rng):
    given = [np.abs(each) for each in drawn(rng, MAPS)]
    taught = knowledge.VariationalInformation("a", "b")
    taught(given, given)
    for variable in taught.trainable_variables:
        if len(variable.shape) == 4:
            variable.assign(np.eye(3)[None, None])
    value, gradients = value_and_gradients(taught, given, given)
    np.testing.assert_allclose(value, np.log(5) / 2, rtol=1e-5)
    (of_variance,) = (each for each in gradients if each.ndim == 1)
    assert (of_variance > 0).all()


def test_soft_targets_are_those_of_the_losses(rng):
    student, teacher = drawn(rng, [*LOGITS, *LOGITS])
    found = knowledge.SoftTargets(3.0)([student], [teacher])
    np.testing.assert_array_equal(found, zoo.soft_target_loss(student, teacher, 3.0))


def test_standardized_logits_do_not_depend_on_shift_and_scale(rng):
    student, teacher = drawn(rng, [*LOGITS, *LOGITS])
    taught = knowledge.SoftTargets(2.0, standardize=True)
    found = taught([3 * student - 7], [0.1 * teacher + 2])
    np.testing.assert_allclose(found, taught([student], [teacher]), rtol=1e-4)


# Knowledge review, whose normalization takes the statistics of the batch.

REVIEW = (
    lambda: knowledge.KnowledgeReview(list("abc"), list("abc")),
    None,
    [(3, 6, 6, 2), (3, 3, 3, 3), (3, 4)],
    [(3, 8, 8, 3), (3, 4, 4, 2), (3, 5)],
)


def convolved(maps, kernel):
    """The convolution with zeros around, so that the size stays."""
    margin = kernel.shape[0] // 2
    padded = np.pad(maps, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    height, width = maps.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def normalized(maps):
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
    return (maps - mean) / np.sqrt(variance + 1e-5)


def nearest(maps, size):
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, maps.shape[1:3], strict=True))
    return maps[:, rows][:, :, columns]


def review(student, teacher, taught):
    student, teacher = (
        [each if each.ndim == 4 else each[:, None, None] for each in side]
        for side in (student, teacher)
    )
    later, total = None, 0.0
    for level in (2, 1, 0):
        own, target = student[level], teacher[level]
        fused = normalized(convolved(own, taught.narrow[level].kernel.numpy()))
        if later is not None:
            later = nearest(later, own.shape[1:3])
            share = taught.shares[level]
            both = np.concatenate([fused, later], axis=-1)
            z = 1 / (1 + np.exp(-(convolved(both, share.kernel.numpy()) + share.bias.numpy())))
            fused = fused * z[..., :1] + later * z[..., 1:]
        later = nearest(fused, target.shape[1:3])
        found = normalized(convolved(later, taught.widen[level].kernel.numpy()))
        losses, weights = [((found - target) ** 2).mean()], [1.0]
        for size in (4, 2, 1):
            if size < target.shape[1]:
                one, other = averaged(found, size, size), averaged(target, size, size)
                losses.append(((one - other) ** 2).mean())
                weights.append(weights[-1] / 2)
        total += np.dot(losses, weights) / sum(weights)
    return total


def test_knowledge_review_is_the_formula(rng):
    make, _, student, teacher = REVIEW
    student, teacher = drawn(rng, student), drawn(rng, teacher)
    taught = built(make, student, teacher, rng)
    value, gradients = value_and_gradients(taught, student, teacher)
    exact, targets = [np.float64(each) for each in student], [np.float64(each) for each in teacher]
    np.testing.assert_allclose(value, review(exact, targets, taught), rtol=1e-5)
    numeric = numeric_gradients(lambda: review(exact, targets, taught), exact[1:])
    for found, expected in zip(gradients[1:3], numeric, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


# In a Distiller.


def net(width, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(width, 3, activation="relu", name="early")(inputs)
    x = layers.MaxPooling2D(2, name="late")(x)
    x = layers.Conv2D(3, 1, name="class_maps")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="logits")(x))


def test_a_distiller_learns_is_saved_and_goes_on(rng, tmp_path):
    images, labels = rng.normal(size=(8, 6, 6, 1)).astype("float32"), np.arange(8) % 3
    teacher, layers_of = net(4, 1), ["early", "late"]
    lessons = [
        knowledge.CorrelationCongruence("late", "late", units=3),
        knowledge.VariationalInformation(layers_of, layers_of),
        knowledge.KnowledgeReview(layers_of, layers_of),
        knowledge.ScaleDecoupledSoftTargets("class_maps", "class_maps"),
    ]
    distiller = zoo.Distiller(student=net(2, 0), teacher=teacher, knowledge=lessons)
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    connectors = [each for lesson in lessons for each in lesson.trainable_variables]
    before = [np.array(each) for each in connectors]
    distiller.fit(images, labels, batch_size=4, epochs=1, verbose=0)
    for old, new in zip(before, connectors, strict=True):
        assert np.abs(old - np.array(new)).max() > 0, new.path
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.learn_from(teacher)
    for one, other in zip(lessons, again.knowledge, strict=True):
        for pair in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(*pair)
    logs = [each.train_on_batch(images, labels, return_dict=True) for each in (distiller, again)]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3 + len(lessons)  # the loss, and those of labels and soft targets


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: knowledge.SoftTargets(0), "temperature"),
        (lambda: knowledge.SoftTargets(student=["a", "b"], teacher=["a", "b"]), "one layer"),
        (lambda: knowledge.RelationalMatching(float("nan")), "temperature"),
        (lambda: knowledge.RelationalMatching(inter_weight=-1), "inter_weight .* is -1"),
        (lambda: knowledge.RelationalMatching(intra_weight=float("inf")), "intra_weight .* inf"),
        (lambda: knowledge.MultiLevelLogits(()), "one temperature or more"),
        (lambda: knowledge.MultiLevelLogits((4, -1)), "temperature"),
        (lambda: knowledge.ClassAttentionTransfer("a", "b", size=0), "size .* is 0"),
        (lambda: knowledge.ClassAttentionTransfer("a", "b", size=2.5), "size .* is 2.5"),
        (lambda: knowledge.ScaleDecoupledSoftTargets("a", "b", scales=(2, 4)), "begin with 1"),
        (lambda: knowledge.ScaleDecoupledSoftTargets("a", "b", scales=()), "begin with 1"),
        (lambda: knowledge.ScaleDecoupledSoftTargets("a", "b", scales=(1, 0)), "scale .* is 0"),
        (lambda: knowledge.ScaleDecoupledSoftTargets("a", "b", temperature=0), "temperature"),
        (lambda: knowledge.CorrelationCongruence("a", "b", units=0), "units .* is 0"),
        (lambda: knowledge.KnowledgeReview("a", "b"), "two or more"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "student", "teacher", "message"),
    [
        (lambda: knowledge.SoftTargets(), (3,), (4,), "of the same classes"),
        (lambda: knowledge.NeuronSelectivityTransfer("a", "b"), (3,), (3,), "two maps"),
        (lambda: knowledge.ClassAttentionTransfer("a", "b"), (4, 4, 3), (4, 4, 2), "each class"),
        (lambda: knowledge.ScaleDecoupledSoftTargets("a", "b"), (4, 4, 3), (3,), "two maps"),
        (lambda: knowledge.CorrelationCongruence("a", "b"), (None, 4, 3), (3,), "known sizes"),
        (
            lambda: knowledge.KnowledgeReview(["a", "b"], ["c", "d"]),
            (4, None, 3),
            (4, 4, 3),
            "known sizes",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(make, student, teacher, message):
    taught = make()
    count = len(taught.student_layers)
    shapes = ([keras.KerasTensor((None, *shape))] * count for shape in (student, teacher))
    with pytest.raises(ValueError, match=message):
        taught(*shapes)
