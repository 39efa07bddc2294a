"""The deep nets of the recipe `small_net` begin as its fields say."""

from pathlib import Path

import keras
import numpy as np
import pytest

import zoo.recipe
from zoo.data import ImageData

pytestmark = pytest.mark.eager

RECIPE = zoo.recipe.load(Path(__file__).parents[2] / "recipes" / "small_net.py")


def kernels(**fields):
    """Build a deep net -> its convolutions' kernels but the first, and all of its weights."""
    images = np.zeros((4, 12, 12, 1), "uint8")
    recipe = RECIPE(data="made", **fields)
    recipe.check()
    keras.utils.set_random_seed(3)
    model = recipe.model(ImageData("made", "train", images, np.arange(4) % 2, ("a", "b")), 10)
    found = [np.array(v) for v in model.weights if len(v.shape) == 4 and "mlpconv" in v.path]
    return found[1:], model.weights


def test_a_deep_net_begins_with_the_deviation_that_is_given():
    small, _ = kernels(net="deep", deviation=0.05)
    large, _ = kernels(net="deep")
    assert len(small) == 23
    for of_50, of_he in zip(small, large, strict=True):
        he = np.sqrt(2 / np.prod(of_he.shape[:3]))  # of what remains of a normal distribution
        assert of_50.std() == pytest.approx(0.05, rel=0.2)
        assert of_he.std() == pytest.approx(he, rel=0.2)
    assert not np.array_equal(small[1], small[2])


def test_a_deep_net_may_be_normalized():
    _, plain = kernels(net="deep")
    _, normalized = kernels(net="deep_normalized", companions="kept")
    assert not [weight.path for weight in plain if "moving" in weight.path]
    assert len([weight.path for weight in normalized if "moving_mean" in weight.path]) == 24


def test_a_deviation_without_a_deep_net_is_refused():
    with pytest.raises(zoo.recipe.RecipeError, match="--deviation is 0 where --net is not deep"):
        RECIPE(net="nin", deviation=0.05).check()
