import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
import zoo.data
import zoo.recipe
import zoo.training

pytestmark = pytest.mark.eager

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*.py"))


def tiny(recipe, tmp_path):
    """The recipe on random images, shaped as in its data set."""
    grey = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "digits": (8, 8, 1)}
    # Colour images of half the size: whitening costs the cube of the number of pixels.
    shape = grey.get(recipe.data, (16, 16, 3))
    classes = 100 if recipe.data == "cifar100" else 10
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = rng.integers(0, 256, (2 * classes, *shape), "uint8")
        arrays[f"y_{split}"] = np.arange(2 * classes) % classes
    np.savez(tmp_path / "tiny.npz", **arrays)
    changes = {"data": str(tmp_path / "tiny.npz"), "epochs": 1, "batch_size": 8}
    changes |= {"steps_per_epoch": 3, "width": 0.05, "units": 8}
    fields = {field.name for field in dataclasses.fields(recipe)}
    if "teachers" in fields:
        zoo.mlp(shape, classes, hidden=(4,)).save(tmp_path / "teacher.keras")
        changes["teachers"] = (str(tmp_path / "teacher.keras"),)
    changes["cutout"] = getattr(recipe, "cutout", 0) // 2  # as the colour images
    return dataclasses.replace(recipe, **{k: v for k, v in changes.items() if k in fields})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_trains_and_leaves_its_folder(file, tmp_path):
    recipe = tiny(zoo.recipe.load(file)(), tmp_path)
    # The page of a run has tests of its own.
    folder = zoo.training.train(recipe, file, runs=tmp_path, deterministic=False, page=False)
    results = json.loads((folder / "results.json").read_text())
    assert results["examples"] == results["train_examples"] >= 20
    assert results["epochs"] == 1
    model = keras.models.load_model(folder / "model.keras")
    assert model.count_params() == results["parameters"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_first_line_of_a_recipe_states_a_result_or_that_there_is_none(file):
    title = zoo.recipe.title(file)
    assert "not measured" in title or ("%" in title and "seed" in title), title
    assert len(file.read_text().splitlines()[0]) <= 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_is_a_record(file):
    recipe = zoo.recipe.load(file)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe().epochs = 1
    assert json.loads(json.dumps(dataclasses.asdict(recipe())))["data"] == recipe().data


def test_the_optimizer_warms_up_cools_down_and_decays_kernels_alone():
    recipe = zoo.recipe.Recipe(learning_rate=0.2, weight_decay=0.1)
    optimizer = recipe.optimizer(100)
    schedule = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    rates = [float(schedule(step)) for step in (0, 5, 52, 100)]
    assert rates == pytest.approx([0, 0.2, 0.1, 0], abs=5e-3)
    kernel = keras.Variable(np.ones((2, 2)), name="kernel")
    bias = keras.Variable(np.ones(2), name="bias")
    optimizer = zoo.recipe.Recipe(weight_decay=0.1).optimizer(100)
    optimizer.build([kernel, bias])
    optimizer.iterations.assign(5)
    optimizer.apply([kernel * 0, bias * 0])
    np.testing.assert_allclose(kernel, np.full((2, 2), 1 - 0.1 * 0.1), rtol=1e-3)
    np.testing.assert_array_equal(bias, np.ones(2))


@pytest.mark.parametrize(("variant", "mlpconv_layers"), [("fast", 6), ("small", 6), ("modern", 3)])
def test_a_fast_recipe_trains_each_net(variant, mlpconv_layers):
    recipe = zoo.recipe.load(FILES[0].with_name("cifar10_fast.py"))(variant=variant, width=0.1)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    model = recipe.model(zoo.data.ImageData("made", "train", images, np.arange(8) % 2, "ab"), 10)
    model.compile(recipe.optimizer(10), recipe.loss())
    loss = model.train_on_batch(images.astype("float32"), np.arange(8) % 2)
    assert np.isfinite(loss)
    assert len([layer for layer in model.layers if "mlpconv" in layer.name]) == mlpconv_layers
