import importlib

import numpy as np
import pytest

import zoo.recipe
import zoo.training
from zoo.experiments import studies
from zoo.experiments.studies import ensemble, mnist_distillation, omitted_digits, smoothing
from zoo.runs import Run

TINY = {"data": "digits", "units": 8, "epochs": 2, "precision": "float32"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A teacher and its student, trained on the digits."""
    folder = tmp_path_factory.mktemp("runs")
    finished = {}
    for label, fields in (
        ("teacher", {**mnist_distillation.ALONE, **TINY}),
        ("student", {**mnist_distillation.TAUGHT, **TINY}),
    ):
        name, values = studies.what_to_train(fields, 0, finished)
        recipe = studies.recipe_class(name)(**values)
        where = zoo.training.train(
            recipe, zoo.recipe.find(name), runs=folder, page=False, deterministic=False
        )
        finished[label] = [Run(where)]
    return finished


def test_teachers_are_the_runs_of_the_same_seed():
    first, second = Run("runs/mnist_mlp/a"), Run("runs/mnist_mlp/b")
    fields = {"recipe": "mnist_distilled", "teachers": ("teacher",), "units": 3}
    name, values = studies.what_to_train(fields, 1, {"teacher": [first, second]})
    assert name == "mnist_distilled"
    assert values == {"seed": 1, "units": 3, "teachers": ("runs/mnist_mlp/b",)}
    assert studies.what_to_train({"seed": 7}, 1, {}) == ("small_net", {"seed": 7})


def test_a_student_of_a_study_has_learned_from_the_teacher_named(runs):
    (student,) = runs["student"]
    assert student.fields["teachers"] == (str(runs["teacher"][0].folder),)
    assert len(student.results["teacher"]) == 1


@pytest.mark.parametrize(
    ("name", "axes", "columns"),
    [
        ("mnist_distillation", 1, 4),
        ("temperature", 2, 7),
        ("omitted_digits", 2, 6),
        ("little_data", 1, 4),
        ("ensemble", 1, 3),
        ("soft_targets", 3, 3),
        ("smoothing", 1, 4),
    ],
)
def test_a_study_of_distillation_shows_its_runs(runs, name, axes, columns, tmp_path):
    study = importlib.import_module(f"zoo.studies.{name}")
    taught = {label for label, fields in study.RUNS.items() if "teachers" in fields}
    finished = {label: runs["student" if label in taught else "teacher"] for label in study.RUNS}
    figure, table = study.show(finished)
    assert len(figure.axes) == axes
    assert figure.get_figwidth() == 6.4
    for row in table.rows:
        assert len(row) == len(table.columns) == columns
        assert all(isinstance(cell, str) for cell in row)
    studies.write(name, figure, table, finished, tmp_path)
    page = (tmp_path / f"{name}.md").read_text()
    assert "[recipes/mnist_distilled.py](../../recipes/mnist_distilled.py)" in page
    assert "2 runs" in page


def test_the_share_of_the_gap_is_taken_seed_by_seed():
    assert mnist_distillation.gap_recovered([67, 60], [146, 160], [74, 160]) == [
        pytest.approx(100 * 72 / 79),
        0,
    ]


def test_the_bias_by_frequency_needs_no_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 20_000)
    logits = 3 * np.eye(10)[labels] + rng.gumbel(size=(20_000, 10))
    biased = omitted_digits.shifted(logits, [3], -4.0)
    assert (biased.argmax(1) == 3).mean() < 0.03
    # The digits are balanced, and so are the unbiased predictions: it finds the bias taken away.
    assert omitted_digits.by_frequency(biased, [3]) == pytest.approx(4.0, abs=0.1)
    assert biased[0, 3] == logits[0, 3] - 4


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.35, 0.65]])
    error, bins = smoothing.calibration(probabilities, np.array([0, 1, 1, 1]), bins=10)
    # One answer has confidence 0.65 and is right, one has 0.8 and is right. Two have 0.9; one of
    # them is right.
    assert error == pytest.approx(100 * (0.35 + 0.2 + 2 * 0.4) / 4)
    np.testing.assert_allclose(bins, [[65, 80, 90], [100, 100, 50]])


def test_the_variance_within_classes_is_a_share_of_all():
    features = np.array([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    assert smoothing.within_classes(features, np.array([0, 0, 1, 1])) == pytest.approx(4 / 104)


def test_members_of_the_ensemble_differ_in_the_seed_alone():
    members = [fields for label, fields in ensemble.RUNS.items() if label.startswith("member")]
    assert [member["seed"] for member in members] == [*range(10)]
    assert len({str({**member, "seed": 0}) for member in members}) == 1
