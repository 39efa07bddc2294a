"""The trained models that lie in saved_models/ are what their cards and the README say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from oracles import softmax
from PIL import Image

import zoo
from zoo import exports as layout
from zoo import files, measures, recipe
from zoo.serving.served_model import ServedModel

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = sorted(path.parent for path in (ROOT / "saved_models").glob("*/card.json"))


@pytest.fixture(params=MODELS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


@pytest.fixture
def card(folder):
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def test_all_of_them_take_few_megabytes():
    found = [path for path in (ROOT / "saved_models").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) < 60e6


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
def test_each_data_set_has_weights(data):
    model = zoo.nin_dsn(weights=data)
    assert model.trunk.output_shape == (None, 10)
    assert zoo.nin(weights=data).count_params() == model.trunk.count_params()


def test_keras_and_the_export_give_the_answers_that_lie_beside_them(folder, card):
    """For real images, most of which it knows."""
    export = ServedModel(folder)
    images = sorted((layout.find_version(folder) / layout.EXAMPLES).glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in images]).astype("float32")
    pixels = pixels.reshape(-1, *card["input"]["shape"])
    answers = export.predict(pixels)["probabilities"]
    expected = softmax(zoo.nin(weights=folder)(pixels, training=False))
    np.testing.assert_allclose(answers, expected, atol=card["tolerance"])
    # An example's name is its number in the test set and its class.
    classes = [re.sub(r"\W", "_", label) for label in card["labels"]]
    true = [classes.index(file.stem.split("_", 1)[1]) for file in images]
    assert (answers.argmax(axis=1) == true).mean() >= 0.5


def test_the_card_is_of_a_recipe_here_at_a_known_commit_and_adds_up(folder, card):
    told, results = card["training"], card["results"]
    assert re.fullmatch("[0-9a-f]{40}", told["commit"])
    assert not told["uncommitted_changes"]
    assert recipe.find(told["recipe"])
    assert results["evaluated_on"] == "test"
    wrong = sum(round((1 - each["recall"]) * each["count"]) for each in results["classes"])
    assert wrong == results["errors"] == card["seeds"]["errors"][0]
    share = results["errors"] / results["examples"]
    interval = measures.wilson_interval(share, results["examples"])
    assert results["error_interval"] == pytest.approx(interval)
    # A net that learned smoothed labels is less sure than it is right: 17 % in cifar10_fast.
    assert 0 < results["calibration_error"] < (0.2 if "smoothing" in told["fields"] else 0.1)
    versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    assert len(versions) == 1  # a second one is the first's bytes again in the repository
    assert files.sha256(versions[0] / layout.MODEL) == card["source"]["sha256"]


def test_the_readme_has_its_row(folder, card):
    seeds = card["seeds"]
    error = f"{seeds['mean_error_percent']:.2f}"
    if seeds["deviation_percent"] is not None:
        error += f" ± {seeds['deviation_percent']:.2f}"
    errors = ", ".join(str(each) for each in seeds["errors"])
    row = next(line for line in README.splitlines() if f"[`{folder.name}`]" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert f"{error} %" in cells
    assert errors in cells
    assert f"{card['parameters']:,}" in cells


def test_a_student_has_at_most_an_eighth_of_its_teachers_parameters():
    students = [folder for folder in MODELS if "student" in folder.name]
    assert students
    for folder in students:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        (teacher,) = card["training"]["fields"]["teachers"]
        theirs = json.loads((ROOT / teacher / "card.json").read_text(encoding="utf-8"))
        assert card["parameters"] <= theirs["parameters"] / 8
