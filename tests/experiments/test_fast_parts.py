"""The recipe `fast_parts` trains the net of `cifar10_fast`, and leaves out the part named."""

from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
import zoo.recipe
from zoo.data import ImageData

pytestmark = pytest.mark.eager

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = zoo.recipe.load(RECIPES / "fast_parts.py")
OTHER = {
    "residual": False,
    "dirac": False,
    "stock_normalization": True,
    "whitening": False,
}


def data():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    return ImageData("made", "train", images, np.arange(8) % 3, ("a", "b", "c"))


def built(recipe):
    keras.utils.set_random_seed(0)
    return recipe.model(data(), 10)


def rates(recipe, model):
    optimizer = recipe.optimizer(10)
    optimizer.build(model.trainable_variables)
    return optimizer._rates


def test_with_all_parts_it_is_the_net_of_cifar10_fast():
    recipe = RECIPE(width=0.1)
    fast = zoo.recipe.load(RECIPES / "cifar10_fast.py")(width=0.1)
    ours, theirs = built(recipe), built(fast)
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    assert rates(recipe, ours) == rates(fast, theirs)
    ours.set_weights(theirs.get_weights())
    pixels = data().images[:].astype("float32")
    np.testing.assert_allclose(ours(pixels), theirs(pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", OTHER)
def test_without_a_part_it_is_another_net(part):
    recipe = RECIPE(width=0.1)
    pixels = data().images[:].astype("float32")
    whole, less = (
        built(each)(pixels) for each in (recipe, RECIPE(width=0.1, **{part: OTHER[part]}))
    )
    if part == "stock_normalization":  # its factors are 1 at first
        assert len(built(recipe).weights) < len(built(RECIPE(width=0.1, **{part: True})).weights)
    else:
        assert np.abs(np.subtract(whole, less)).max() > 1e-3


def test_it_ends_with_the_average_of_the_weights():
    model, recipe = built(RECIPE(width=0.1)), RECIPE(width=0.1, averaging=0.75)
    model.compile(recipe.optimizer(2), recipe.loss())
    seen = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(model.trainable_variables[0].numpy())
    )
    pixels = data().images[:].astype("float32")
    model.fit(pixels, data().labels, batch_size=4, verbose=0, callbacks=[keep])
    expected = seen[0]  # Keras begins after the first step
    for weights in seen[1:]:
        expected = 0.75 * expected + 0.25 * weights
    assert np.abs(seen[-1] - seen[0]).max() > 1e-3
    np.testing.assert_allclose(model.trainable_variables[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "flag"), [({"averaging": 1.0}, "--averaging"), ({"variant": "small"}, "--variant")]
)
def test_what_is_not_in_the_study_is_refused(fields, flag):
    with pytest.raises(zoo.recipe.RecipeError, match=f"{flag} is"):
        RECIPE(**fields).check()
