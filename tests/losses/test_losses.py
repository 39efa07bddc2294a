import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import exact_divergence, exact_probabilities, log_softmax, softmax

from zoo.losses import (
    MulticlassSquaredHinge,
    OneVsAllSquaredHinge,
    SoftmaxCrossEntropy,
    multiclass_squared_hinge,
    one_vs_all_squared_hinge,
    smoothed_softmax_cross_entropy,
    soft_target_loss,
    softmax_cross_entropy,
)

RNG = np.random.default_rng(0)
CLASSES = 5
SCORES = RNG.normal(0, 2, (7, CLASSES)).astype("float32")
OTHERS = RNG.normal(0, 2, (7, CLASSES)).astype("float32")
LABELS = np.array([0, 4, 2, 2, 1, 3, 0])
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]


def cross_entropy_oracle(labels, scores):
    return np.array([-log_softmax(f)[y] for y, f in zip(labels, scores, strict=True)])


def one_vs_all_oracle(labels, scores):
    losses = []
    for y, f in zip(labels, scores, strict=True):
        losses.append(0.0)
        for k in range(len(f)):
            margin = 1 - f[k] if k == y else 1 + f[k]
            losses[-1] += margin**2 if margin > 0 else 0
    return np.array(losses)


def multiclass_oracle(labels, scores):
    losses = []
    for y, f in zip(labels, scores, strict=True):
        losses.append(0.0)
        for k in set(range(len(f))) - {y}:
            margin = 1 - (f[y] - f[k])
            losses[-1] += margin**2 if margin > 0 else 0
    return np.array(losses)


def soft_target_oracle(student, teacher, temperature):
    losses = []
    for z, v in zip(student, teacher, strict=True):
        log_q, log_p = (log_softmax(np.float64(logits) / temperature) for logits in (z, v))
        losses.append(temperature**2 * sum(np.exp(log_p) * (log_p - log_q)))
    return np.array(losses)


CASES = {
    softmax_cross_entropy: (cross_entropy_oracle, SoftmaxCrossEntropy),
    one_vs_all_squared_hinge: (one_vs_all_oracle, OneVsAllSquaredHinge),
    multiclass_squared_hinge: (multiclass_oracle, MulticlassSquaredHinge),
}
each_loss = pytest.mark.parametrize("loss", CASES, ids=lambda loss: loss.__name__)


def values(tensor):
    assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    return ops.convert_to_numpy(tensor)


def gradient(function, scores):
    """Of the sum over the batch: of each example's loss, for each example."""
    scores = tf.Variable(scores)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(function(scores))
    return tape.gradient(total, scores).numpy()


def central_differences(function, scores, step=1e-5):
    scores = np.float64(scores)
    slopes = np.zeros_like(scores)
    for index in np.ndindex(*scores.shape):
        up, down = scores.copy(), scores.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (function(up).sum() - function(down).sum()) / (2 * step)
    return slopes


@each_loss
@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS[:, None],
        LABELS.astype("uint8"),
        LABELS.astype("float32"),
        ONE_HOT,
        ONE_HOT.astype("int64"),
    ],
    ids=["(batch,)", "(batch, 1)", "uint8", "float32", "one-hot", "int64 one-hot"],
)
def test_a_loss_has_the_numbers_of_its_formula(loss, labels):
    expected = CASES[loss][0](LABELS, SCORES.astype("float64"))
    assert (expected > 0.1).sum() > 3
    got = values(loss(labels, SCORES))
    assert got.shape == (7,)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(tf.function(loss)(labels, SCORES)), expected, rtol=1e-5)


@each_loss
def test_a_loss_has_the_gradient_of_its_formula(loss):
    oracle = CASES[loss][0]
    near_a_kink = np.abs(np.abs(SCORES) - 1).min()
    leads = np.take_along_axis(SCORES, LABELS[:, None], 1) - SCORES
    assert min(near_a_kink, np.abs(leads - 1).min()) > 1e-4
    expected = central_differences(lambda scores: oracle(LABELS, scores), SCORES)
    assert (np.abs(expected) > 0.01).mean() > 0.3
    got = gradient(lambda scores: loss(LABELS, scores), SCORES)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert gradient(lambda scores: loss(ONE_HOT, scores), SCORES) == pytest.approx(got)


def test_the_losses_of_ten_equal_scores():
    labels, zeros = np.arange(10), np.zeros((10, 10), "float32")
    np.testing.assert_allclose(values(softmax_cross_entropy(labels, zeros)), np.log(10), rtol=1e-6)
    np.testing.assert_array_equal(values(one_vs_all_squared_hinge(labels, zeros)), 10)
    np.testing.assert_array_equal(values(multiclass_squared_hinge(labels, zeros)), 9)
    best = values(one_vs_all_squared_hinge(labels, zeros - 0.8))
    np.testing.assert_allclose(best, 3.6, rtol=1e-6)
    for constant in (-0.81, -0.79):
        assert values(one_vs_all_squared_hinge(labels, zeros + constant)).min() > best.max()


@each_loss
def test_right_answers_by_a_margin_cost_nothing_and_wrong_ones_do(loss):
    right, wrong = values(loss([2, 0], np.eye(3, dtype="float32")[[2, 2]] * 60 - 30))
    assert right == 0
    assert wrong == pytest.approx(CASES[loss][0]([0], [[-30, -30, 30]])[0])


def test_cross_entropy_is_that_of_keras():
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    ours = values(softmax_cross_entropy(LABELS, SCORES))
    np.testing.assert_allclose(ours, stock(LABELS, SCORES), rtol=1e-6, atol=1e-6)


def test_cross_entropy_of_probabilities_is_their_mean_over_the_labels():
    rows = RNG.dirichlet(np.ones(CLASSES), 7).astype("float32")
    expected = sum(rows[:, k] * cross_entropy_oracle(np.full(7, k), SCORES) for k in range(CLASSES))
    np.testing.assert_allclose(values(softmax_cross_entropy(rows, SCORES)), expected, rtol=1e-5)


def test_one_vs_all_hinge_is_that_of_keras_summed():
    stock = keras.losses.SquaredHinge(reduction=None)
    ours = values(one_vs_all_squared_hinge(LABELS, SCORES))
    np.testing.assert_allclose(ours, CLASSES * stock(2 * ONE_HOT - 1, SCORES), rtol=1e-6)


@pytest.mark.parametrize("loss", [one_vs_all_squared_hinge, multiclass_squared_hinge])
def test_hinges_take_the_likeliest_class_the_first_of_equals(loss):
    rows = np.float32([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.4, 0.2, 0.4]])
    scores = SCORES[:3, :3]
    np.testing.assert_allclose(loss(rows, scores), CASES[loss][0]([1, 2, 0], scores), rtol=1e-5)


def test_a_number_added_to_all_scores_changes_nothing():
    shifts = RNG.normal(0, 3, (7, 1)).astype("float32")
    for loss in (softmax_cross_entropy, multiclass_squared_hinge):
        np.testing.assert_allclose(loss(LABELS, SCORES + shifts), loss(LABELS, SCORES), rtol=1e-4)
    before = soft_target_loss(SCORES, OTHERS, 2.0)
    np.testing.assert_allclose(soft_target_loss(SCORES + shifts, OTHERS, 2.0), before, rtol=1e-4)
    np.testing.assert_allclose(soft_target_loss(SCORES, OTHERS - shifts, 2.0), before, rtol=1e-4)
    hinge = one_vs_all_squared_hinge(LABELS, SCORES)
    assert np.abs(one_vs_all_squared_hinge(LABELS, SCORES + shifts) - hinge).max() > 1


@each_loss
def test_a_label_that_is_no_class_makes_nan_of_its_example_alone(loss):
    got = values(loss([0, CLASSES, -1, 1], SCORES[:4]))
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, False])


@each_loss
def test_half_precision_scores_are_reckoned_in_float32(loss):
    scores = SCORES * np.float32([1e-3, 1, 1, 1, 1, 1, 10])[:, None]
    for half in ("bfloat16", "float16"):
        rounded = ops.cast(scores, half)
        exact = np.float64(ops.convert_to_numpy(ops.cast(rounded, "float32")))
        expected = CASES[loss][0](LABELS, exact)
        np.testing.assert_allclose(values(loss(LABELS, rounded)), expected, rtol=1e-5, atol=1e-6)


@each_loss
def test_scores_of_ten_thousand_do_not_overflow(loss):
    scores = np.float32([[1e4, -1e4, 0], [-1e4, 1e4, 0]])
    oracle = CASES[loss][0]
    np.testing.assert_allclose(values(loss([0, 0], scores)), oracle([0, 0], scores), rtol=1e-6)
    slopes = central_differences(lambda scores: oracle([0, 0], scores), scores)
    got = gradient(lambda scores: loss([0, 0], scores), scores)
    np.testing.assert_allclose(got, slopes, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0, 8.0])
def test_soft_targets_have_the_numbers_and_the_gradient_of_the_formula(temperature):
    expected = soft_target_oracle(SCORES, OTHERS, temperature)
    got = values(soft_target_loss(SCORES, OTHERS, temperature))
    assert got.shape == (7,)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    slopes = gradient(lambda scores: soft_target_loss(scores, OTHERS, temperature), SCORES)
    differences = central_differences(
        lambda scores: soft_target_oracle(scores, OTHERS, temperature), SCORES
    )
    np.testing.assert_allclose(slopes, differences, rtol=1e-4, atol=1e-5)
    p, q = (softmax(logits / temperature) for logits in (OTHERS, SCORES))
    np.testing.assert_allclose(slopes, temperature * (q - p), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_targets_have_the_gradient_of_pytorch(temperature):
    torch = pytest.importorskip("torch")
    student = torch.tensor(SCORES, requires_grad=True)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    p = torch.softmax(torch.tensor(OTHERS) / temperature, dim=-1)
    loss = torch.nn.functional.kl_div(log_q, p, reduction="sum") * temperature**2
    loss.backward()
    got = gradient(lambda scores: soft_target_loss(scores, OTHERS, temperature), SCORES)
    np.testing.assert_allclose(got, student.grad.numpy(), rtol=1e-4, atol=1e-5)
    total = values(soft_target_loss(SCORES, OTHERS, temperature)).sum()
    np.testing.assert_allclose(total, loss.item(), rtol=1e-4)


def test_soft_targets_that_are_met_cost_and_teach_nothing():
    np.testing.assert_array_equal(values(soft_target_loss(SCORES, SCORES, 3.0)), 0)
    slopes = gradient(lambda scores: soft_target_loss(scores, SCORES, 3.0), SCORES)
    np.testing.assert_allclose(slopes, 0, atol=1e-6)


def test_soft_targets_do_not_teach_the_teacher():
    student, teacher = tf.Variable(SCORES), tf.Variable(OTHERS)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(soft_target_loss(student, teacher, 2.0))
    assert tape.gradient(total, teacher) is None


def test_soft_targets_at_high_temperature_are_a_regression_of_the_logits():
    z, v = (logits - logits.mean(1, keepdims=True) for logits in (SCORES, OTHERS))
    slopes = gradient(lambda scores: soft_target_loss(scores, v, 500.0), z)
    np.testing.assert_allclose(slopes, (z - v) / CLASSES, rtol=0.02, atol=5e-3)


@pytest.mark.parametrize("offset", [0, 30])
@pytest.mark.parametrize("temperature", [1e-2, 1.0, 4.0, 20.0, 1e4, 1e6, 1e8])
def test_soft_targets_keep_their_digits_at_every_temperature(temperature, offset):
    """At 1e6, log p - log q has lost all of them: -68,542 instead of 22.9."""
    student, teacher = SCORES + np.float32(offset), OTHERS
    q, p = (
        [exact_probabilities(logits, temperature) for logits in both] for both in (student, teacher)
    )
    expected = [exact_divergence(*pair, temperature) for pair in zip(q, p, strict=True)]
    got = values(soft_target_loss(student, teacher, temperature))
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    slopes = gradient(lambda scores: soft_target_loss(scores, teacher, temperature), student)
    exact = np.float64(
        [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(q, p, strict=True)]
    )
    np.testing.assert_allclose(slopes, temperature * exact, rtol=1e-5, atol=2e-6)
    if temperature >= 1e4:
        z, v = (np.float64(x) - np.float64(x).mean(1, keepdims=True) for x in (student, teacher))
        np.testing.assert_allclose(slopes, (z - v) / CLASSES, rtol=1e-3, atol=1e-4)


def test_soft_targets_take_classes_that_are_masked_with_large_numbers():
    """A class with the logit -1e9 on either side leaves the other classes as they are."""
    columns = np.float32([[-1e9]] * len(SCORES))
    student, teacher = (np.hstack([logits, columns]) for logits in (SCORES, OTHERS))
    expected = soft_target_oracle(SCORES, OTHERS, 4.0)
    np.testing.assert_allclose(soft_target_loss(student, teacher, 4.0), expected, rtol=1e-5)
    other = np.hstack([OTHERS, columns * 2])
    np.testing.assert_allclose(soft_target_loss(student, other, 4.0), expected, rtol=1e-5)


def test_soft_targets_of_half_precision_and_large_logits():
    half = [ops.cast(logits, "bfloat16") for logits in (SCORES, OTHERS)]
    exact = [np.float64(ops.convert_to_numpy(ops.cast(logits, "float32"))) for logits in half]
    expected = soft_target_oracle(*exact, 2.0)
    np.testing.assert_allclose(values(soft_target_loss(*half, 2.0)), expected, rtol=1e-4)
    large = np.float32([[1e4, -1e4, 0]])
    got = values(soft_target_loss(large, -large, 1.0))
    np.testing.assert_allclose(got, 2e4)
    np.testing.assert_allclose(
        gradient(lambda scores: soft_target_loss(scores, -large, 1.0), large), [[1, -1, 0]]
    )


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, np.newaxis], ONE_HOT], ids=["n", "n1", "nk"])
def test_label_smoothing_is_a_uniform_teacher(labels):
    """(1 - w) L(q, p) + w L(u, p): L(u, p) is the divergence of soft targets plus u's entropy."""
    w = 0.3
    got = values(smoothed_softmax_cross_entropy(labels, SCORES, w))
    log_p = log_softmax(SCORES)
    hard = cross_entropy_oracle(LABELS, SCORES)
    np.testing.assert_allclose(got, (1 - w) * hard - w * log_p.mean(1), rtol=1e-5)
    uniform = np.zeros_like(SCORES)
    taught = values(soft_target_loss(SCORES, uniform, 1.0)) + np.log(CLASSES)
    mixed = (1 - w) * values(softmax_cross_entropy(labels, SCORES)) + w * taught
    np.testing.assert_allclose(got, mixed, rtol=1e-5)
    keras_own = keras.losses.categorical_crossentropy(
        ONE_HOT, SCORES, from_logits=True, label_smoothing=w
    )
    np.testing.assert_allclose(got, values(keras_own), rtol=1e-5)


def test_without_smoothing_it_is_cross_entropy_and_all_of_it_knows_no_label():
    none = values(smoothed_softmax_cross_entropy(LABELS, SCORES, 0))
    np.testing.assert_array_equal(none, values(softmax_cross_entropy(LABELS, SCORES)))
    one, other = (
        values(smoothed_softmax_cross_entropy(y, SCORES, 1)) for y in (LABELS, LABELS[::-1])
    )
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_smoothing_is_kept_in_the_config_of_the_class():
    loss = SoftmaxCrossEntropy(smoothing=0.2)
    again = SoftmaxCrossEntropy.from_config(loss.get_config())
    expected = values(smoothed_softmax_cross_entropy(LABELS, SCORES, 0.2)).mean()
    np.testing.assert_allclose(values(again(LABELS, SCORES)), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"share in 0\.\.1; received"):
        smoothed_softmax_cross_entropy(LABELS, SCORES, smoothing)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_soft_targets_refuse_a_temperature(temperature):
    with pytest.raises(ValueError, match=f"number > 0; received {temperature}"):
        soft_target_loss(SCORES, OTHERS, temperature)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((7, 5), (7, 4), r"\(7, 5\), the teacher's of \(7, 4\)"),
        ((7, 5), (1, 5), r"\(7, 5\), the teacher's of \(1, 5\)"),
        ((7, 5), (5,), r"\(7, 5\), the teacher's of \(5,\)"),
        ((7, 1), (7, 1), r"\(7, 1\), the teacher's of \(7, 1\)"),
    ],
)
def test_soft_targets_refuse_shapes(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        soft_target_loss(np.zeros(student, "float32"), np.zeros(teacher, "float32"), 2.0)


@each_loss
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ((7, 4), (7, 5), r"Labels of shape \(7, 4\) do not fit scores of shape \(7, 5\)"),
        ((), (7, 5), r"Labels of shape \(\)"),
        ((7, 5, 1), (7, 5), r"Labels of shape \(7, 5, 1\)"),
        ((1,), (7, 5), r"Labels of shape \(1,\)"),
        ((1, 5), (7, 5), r"Labels of shape \(1, 5\)"),
        ((7,), (7,), r"Scores are \(batch, classes\).*received \(7,\)"),
        ((7,), (7, 1), r"two classes or more; received \(7, 1\)"),
        ((7,), (7, 2, 5), r"received \(7, 2, 5\)"),
    ],
)
def test_a_loss_refuses_shapes(loss, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        loss(np.zeros(labels, "int32"), np.zeros(scores, "float32"))


@each_loss
def test_a_batch_of_unknown_size_is_taken_and_classes_of_unknown_number_are_not(loss):
    expected = loss(LABELS, SCORES)
    for shape, labels in {(None,): LABELS, (None, 1): LABELS[:, None]}.items():
        signature = [tf.TensorSpec(shape, "int64"), tf.TensorSpec((None, CLASSES))]
        got = tf.function(loss, signature)(labels, SCORES)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    unknown = [tf.TensorSpec((None, None)), tf.TensorSpec((None, CLASSES))]
    with pytest.raises(ValueError, match=r"Labels of shape \(None, None\)"):
        tf.function(loss, unknown).get_concrete_function()


@each_loss
def test_the_class_reduces_and_weighs_what_the_function_gives(loss):
    oracle, Loss = CASES[loss]
    each = oracle(LABELS, np.float64(SCORES))
    weights = np.float32([0, 1, 2, 0.5, 1, 0, 3])
    assert Loss().name == loss.__name__
    np.testing.assert_allclose(Loss()(LABELS, SCORES), each.mean(), rtol=1e-5)
    np.testing.assert_allclose(Loss()(ONE_HOT, SCORES, weights), (each * weights).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        Loss(reduction=None)(LABELS[:, None], SCORES, weights), each * weights, rtol=1e-5, atol=1e-6
    )
    copy = Loss.from_config(Loss(reduction="sum", name="other").get_config())
    assert copy.name == "other"
    np.testing.assert_allclose(copy(LABELS, SCORES), each.sum(), rtol=1e-5)


@each_loss
def test_a_compiled_model_keeps_its_loss_in_a_file(loss, tmp_path):
    oracle, Loss = CASES[loss]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(CLASSES)])
    model.compile(optimizer="sgd", loss=Loss())
    images, weights = RNG.normal(size=(7, 3)).astype("float32"), np.arange(7)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.name == loss.__name__
    logits = np.float64(loaded.predict(images, verbose=0))
    expected = (oracle(LABELS, logits) * weights).mean()
    got = loaded.evaluate(images, LABELS, sample_weight=weights, batch_size=7, verbose=0)
    assert got == pytest.approx(expected, rel=1e-4)
    first = loaded.evaluate(images, LABELS, verbose=0)
    loaded.fit(images, LABELS, epochs=3, verbose=0)
    assert loaded.evaluate(images, LABELS, verbose=0) < first
