"""Beside label losses: brackets, images without labels, soft targets, exits."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers
from oracles import log_softmax, softmax

from zoo import (
    CompanionHead,
    DecodingHead,
    DeeplySupervised,
    OneVsAllSquaredHinge,
    SoftmaxCrossEntropy,
    nin_dsn,
)

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 1)).astype("float32")
LABELS = RNG.integers(0, 3, 24)
WEIGHTS = RNG.uniform(0, 2, 24).astype("float32")


def deep(companions=("conv1", "conv2"), regularizer=None, **arguments):
    keras.utils.set_random_seed(1)
    x = images = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(5, 3, activation="relu", name="conv1")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv2")(x)
    trunk = keras.Model(images, layers.Dense(3, name="logits")(layers.Flatten(name="flat")(x)))
    heads = {layer: CompanionHead(3, kernel_regularizer=regularizer) for layer in companions}
    return DeeplySupervised(trunk, heads, **arguments)


def compiled(model, rate=0.05, **arguments):
    optimizer = keras.optimizers.SGD(rate)
    arguments = {"loss": SoftmaxCrossEntropy(), "metrics": ["accuracy"], **arguments}
    model.compile(optimizer=optimizer, **arguments)
    return model


def logs_of(model, labels=LABELS, **arguments):
    return model.evaluate(IMAGES, labels, verbose=0, return_dict=True, **arguments)


def cross_entropy(scores, labels=LABELS):
    return -log_softmax(scores)[np.arange(len(labels)), labels]


def hinge(scores, labels=LABELS):
    signs = 2 * np.eye(3)[labels] - 1
    return (np.maximum(0, 1 - signs * np.asarray(scores, "float64")) ** 2).sum(1)


def brackets(model, loss):
    """||w||^2 + l of each companion, without its threshold."""
    scores = model.exits(IMAGES)
    return {
        layer: 0.1 * np.square(head.classifier.kernel.numpy()).sum() + loss(scores[layer]).mean()
        for layer, head in model.companions.items()
    }


def test_equation_3_by_hand():
    model = deep(
        regularizer=keras.regularizers.L2(0.1),
        companion_weight={"conv1": 0.3, "conv2": 0.7},
        companion_loss=OneVsAllSquaredHinge(),
        threshold={"conv2": 1.5},
    )
    logs = logs_of(compiled(model))
    bracket = brackets(model, hinge)
    output = cross_entropy(model.predict(IMAGES, verbose=0)).mean()
    expected = output + 0.3 * bracket["conv1"] + 0.7 * (bracket["conv2"] - 1.5)
    assert bracket["conv2"] > 1.5
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["output_loss"], output, rtol=1e-5)
    assert logs["conv2_gate"] == 1
    assert "conv1_gate" not in logs


def test_a_companion_at_its_threshold_has_neither_value_nor_gradient():
    value = brackets(compiled(deep(regularizer="l2")), cross_entropy)["conv1"]
    results = {}
    for name, threshold, weight in (
        ("just above", value * 0.8, 1.0),
        ("below", value * 1.2, 1.0),
        ("without", value * 1.2, 0.0),
    ):
        model = deep(
            ("conv1",),
            keras.regularizers.L2(0.1),
            companion_weight=weight,
            threshold=threshold,
        )
        compiled(model).fit(IMAGES, LABELS, batch_size=24, verbose=0)
        results[name] = model.get_weights(), logs_of(model)["conv1_gate"]
    for one, other in zip(results["below"][0], results["without"][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert results["below"][1] == 0
    assert results["just above"][1] == 1
    assert np.abs(results["just above"][0][0] - results["without"][0][0]).max() > 1e-5


def test_a_threshold_does_not_change_the_gradient_above_it():
    weights = []
    for threshold in (None, 1e-3):
        model = compiled(deep(threshold=threshold))
        model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_soft_targets_of_the_output_by_hand_and_the_output_learns_nothing_from_them():
    model = compiled(deep(("conv1",), companion_weight=0.5, soft_weight=0.4, temperature=2.0))
    scores = model.exits(IMAGES)
    p, q = softmax(scores["output"] / 2), softmax(scores["conv1"] / 2)
    soft = 4 * (p * np.log(p / q)).sum(1).mean()
    hard = cross_entropy(scores["conv1"]).mean()
    logs = logs_of(model)
    np.testing.assert_allclose(logs["conv1_soft_target_error"], soft, rtol=1e-4)
    np.testing.assert_allclose(logs["conv1_loss"], hard, rtol=1e-4)
    expected = cross_entropy(scores["output"]).mean() + 0.5 * (0.6 * hard + 0.4 * soft)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)

    outputs = []
    for weight in (0.0, 0.9):  # beside a companion loss of weight 0, only soft targets differ
        model = compiled(deep(("conv1",), companion_weight=weight, soft_weight=1.0))
        model.fit(IMAGES, LABELS, batch_size=24, verbose=0)
        outputs.append(model.trunk.get_layer("logits").kernel.numpy())
    np.testing.assert_array_equal(*outputs)


def test_the_synergy_of_all_heads_by_hand():
    model = compiled(deep(companion_weight=0.5, synergy=0.7, temperature=2.0))
    scores = model.exits(IMAGES)
    p = {head: softmax(logits / 2) for head, logits in scores.items()}
    pairs = [
        4 * (p[gives] * np.log(p[gives] / p[learns])).sum(1).mean()
        for gives, learns in itertools.permutations(p, 2)
    ]
    assert len(pairs) == 6
    labels = {head: cross_entropy(logits).mean() for head, logits in scores.items()}
    objective = labels["output"] + 0.5 * (labels["conv1"] + labels["conv2"])
    logs = logs_of(model)
    np.testing.assert_allclose(logs["synergy_loss"], sum(pairs), rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], objective + 0.7 * sum(pairs), rtol=1e-4)


def test_in_the_synergy_a_head_learns_only_from_pairs_in_which_it_learns():
    """A step changes the output's bias by the rate times sum of T (q - p_m) over the others m."""
    model = compiled(deep(companion_weight=0.0, synergy=0.7, temperature=2.0))
    scores = model.exits(IMAGES)
    p = {head: softmax(logits / 2) for head, logits in scores.items()}
    gradient = softmax(scores["output"]) - np.eye(3)[LABELS]
    gradient += 0.7 * sum(2 * (p["output"] - p[other]) for other in ("conv1", "conv2"))
    bias = model.trunk.get_layer("logits").bias
    before = bias.numpy()
    model.fit(IMAGES, LABELS, batch_size=24, verbose=0)
    np.testing.assert_allclose(bias.numpy() - before, -0.05 * gradient.mean(0), rtol=1e-3)


def test_without_synergy_a_model_is_what_it_was():
    assert "synergy" not in deep().get_config()
    again = DeeplySupervised.from_config(deep(synergy=0.3).get_config())
    assert again.synergy == 0.3
    model = compiled(deep(synergy=0.3))
    model.synergy = 0.0  # an assignment holds from the next step on
    np.testing.assert_allclose(logs_of(model)["loss"], logs_of(compiled(deep()))["loss"], rtol=1e-6)
    late = compiled(deep())
    late.synergy = 0.3
    with pytest.raises(ValueError, match="made without what logs synergy_loss"):
        late.fit(IMAGES, LABELS, verbose=0)


def test_the_heads_of_dks_are_small_nets_of_their_own(tmp_path):
    model = nin_dsn((8, 8, 1), 3, width=0.1, companion_form="conv", synergy=1.0, temperature=1.0)
    compiled(model)
    head = model.companions["mlpconv1"]
    moving = [w for w in head.weights if "moving" in w.path]
    before = [w.numpy() for w in moving]
    assert len(moving) == 4
    model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    assert all(np.abs(w.numpy() - old).max() > 0 for w, old in zip(moving, before, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.companions["mlpconv1"].mlpconv is not None
    for layer, expected in model.exits(IMAGES).items():
        np.testing.assert_allclose(again.exits(IMAGES)[layer], expected, atol=1e-5)
    logs = [logs_of(each) for each in (model, again)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def decoded(**arguments):
    decoders = {"conv1": DecodingHead(), "conv2": DecodingHead("conv1")}
    return compiled(deep(decoders=decoders, decoder_weight=0.25, **arguments))


def decoding_errors(model):
    """(24,) of each decoder."""
    trunk = model.trunk
    hidden = keras.Model(trunk.input, [trunk.get_layer(n).output for n in ("conv1", "conv2")])
    one, two = hidden(IMAGES)
    first = model.decoders["conv1"].decode(one) - IMAGES / 255
    second = model.decoders["conv2"].decode(two) - one
    return [np.square(np.asarray(e, "float64")).mean((1, 2, 3)) for e in (first, second)]


def test_decoders_by_hand():
    model = decoded(companion_weight=0.0)
    logs, (one, two) = logs_of(model), decoding_errors(model)
    np.testing.assert_allclose(logs["conv1_decoding_error"], one.mean(), rtol=1e-4)
    np.testing.assert_allclose(logs["conv2_decoding_error"], two.mean(), rtol=1e-4)
    expected = logs["output_loss"] + 0.25 * (one.mean() + two.mean())
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)
    assert model.decoders["conv2"].decode(np.zeros((2, 3, 3, 6))).shape == (2, 6, 6, 5)


def test_the_decoded_map_learns_nothing_from_its_decoder():
    model = compiled(deep((), decoders={"conv2": DecodingHead("conv1")}), loss=_nothing)
    before = model.trunk.get_layer("conv2").kernel.numpy()
    first = keras.Model(model.trunk.input, model.trunk.get_layer("conv1").output)
    # Through conv2 the gradient goes on to conv1: cut there, nothing may be left.
    model.trunk.get_layer("conv2").trainable = False
    model.trunk.get_layer("conv2").kernel.assign(np.zeros_like(before))
    start = first(IMAGES).numpy()
    compiled(model, loss=_nothing).fit(IMAGES, LABELS, verbose=0)
    np.testing.assert_array_equal(first(IMAGES), start)


def _nothing(y_true, y_pred):
    return 0.0 * y_pred[:, 0]


@pytest.mark.parametrize("form", ["negative", "nan", "one-hot"])
def test_images_without_a_label_count_for_decoders_alone(form):
    missing = np.arange(24) % 3 == 1
    if form == "one-hot":
        labels, loss = np.eye(3)[LABELS], keras.losses.CategoricalCrossentropy(from_logits=True)
        labels[missing] = np.nan
    else:
        labels, loss = LABELS.astype("float32"), SoftmaxCrossEntropy()
        labels[missing] = -1 if form == "negative" else np.nan
    model = compiled(decoded(companion_weight=0.5), loss=loss)
    logs = logs_of(model, labels, batch_size=7)
    scores, errors = model.exits(IMAGES), decoding_errors(model)
    losses = {layer: cross_entropy(s) * ~missing for layer, s in scores.items()}
    # Logs are means over labelled images; in the objective an unlabelled one has weight zero.
    for layer, values in losses.items():
        np.testing.assert_allclose(logs[f"{layer}_loss"], values[~missing].mean(), rtol=1e-4)
    right = (scores["output"].argmax(1) == LABELS)[~missing].mean()
    np.testing.assert_allclose(logs["accuracy"], right, rtol=1e-5)
    if form == "one-hot":  # of a metric that is no mean, the weights see to it
        given = {"loss": loss, "weighted_metrics": [keras.metrics.F1Score("micro", name="f1")]}
        found = logs_of(compiled(decoded(companion_weight=0.5), **given), labels)
        np.testing.assert_allclose(found["f1"], right, rtol=1e-5)
    means = {layer: values.mean() for layer, values in losses.items()}
    expected = means["output"] + 0.5 * (means["conv1"] + means["conv2"])
    expected += 0.25 * (errors[0].mean() + errors[1].mean())
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_half_precision_leaves_the_pixels_as_they_are():
    """As a functional model does: what lies between two whole numbers is not rounded."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = nin_dsn((8, 8, 1), 3, width=0.05)
    images = IMAGES + 0.3
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), model.trunk.predict(images, verbose=0)
    )


def test_a_missing_label_weighs_like_a_sample_weight_of_zero():
    labels, weights = LABELS.copy(), WEIGHTS.copy()
    labels[::2], weights[::2] = -1, 0
    models = [compiled(deep(decoders={"conv1": DecodingHead()}, decoder_weight=0.0)) for _ in "ab"]
    models[0].fit(IMAGES, labels, sample_weight=WEIGHTS, shuffle=False, verbose=0)
    models[1].fit(IMAGES, LABELS, sample_weight=weights, shuffle=False, verbose=0)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    assert np.isfinite(models[0].get_weights()[0]).all()


@pytest.mark.parametrize("labels", [None, np.full(24, -1)], ids=["y=None", "all -1"])
def test_without_any_label_decoders_learn_alone(labels):
    model = compiled(deep((), decoders={"conv1": DecodingHead()}), rate=0.5)
    history = model.fit(IMAGES, labels, epochs=5, verbose=0).history["conv1_decoding_error"]
    assert history[-1] < 0.9 * history[0]


def test_exits_are_the_classifiers_of_every_depth():
    model = nin_dsn((8, 8, 1), 3, width=0.1)
    exits = model.exits(IMAGES, batch_size=10)
    assert list(exits) == ["mlpconv1", "mlpconv2", "output"]
    np.testing.assert_allclose(exits["output"], model.predict(IMAGES, verbose=0), atol=1e-5)
    hidden = keras.Model(model.trunk.input, model.trunk.get_layer("mlpconv2").output)
    expected = model.companions["mlpconv2"](hidden(IMAGES))
    np.testing.assert_allclose(exits["mlpconv2"], expected, atol=1e-5)


def test_everything_survives_a_file_and_goes_on_training(tmp_path):
    fade = keras.optimizers.schedules.CosineDecay(0.5, 9)
    model = decoded(
        companion_weight={"conv1": fade, "conv2": 0.2},
        companion_loss=OneVsAllSquaredHinge(),
        threshold=0.05,
        soft_weight=0.2,
        regularizer="l2",
    )
    model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    histories = [
        each.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0).history
        for each in (model, again)
    ]
    assert histories[0].keys() == histories[1].keys()
    for key, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -1.0}, r"threshold of 'conv1' is -1.0"),
        ({"threshold": float("nan")}, "nan"),
        ({"threshold": {"conv3": 1.0}}, "'conv3', which has no companion loss"),
        ({"companions": (), "threshold": 1.0, "decoders": {"conv1": DecodingHead()}}, "threshold"),
        ({"companions": ()}, "neither companions nor decoders"),
        ({"soft_weight": 1.5}, "soft_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"synergy": -1.0}, "synergy is a finite number >= 0; received -1.0"),
        ({"synergy": float("nan")}, "synergy"),
        ({"companions": (), "synergy": 1.0, "decoders": {"conv1": DecodingHead()}}, "no companion"),
        ({"decoders": {"conv_1": DecodingHead()}}, "'conv1'"),
        ({"decoders": {"conv1": DecodingHead("conv9")}}, "no layer 'conv9'"),
        ({"decoders": {"flat": DecodingHead()}}, "expects maps"),
        ({"decoders": {"conv1": DecodingHead()}, "decoder_weight": -1.0}, "decoder_weight"),
    ],
)
def test_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        deep(**arguments)
