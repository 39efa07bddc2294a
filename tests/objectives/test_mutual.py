"""Deep mutual learning: nets that teach one another."""

import ast
import contextlib
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from oracles import log_softmax, softmax

import zoo
from zoo import MutualLearning, SoftmaxCrossEntropy

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
EXAMPLES = RNG.normal(size=(12, 5)).astype("float32")
LABELS = RNG.integers(0, 3, 12)
WEIGHTS = RNG.uniform(0, 2, 12).astype("float32")


def peer(seed, units=4, last=None, regularizer=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    hidden = layers.Dense(units, "tanh", kernel_regularizer=regularizer)(inputs)
    return keras.Model(inputs, layers.Dense(3, last)(hidden), name=f"peer_{seed}")


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1), SoftmaxCrossEntropy(), metrics=["accuracy"])
    return model


def logs_of(model, **arguments):
    return compiled(model).evaluate(EXAMPLES, LABELS, verbose=0, return_dict=True, **arguments)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("count", [2, 3])
def test_equation_10_by_hand(count, weights):
    peers = [peer(seed, units=3 + seed) for seed in range(count)]
    model = MutualLearning(peers, temperature=2.0, weight=0.7)
    logits = [each.predict(EXAMPLES, verbose=0) for each in peers]
    w = np.ones(12) if weights is None else weights
    labels = [-(w * log_softmax(z)[np.arange(12), LABELS]).mean() for z in logits]
    taught = 0.0
    for k, z in enumerate(logits):
        q = softmax(z / 2)
        others = [softmax(other / 2) for index, other in enumerate(logits) if index != k]
        taught += sum(4 * (w * (p * np.log(p / q)).sum(1)).mean() for p in others) / (count - 1)
    logs = logs_of(model, sample_weight=weights)
    np.testing.assert_allclose(logs["loss"], sum(labels) + 0.7 * taught, rtol=1e-4)
    np.testing.assert_allclose(logs["mutual_loss"], taught, rtol=1e-4)
    for number, label in enumerate(labels, 1):
        np.testing.assert_allclose(logs[f"peer{number}_loss"], label, rtol=1e-4)
    assert logs["accuracy"] == pytest.approx((logits[0].argmax(1) == LABELS).mean())


def test_with_weight_0_each_peer_is_trained_alone():
    model = compiled(MutualLearning([peer(1), peer(2, regularizer="l2")], weight=0.0))
    model.fit(EXAMPLES, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for together, alone in zip(model.peers, (peer(1), peer(2, regularizer="l2")), strict=True):
        compiled(alone)
        alone.fit(EXAMPLES, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
        for one, other in zip(together.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_peer_learns_from_the_other_and_not_from_what_it_teaches():
    model = compiled(MutualLearning([peer(1), peer(2)], weight=0.7, temperature=2.0))
    one, two = (each.predict(EXAMPLES, verbose=0) for each in model.peers)
    gradient = softmax(one) - np.eye(3)[LABELS] + 0.7 * 2 * (softmax(one / 2) - softmax(two / 2))
    bias = model.peers[0].layers[-1].bias
    before = np.array(bias)
    model.fit(EXAMPLES, LABELS, batch_size=12, verbose=0)
    np.testing.assert_allclose(np.array(bias) - before, -0.1 * gradient.mean(0), rtol=1e-3)


def test_the_first_peer_ships(tmp_path):
    model = compiled(MutualLearning([peer(1), peer(2)], weight=0.5))
    model.fit(EXAMPLES, LABELS, batch_size=4, verbose=0)
    expected = model.peers[0].predict(EXAMPLES, verbose=0)
    np.testing.assert_allclose(model.predict(EXAMPLES, verbose=0), expected, rtol=1e-6)
    assert model.shipped_model() is model.peers[0]
    assert model.output_shape == (None, 3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(EXAMPLES, verbose=0), expected, rtol=1e-6)
    assert logs_of(again) == pytest.approx(logs_of(model), rel=1e-5)
    histories = [
        each.fit(EXAMPLES, LABELS, batch_size=4, shuffle=False, verbose=0).history
        for each in (model, again)
    ]
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-5)


def test_an_assignment_holds_from_the_next_step():
    model = compiled(MutualLearning([peer(1), peer(2)]))
    model.fit(EXAMPLES, LABELS, batch_size=12, verbose=0)
    model.weight = 0.0
    before = logs_of(model)
    assert before["loss"] == pytest.approx(before["peer1_loss"] + before["peer2_loss"], rel=1e-5)
    model.weight = -1.0
    with pytest.raises(ValueError, match="weight is a finite number >= 0; received -1"):
        model.fit(EXAMPLES, LABELS, verbose=0)


@pytest.mark.parametrize(
    ("peers", "arguments", "message"),
    [
        (lambda: [peer(1)], {}, "two peers or more; received 1"),
        (lambda: [peer(1)] * 2, {}, "share weights"),
        (lambda: [peer(1), peer(2, last="softmax")], {}, "'peer_2' gives probabilities"),
        (lambda: [peer(1), peer(2)], {"weight": float("nan")}, "weight is a finite number"),
        (lambda: [peer(1), peer(2)], {"temperature": 0.0}, "temperature"),
        (
            lambda: [peer(1), keras.Sequential([keras.Input((5,)), layers.Dense(4)])],
            {},
            "one shape",
        ),
    ],
)
def test_it_refuses(peers, arguments, message):
    with pytest.raises(ValueError, match=message):
        MutualLearning(peers(), **arguments)


def test_the_lines_of_the_guide_make_models():
    guide = Path(__file__).parents[2] / "docs" / "guides" / "methods.md"
    table = guide.read_text("utf-8").split("## Nets that teach themselves")[1]
    lines = re.findall(r"\| `zoo\.([^`]+)` \|", table)
    assert [line.partition("(")[0] for line in lines] == [*["nin_dsn"] * 2, *MADE]
    for line in lines:
        call = ast.parse(line, mode="eval").body
        given = {}
        for argument in call.keywords:
            with contextlib.suppress(ValueError):  # of what is no number or text, such as a net
                given[argument.arg] = ast.literal_eval(argument.value)
        name = call.func.id
        if name == "nin_dsn":
            model = zoo.nin_dsn((8, 8, 1), 3, width=0.05, **given)
            assert {head.form for head in model.companions.values()} == {"conv"}
        else:
            assert isinstance(MADE[name](**given), getattr(zoo, name))


MADE = {
    "MutualLearning": lambda: MutualLearning([peer(1), peer(2)]),
    "Distiller": lambda **given: zoo.Distiller(
        student=keras.models.clone_model(peer(1)), teacher=peer(1), **given
    ),
}
