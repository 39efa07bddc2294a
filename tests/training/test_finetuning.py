"""`zoo finetune --data FOLDER`: trained weights, on the images of a folder."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import zoo
import zoo.commands.main
import zoo.data
import zoo.recipe
from zoo.experiments import packing
from zoo.runs import Run

pytestmark = pytest.mark.eager


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of photographs of several sizes, one of them grey, and a trained model."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(level - 40, level + 40, (9 + number, 14, 3)).astype("uint8")
            picture = Image.fromarray(pixels[..., 0] if not number else pixels)
            picture.save(tmp_path / "photos" / name / f"{number}.png")
    trained = zoo.nin((12, 12, 3), 5, width=0.1)
    trained.save(tmp_path / "trained.keras")
    return trained


def finetune(*flags):
    arguments = ["--data", "photos", "--weights", "./trained.keras", "--epochs", "2", "--no-page"]
    zoo.commands.main.main(["finetune", *arguments, "--no-deterministic", *flags])


def test_a_command_makes_a_run_like_any_other(here, tmp_path, capsys):
    finetune("--name", "first", "--freeze", "until", "mlpconv2")
    run = Run(tmp_path / "runs" / "finetune" / "first")
    model = zoo.load_model(run.folder)
    assert (model.input_shape, model.output_shape) == ((None, 12, 12, 3), (None, 2))
    shown = capsys.readouterr().out
    assert "--batch-size is 8: it follows the number of images" in shown
    # What was frozen is what was trained, also the statistics of its normalization.
    moved = [
        layer.name
        for layer in here.layers
        for weight, other in zip(layer.weights, model.get_layer(layer.name).weights, strict=True)
        if weight.shape != other.shape or abs(np.asarray(weight) - np.asarray(other)).max() > 0
    ]
    assert set(moved) == {"mlpconv3", "class_maps"}
    # The run is the start of another, which keeps the head of the same classes.
    finetune("--weights", str(run.folder), "--name", "second", "--learning-rate", "1e-9")
    again = zoo.load_model(run.folder.parent / "second")
    heads = [net.get_layer("class_maps").kernel for net in (model, again)]
    np.testing.assert_allclose(*heads, rtol=1e-5)
    # The same command finds it finished.
    finetune("--name", "first", "--freeze", "until", "mlpconv2")
    assert "is complete" in capsys.readouterr().out
    record = json.loads((run.folder / "recipe.json").read_text())
    assert record["fields"]["freeze"] == ["until", "mlpconv2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", ""], "--data is the folder of your images"),
        (["--weights", "cifar11"], "--weights: There is no model 'cifar11'"),
        (["--freeze", "until", "mlpconv9"], "no layer 'mlpconv9'. Did you mean 'mlpconv"),
        (["--freeze", "until", "class_maps"], "no layer 'class_maps'"),
        (["--backbone", "mobilenett"], "no net 'mobilenett'. Did you mean"),
        (["--backbone", "mobilenet", "--backbone-weights", "no.h5"], "no 'no.h5'"),
        (["--channels", "1"], "images with 3 channels; the images have 1"),
        (["--batch-size", "-1"], "--batch-size is a positive number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags, message, here, tmp_path, capsys):
    if flags[0] == "--backbone":
        flags = [*flags, "--image-size", "32"]
    with pytest.raises(SystemExit) as stop:
        finetune(*flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_without_flags_it_says_what_it_takes(capsys):
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main(["finetune"])
    assert stop.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_a_recipe_takes_a_backbone_and_early_stopping(here):
    recipe = zoo.recipe.load(zoo.recipe.find("finetune"))
    keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save_weights("net.weights.h5")
    of_mobilenet = recipe(
        data="photos", backbone="mobilenet", backbone_weights="net.weights.h5", image_size=32
    )
    images = zoo.data.load("photos", "train", **of_mobilenet.reading)
    assert images.image_shape == (32, 32, 3)
    model = of_mobilenet.model(images, 10)
    assert model.output_shape == (None, 2)
    frozen = dataclasses.replace(of_mobilenet, freeze=("until", "conv_pw_13_relu"))
    assert len(frozen.model(images, 10).trainable_weights) == 2  # of the head
    assert not recipe().callbacks()
    (stop,) = recipe(data="photos", validation=0.2, patience=3).callbacks()
    assert (stop.monitor, stop.patience, stop.restore_best_weights) == ("val_loss", 3, False)
    with pytest.raises(zoo.recipe.RecipeError, match="add --validation"):
        recipe(data="photos", patience=3).check()


def test_an_archive_has_the_weights(here):
    recipe = zoo.recipe.load(zoo.recipe.find("finetune"))
    assert list(packing._models(recipe(weights="trained.keras"))) == ["trained.keras"]
    packed = packing._models(recipe())
    (model,) = (file for place, file in packed.items() if place.endswith("model.keras"))
    assert model.is_file()
    with pytest.raises(zoo.recipe.RecipeError, match="--backbone"):
        packing._models(recipe(backbone="mobilenet"))
