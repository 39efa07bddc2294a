"""Runs on small, odd folders: what the defaults become, and where a run finds its data again."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

import zoo.recipe
import zoo.training
from zoo.commands import evaluating
from zoo.commands.main import main
from zoo.recipe import RecipeError
from zoo.runs import Run
from zoo.saving import load_model

RECIPE = '''"""A layer that begins with the first class: for tests."""

from dataclasses import dataclass

import keras

import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 1
    precision: zoo.recipe.Precision = "float32"

    def model(self, data, steps):
        images = keras.Input(data.image_shape)
        outputs = keras.layers.Dense(data.classes)
        model = keras.Model(images, outputs(keras.layers.Flatten()(images)))
        outputs.kernel.assign(0 * outputs.kernel)
        outputs.bias.assign([1.0] + [0.0] * (data.classes - 1))
        return model
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with small.py and 24 photographs of two classes, 16 wide and 8 high."""
    (tmp_path / "small.py").write_text(RECIPE, "utf-8")
    rng = np.random.default_rng(0)
    for name, count in (("cat", 18), ("dog", 6)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (8, 16, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(**fields):
    recipe = zoo.recipe.load("small.py")(data="pets", image_size=8, **fields)
    return zoo.training.train(recipe, "small.py", name="run", page=False, deterministic=False)


def losses(run):
    with open(run / "metrics.csv", newline="", encoding="utf-8") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines)]


def test_few_images_lower_the_default_batch_and_class_weights_reach_the_loss(work, capsys):
    Image.open("pets/cat/0.png").convert("L").save("pets/cat/0.png")
    run = train(class_weights="balanced")
    said = capsys.readouterr().out
    assert "--batch-size is 19, the number of training images" in " ".join(said.split())
    assert Run(run).fields["batch_size"] == 128  # so that the same command resumes it
    assert "1 of 24 images in pets are grey, and became RGB." in Run(run).results["warnings"]
    likely, unlikely = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert losses(run)[0] == pytest.approx((likely + unlikely) / 2, rel=1e-4)

    (run / "results.json").unlink()  # as if it had been killed just before
    assert train(class_weights="balanced") == run
    assert "is complete" not in capsys.readouterr().out


def test_a_batch_size_that_was_chosen_is_refused(work):
    with pytest.raises(RecipeError, match=r"--batch-size is at most 19.*received 20"):
        train(batch_size=20)
    assert not (work / "runs").exists()


def test_one_number_is_a_size_at_the_command_line_and_unknown_ways_are_refused(work, capsys):
    flags = ["--data", "pets", "--name", "a", "--no-page", "--no-deterministic"]
    main(["train", "small.py", "--image-size", "8", *flags, "--resize", "crop"])
    assert Run("runs/small/a").fields["image_size"] == (8, 8)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "small.py", "--image-size", "8", "--resize", "zoom", *flags])
    assert stopped.value.code == 2


def test_a_run_finds_its_data_from_elsewhere(work, monkeypatch, tmp_path_factory):
    run = train().resolve()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert Run(run).data == str(work / "pets")
    assert Run(run).recipe(work / "small.py").datasets()[1].examples == 5
    record = json.loads((run / "recipe.json").read_text("utf-8"))
    assert record.pop("begun_in") == str(work)
    (run / "recipe.json").write_text(json.dumps(record), "utf-8")  # a run of an older zoo
    assert Run(run).data == str(work / "pets")
    (work / "pets").rename(work / "gone")
    assert Run(run).data == "pets"
    (work / "mnist").mkdir()
    assert zoo.recipe.located("mnist", work) == "mnist"  # a data set, not the folder
    assert zoo.recipe.located("./mnist", work) == str(work / "mnist")


def test_a_folder_of_test_images_is_taken_whole_and_may_lack_classes(work):
    run = train()
    model, path = load_model(run), Run(run).folder

    def examples(data):
        return evaluating.test_images(path, model, data, None)

    assert examples(None).examples == examples("pets").examples == 5  # the 20 % held out
    (work / "pets").rename(work / "others")
    assert examples("others").examples == 24
    (work / "others" / "cat").rename(work / "others" / "emu")
    with pytest.raises(zoo.errors.UsageError, match="the classes emu, which the model lacks"):
        examples("others")
