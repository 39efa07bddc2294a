"""Each method of the recipe `methods` makes a model that trains, from the layers that it names."""

import typing
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
import zoo.recipe
from zoo.data import ImageData

pytestmark = pytest.mark.eager

RECIPE = zoo.recipe.load(Path(__file__).parents[2] / "recipes" / "methods.py")
METHODS = typing.get_args(typing.get_type_hints(RECIPE)["method"])
WITHOUT_TEACHER = ("alone", "companions", "its own teacher", "synergy")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.utils.set_random_seed(0)
    zoo.nin((16, 16, 3), 3, variant="fast", width=0.05).save(path)
    return str(path)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains(method, teacher):
    teachers = () if method in WITHOUT_TEACHER else (teacher,)
    recipe = RECIPE(method=method, teachers=teachers, width=0.1, batch_size=4)
    recipe.check()
    images = RNG.integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    data = ImageData("made", "train", images, np.arange(8) % 3, ("a", "b", "c"))
    model = recipe.model(data, 10)
    model.compile(recipe.optimizer(10), recipe.loss())
    logs = model.train_on_batch(images[:4].astype("float32"), data.labels[:4], return_dict=True)
    assert np.isfinite(logs["loss"])
    parts = [name for name in logs if name not in ("loss", "label_loss")]
    assert bool(parts) == (method != "alone")


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"method": "dist"}, "--teachers"),
        ({"method": "alone", "teachers": ("saved_models/cifar10_fast",)}, "--teachers"),
        ({"method": "alone", "soft_weight": 0.5}, "--soft-weight"),
        ({"method": "alone", "views": 8}, "--views"),
    ],
)
def test_what_a_method_does_not_use_is_refused(fields, flag):
    with pytest.raises(zoo.recipe.RecipeError, match=f"{flag} is"):
        RECIPE(**fields).check()
