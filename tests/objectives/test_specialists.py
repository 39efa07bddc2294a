"""Section 5 of arXiv:1503.02531, by number."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from oracles import softmax
from scipy.optimize import minimize
from sklearn.metrics import adjusted_rand_score

import zoo
from zoo.objectives import specialists


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def net(classes=6):
    keras.utils.set_random_seed(0)
    return zoo.mlp((2, 3, 1), classes, hidden=(5,))


# Which classes.


def test_classes_that_are_predicted_together_are_clustered(rng):
    groups = np.arange(12) % 4
    truth = rng.integers(0, 12, 3000)
    logits = 2.0 * (groups[truth][:, None] == groups) + rng.normal(size=(3000, 12))
    found = specialists.confusable_classes(softmax(3 * logits), 4)
    assert sorted(map(tuple, found)) == [(g, g + 4, g + 8) for g in range(4)]
    again = specialists.confusable_classes(softmax(3 * logits), 4)
    assert [each.tolist() for each in again] == [each.tolist() for each in found]


def test_a_class_alone_gets_no_specialist(rng):
    truth = rng.integers(0, 3, 2000)
    alike = np.array([0, 0, 1])
    logits = 3.0 * (alike[truth][:, None] == alike) + rng.normal(scale=0.3, size=(2000, 3))
    found = specialists.confusable_classes(softmax(logits), 2)
    assert [each.tolist() for each in found] == [[0, 1]]


@pytest.mark.parametrize("count", [0, 7])
def test_a_number_of_clusters_that_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match=f"1 to 6 clusters; received {count}"):
        specialists.confusable_classes(np.full((4, 6), 1 / 6), count)


# The net.


def test_a_specialist_begins_with_the_probabilities_of_the_generalist(rng):
    generalist = net()
    images = rng.integers(0, 256, (8, 2, 3, 1)).astype("float32")
    own = specialists.specialist(generalist, [4, 1])
    said = softmax(generalist.predict(images, verbose=0))
    found = softmax(own.predict(images, verbose=0))
    np.testing.assert_allclose(found[:, :2], said[:, [4, 1]], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], said[:, [0, 2, 3, 5]].sum(1), rtol=1e-5)


def test_a_specialist_shares_nothing_and_comes_back_from_a_file(rng, tmp_path):
    generalist = net()
    before = [w.copy() for w in generalist.get_weights()]
    own = specialists.specialist(generalist, [0, 2])
    assert not {id(v) for v in own.variables} & {id(v) for v in generalist.variables}
    images = rng.integers(0, 256, (16, 2, 3, 1)).astype("float32")
    own.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    own.fit(images, rng.integers(0, 3, 16), verbose=0)
    for one, other in zip(before, generalist.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    own.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), own.predict(images, verbose=0))
    code = "import sys, keras, zoo; keras.models.load_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path / "own.keras"], check=True)


def test_a_specialist_of_a_deeply_supervised_generalist_is_one_too(rng):
    keras.utils.set_random_seed(0)
    generalist = zoo.nin_dsn((8, 8, 1), 4, width=0.05).trunk
    own = specialists.specialist(generalist, [1, 3])
    images = rng.integers(0, 256, (4, 8, 8, 1)).astype("float32")
    said = softmax(generalist.predict(images, verbose=0))
    np.testing.assert_allclose(
        softmax(own.predict(images, verbose=0))[:, :2], said[:, [1, 3]], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("classes", "message"),
    [([1, 1], "each once"), ([6], "0 to 5"), ([], "each once"), (range(6), "nothing for its")],
)
def test_classes_of_no_specialist_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        specialists.specialist(net(), classes)


# What it learns from.


def test_half_are_its_own_and_half_are_others(rng):
    labels = rng.integers(0, 10, 5000)
    chosen, targets, oversampling = specialists.specialist_examples(labels, [7, 2])
    own = np.isin(labels, [7, 2])
    assert set(np.flatnonzero(own)) <= set(chosen)
    assert len(chosen) == len(set(chosen)) == 2 * own.sum()
    np.testing.assert_array_equal(targets == 2, ~own[chosen])
    np.testing.assert_array_equal(labels[chosen[targets == 0]], 7)
    np.testing.assert_array_equal(labels[chosen[targets == 1]], 2)
    assert oversampling == pytest.approx((~own).sum() / own.sum())
    other = specialists.specialist_examples(labels, [7, 2], seed=1)[0]
    assert set(other) != set(chosen)


def test_few_others_are_taken_once():
    chosen, targets, oversampling = specialists.specialist_examples([0, 0, 0, 1, 2], [0, 1])
    assert chosen.tolist() == [0, 1, 2, 3, 4]
    assert targets.tolist() == [0, 0, 0, 1, 2]
    assert oversampling == 1


@pytest.mark.parametrize("labels", [[3, 4], [0, 1]])
def test_examples_of_one_kind_are_refused(labels):
    with pytest.raises(ValueError, match="it needs some"):
        specialists.specialist_examples(labels, [0, 1])


def test_the_correction_is_bayes_rule(rng):
    """Priors 0.1, 0.2 and 0.7, the first two taken whole and as many others: known densities."""
    prior = np.array([0.1, 0.2, 0.7])
    density = rng.uniform(0.1, 1, (50, 3))  # of some points under each class
    posterior = prior * density / (prior * density).sum(1, keepdims=True)
    labels = np.repeat([0, 1, 2], (1000 * prior).astype(int))
    chosen, _, oversampling = specialists.specialist_examples(labels, [0, 1])
    sampled = np.bincount(labels[chosen]) / len(chosen)
    trained = np.log(sampled * density)  # logits of a net that learned this perfectly
    images = keras.Input((3,))
    model = keras.Model(images, specialists.Dustbin([0, 1])(images))
    found = specialists.correct_dustbin(model, oversampling).predict(trained, verbose=0)
    np.testing.assert_allclose(softmax(found), posterior, rtol=1e-5)
    with pytest.raises(ValueError, match="Dustbin"):
        specialists.correct_dustbin(net(), 2.0)
    with pytest.raises(ValueError, match="above 0"):
        specialists.correct_dustbin(model, 0.0)


# Equation 5.


def divergence(q, p, team):
    """KL(p, q) and the KL of each active specialist, for one example."""
    total = (p * np.log(p / q)).sum()
    for classes, said in team:
        others = np.setdiff1d(np.arange(len(q)), classes)
        grouped = np.append(q[classes], q[others].sum())
        total += (said * np.log(said / grouped)).sum()
    return total


def a_case(rng, examples=6, classes=7):
    p = softmax(rng.normal(size=(examples, classes)))
    team = [
        (np.array(own), softmax(rng.normal(size=(examples, len(own) + 1))))
        for own in ([0, 1, 2], [2, 3], [5, 6])
    ]
    return p, team


def test_equation_5_is_minimized(rng):
    p, team = a_case(rng)
    q = specialists.combine(p, team, tolerance=1e-12)
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-9)
    asked = 0
    for row in range(len(p)):
        first = p[row].argmax()
        active = [(own, said[row]) for own, said in team if first in own]
        asked += len(active)
        # The paper's way: descent over the logits of q.
        best = minimize(
            lambda z, row=row, active=active: divergence(softmax(z), p[row], active),
            np.log(p[row]),
            method="BFGS",
            options={"gtol": 1e-8},
        )
        np.testing.assert_allclose(q[row], softmax(best.x), atol=1e-5)
    assert 0 < asked < 18


def test_more_of_the_probable_classes_ask_more_specialists(rng):
    p, team = a_case(rng)
    everyone = specialists.combine(p, team, top=7, tolerance=1e-12)
    for row in range(len(p)):
        active = [(own, said[row]) for own, said in team]
        least = divergence(everyone[row], p[row], active)
        for _ in range(20):
            near = softmax(np.log(everyone[row]) + rng.normal(scale=0.01, size=7))
            assert divergence(near, p[row], active) >= least


def test_without_an_active_specialist_the_generalist_is_right(rng):
    p, _ = a_case(rng)
    first = p.argmax(axis=1)
    absent = next(c for c in range(7) if c not in first)
    other = next(c for c in range(7) if c not in first and c != absent)
    said = softmax(rng.normal(size=(6, 3)))
    np.testing.assert_array_equal(specialists.combine(p, [([absent, other], said)]), p)
    np.testing.assert_array_equal(specialists.combine(p, []), p)


def test_a_specialist_of_all_classes_and_an_empty_dustbin_gives_the_arithmetic_mean(rng):
    p = softmax(rng.normal(size=(5, 4)))
    said = np.hstack([softmax(rng.normal(size=(5, 4))), np.zeros((5, 1))])
    np.testing.assert_allclose(
        specialists.combine(p, [(np.arange(4), said)]), (p + said[:, :4]) / 2, atol=1e-9
    )


def test_equation_5_that_does_not_end_or_fit_is_refused(rng):
    p, team = a_case(rng)
    with pytest.raises(RuntimeError, match="still move after 2 steps"):
        specialists.combine(p, team, tolerance=0, most_steps=2)
    with pytest.raises(ValueError, match=r"\(6, 4\); expected \(6, 3\)"):
        specialists.combine(p, [([0, 1], team[0][1])])


def test_table_4_counts():
    rows = specialists.table([1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1], [0, 0, 1, 1, 2, 2])
    assert [(r.covering, r.examples, r.change) for r in rows] == [(0, 2, 1), (1, 2, -1), (2, 2, 1)]
    assert [r.relative for r in rows] == [100, -50, 100]


def test_a_hundred_classes_whole(rng):
    """Five groups of twenty classes: the generalist knows the groups, specialists their classes."""
    centres = 12 * rng.normal(size=(5, 16)).repeat(20, axis=0) + 0.7 * rng.normal(size=(100, 16))

    def examples(count):
        labels = rng.integers(0, 100, count)
        return (centres[labels] + rng.normal(size=(count, 16))).astype("float32"), labels

    (x, y), (test_x, test_y) = examples(6000), examples(3000)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    hidden = keras.layers.Dense(128, "relu")(keras.layers.Rescaling(0.1)(inputs))
    generalist = keras.Model(inputs, keras.layers.Dense(100)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    generalist.compile(keras.optimizers.Adam(3e-3), loss)
    generalist.fit(x, y, epochs=4, batch_size=64, verbose=0)

    def probabilities(model, of):
        return softmax(model.predict(of, batch_size=1000, verbose=0))

    said, tested = probabilities(generalist, x), probabilities(generalist, test_x)
    clusters = specialists.confusable_classes(said, 5)
    number = np.full(100, -1)
    for index, classes in enumerate(clusters):
        number[classes] = index
    assert adjusted_rand_score(np.arange(100) // 20, number) > 0.8

    team, conditional = [], []
    for classes in clusters:
        own = specialists.specialist(generalist, classes)
        chosen, targets, oversampling = specialists.specialist_examples(y, classes)
        own.compile(keras.optimizers.Adam(3e-3), loss)
        own.fit(x[chosen], targets, epochs=4, batch_size=64, verbose=0)
        answers = probabilities(specialists.correct_dustbin(own, oversampling), test_x)
        team.append((classes, answers))
        among = np.isin(test_y, classes)
        for p in (tested[:, classes], answers[:, :-1]):
            conditional.append((classes[p[among].argmax(1)] == test_y[among]).mean())
    before = tested.argmax(1) == test_y
    after = specialists.combine(tested, team).argmax(1) == test_y
    assert np.mean(conditional[1::2]) > np.mean(conditional[::2]) + 0.03
    assert after.mean() > before.mean() + 0.03
    covering = sum(np.isin(test_y, classes).astype(int) for classes in clusters)
    rows = specialists.table(before, after, covering)
    assert sum(row.examples for row in rows) == 3000
    assert sum(row.change for row in rows) == after.sum() - before.sum()
