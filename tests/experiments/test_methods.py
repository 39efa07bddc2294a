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

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = zoo.recipe.load(RECIPES / "methods.py")
METHODS = typing.get_args(typing.get_type_hints(RECIPE)["method"])
WITHOUT_TEACHER = ("alone", "companions", "pooled companions", "its own teacher", "synergy")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.utils.set_random_seed(0)
    zoo.nin((16, 16, 3), 3, variant="fast", width=0.05).save(path)
    return str(path)


def data():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    return ImageData("made", "train", images, np.arange(8) % 3, ("a", "b", "c"))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains(method, teacher):
    teachers = () if method in WITHOUT_TEACHER else (teacher,)
    recipe = RECIPE(method=method, teachers=teachers, width=0.1, batch_size=4)
    recipe.check()
    images = data()
    model = recipe.model(images, 10)
    model.compile(recipe.optimizer(10), recipe.loss())
    pixels = images.images[:4].astype("float32")
    logs = model.train_on_batch(pixels, images.labels[:4], return_dict=True)
    assert np.isfinite(logs["loss"])
    parts = [name for name in logs if name not in ("loss", "label_loss")]
    assert bool(parts) == (method != "alone")


def test_pooled_companions_have_no_convolutions_of_their_own():
    alone, pooled, own = (
        RECIPE(method=method, width=0.1).model(data(), 10).count_params()
        for method in ("alone", "pooled companions", "companions")
    )
    per_class = 3 * (round(32 * 0.1) + 1) + 3 * (round(48 * 0.1) + 1)  # 1 x 1 and biases, 2 heads
    assert pooled == alone + per_class
    assert own > pooled


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


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        ("soft targets", "soft_target_loss"),
        ("standardized", "soft_targets_loss"),
        ("decoupled", "decoupled_soft_targets_loss"),
        ("dist", "relational_matching_loss"),
    ],
)
def test_any_student_learns_logits_so_also_from_answers_kept(
    method, loss, teacher, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the answers are kept in its runs/
    cls, found = zoo.recipe.load(RECIPES / "student.py"), []
    for views in (1, 0):
        recipe = cls(
            data="made", teachers=(teacher,), method=method, views=views, batch_size=8,
            shift=0, flip="none", teachers_see="views", width=0.1,
        )  # fmt: skip
        recipe.check()
        images = data()
        keras.utils.set_random_seed(0)
        model = recipe.model(images, 10)
        model.compile(recipe.optimizer(10), recipe.loss())
        x, y = next(iter(recipe.training_batches(images, 0)))
        found.append(model.train_on_batch(x, y, return_dict=True))
    assert loss in found[0]
    assert list((tmp_path / "runs" / "soft_targets").iterdir())
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_a_method_with_weights_of_its_own_refuses_others():
    recipe = zoo.recipe.load(RECIPES / "student.py")
    with pytest.raises(zoo.recipe.RecipeError, match=r"--temperature is 4\.0 with --method dist"):
        recipe(data="made", teachers=("a",), method="dist", temperature=2.0).check()
