"""An answer that is off by rounding is told from one that says something else."""

import copy
import math

import numpy as np
import pytest

from zoo.serving import example_requests

LABELS = ["ant", "bée", "cat", "dog"]
# The second and the third are equal but for rounding.
PROBABILITIES = [[0.5, 0.2, 0.2 + 1e-9, 0.1 - 1e-9], [0.1, 0.2, 0.3, 0.4]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "examples"
    images = np.arange(2 * 4 * 5 * 3, dtype="uint8").reshape(2, 4, 5, 3)
    exits = {"conv": np.array([[0.4, 0.3, 0.2, 0.1]] * 2), "output": np.array(PROBABILITIES)}
    probabilities = np.array(PROBABILITIES)
    example_requests.write(folder, images, ["a", "b"], probabilities, LABELS, 3, exits)
    return {example.name: example for example in example_requests.read(folder)}


def rows(stored, name):
    """A copy of what Keras answers, to be changed."""
    body = copy.deepcopy(stored[name].expected)
    return body, body.get("predictions", body.get("results"))


def test_the_stored_answers_are_the_likeliest_first(stored):
    _, (first, second) = rows(stored, "predict")
    assert first["classes"] == ["ant", "cat", "bée"]
    assert second["class_ids"] == [3, 2, 1]
    assert second["scores"] == [0.4, 0.3, 0.2]
    assert rows(stored, "classify")[1][1] == [["dog", 0.4], ["cat", 0.3], ["bée", 0.2]]
    assert rows(stored, "exits")[1][0]["conv"] == [0.4, 0.3, 0.2, 0.1]
    assert stored["classify"].method == "classify"
    assert stored["exits"].method == "predict"


def test_the_same_answer_is_off_by_nothing(stored):
    for example in stored.values():
        assert example_requests.difference(example, example.expected, LABELS) == 0


@pytest.mark.parametrize("name", ["predict", "predict_bytes", "classify"])
def test_of_classes_that_are_equal_either_may_come_first(stored, name):
    body, (first, second) = rows(stored, name)

    def swap(row, a, b):
        if name == "classify":
            row[a][0], row[b][0] = row[b][0], row[a][0]
            return
        for key in ("class_ids", "classes"):
            row[key][a], row[key][b] = row[key][b], row[key][a]

    swap(first, 1, 2)
    assert 0 < example_requests.difference(stored[name], body, LABELS) < 2e-9
    swap(second, 0, 1)
    assert example_requests.difference(stored[name], body, LABELS) == pytest.approx(0.1)


def change(key, index, value):
    def changed(row):
        row[key][index] = value

    return changed


@pytest.mark.parametrize(
    ("changed", "off"),
    [
        (change("scores", 2, 0.2 + 3e-6), 3e-6),
        (change("probabilities", 0, 0.1 - 2e-6), 2e-6),
        (change("probabilities", 3, math.nan), math.inf),
        (change("classes", 0, "eel"), math.inf),
        (change("classes", 0, "cat"), math.inf),
        (change("class_ids", 0, 1), math.inf),
        (lambda row: row.pop("scores"), math.inf),
        (lambda row: row["probabilities"].pop(), math.inf),
        (lambda row: row.update(more=[]), math.inf),
    ],
)
def test_a_changed_answer_is_off_by_the_change(stored, changed, off):
    body, (_, second) = rows(stored, "predict")
    changed(second)
    assert example_requests.difference(stored["predict"], body, LABELS) == pytest.approx(
        off, rel=1e-3
    )


@pytest.mark.parametrize("body", [{}, {"error": "no"}, {"predictions": []}])
def test_no_answer_is_off_by_everything(stored, body):
    assert example_requests.difference(stored["predict"], body, LABELS) == math.inf


def test_an_answer_too_few_or_too_many_is_off_by_everything(stored):
    for many in (1, 3):
        body, found = rows(stored, "predict")
        body["predictions"] = (found * 2)[:many]
        assert example_requests.difference(stored["predict"], body, LABELS) == math.inf
