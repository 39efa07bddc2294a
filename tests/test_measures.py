import numpy as np
import pytest
from oracles import softmax
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from zoo import measures


@pytest.mark.parametrize(("wrong", "n"), [(0, 360), (1, 360), (180, 360), (10000, 10000), (1, 2)])
def test_the_wilson_interval_is_scipys(wrong, n):
    expected = binomtest(wrong, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(measures.wilson_interval(wrong / n, n), expected, atol=1e-12)


def test_the_calibration_error_is_equation_3_of_guo_et_al():
    random = np.random.default_rng(0)
    logits, labels = 3 * random.normal(size=(500, 4)), random.integers(0, 4, 500)
    probabilities = softmax(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / 500 * gap
    assert 0.1 < expected < 0.9
    assert measures.calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("labels", "expected"), [([0, 1, 1], 0), ([1, 0, 0], 1)])
def test_who_is_sure_is_calibrated_if_right(labels, expected):
    logits = np.float16([[90, 0], [0, 90], [-90, 90]])
    assert measures.calibration_error(logits, np.array(labels)) == pytest.approx(expected)


def test_even_odds_are_calibrated_when_half_are_right():
    assert measures.calibration_error(np.zeros((4, 2)), np.array([0, 1, 1, 0])) == 0


def test_counts_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 7, (2, 500))
    labels[labels == 3] = 2  # a class without images
    counts = measures.confusion_counts(labels, predictions, 7)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predictions, labels=range(7)))
    told = measures.per_class(counts, "abcdefg")
    assert told[3]["recall"] is None
    assert told[3]["precision"] == 0
    assert told[2]["recall"] == (predictions[labels == 2] == 2).mean()
    assert told[2]["count"] == (labels == 2).sum()
    assert told[2]["precision"] == (labels[predictions == 2] == 2).mean()


def test_the_balanced_accuracy_is_that_of_scikit_learn_where_classes_differ():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 20, 100])
    predictions = np.where(random.random(420) < 0.8, labels, random.integers(0, 4, 420))
    counts = measures.confusion_counts(labels, predictions, 4)  # class 3 has no image
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, predictions)
    assert measures.balanced_accuracy(counts) == pytest.approx(expected)
    always_the_first = measures.confusion_counts(labels, 0 * labels, 4)
    assert measures.balanced_accuracy(always_the_first) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("images", "shown"), [((10, 20), False), ((10, 21), True)])
def test_without_much_difference_there_is_no_balanced_accuracy(images, shown):
    assert (measures.balanced_accuracy(np.diag(images)) is not None) == shown


def test_the_pairs_mistaken_most_come_first_and_single_mistakes_do_not_count():
    counts = np.array([[9, 4, 0], [1, 9, 2], [0, 5, 9]])
    found = measures.confusions(counts, ["cat", "dog", "cow"], most=4)
    assert found == [("cow", "dog", 5), ("cat", "dog", 4), ("dog", "cow", 2)]
