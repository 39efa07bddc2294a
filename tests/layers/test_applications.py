import importlib

import keras
import numpy as np
import pytest

import zoo
from zoo.layers.applications import NAMES

MODULES = [
    name
    for name in dir(keras.applications)
    if name != "imagenet_utils" and hasattr(getattr(keras.applications, name), "preprocess_input")
]


def images(dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3)).astype(dtype)


def stock(name, pixels):
    """What keras.applications gives, computed in NumPy."""
    pixels = pixels.astype("float32")  # it changes its argument
    if name in ("tf", "caffe", "torch"):
        return keras.applications.imagenet_utils.preprocess_input(pixels, mode=name)
    return importlib.import_module(f"keras.applications.{name}").preprocess_input(pixels)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_preprocessing_of_keras(name):
    for dtype in ("uint8", "float32"):
        found = zoo.ApplicationPreprocessing(name)(images(dtype))
        np.testing.assert_allclose(found, stock(name, images()), rtol=1e-5, atol=1e-5)


def test_every_application_has_its_name():
    assert set(NAMES) == {*MODULES, "tf", "caffe", "torch"}


def test_it_computes_in_float32_and_comes_back_from_a_file(policy, tmp_path):
    model = keras.Sequential([keras.Input((5, 4, 3)), zoo.ApplicationPreprocessing("resnet50")])
    expected = stock("resnet50", images())
    model.save(tmp_path / "m.keras")
    for each in (model, keras.models.load_model(tmp_path / "m.keras")):
        np.testing.assert_allclose(each(images("float32")), expected, rtol=1e-5, atol=1e-5)


def test_another_name_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"no preprocessing 'resnet5'.*convnext.*xception"):
        zoo.ApplicationPreprocessing("resnet5")


@pytest.mark.parametrize("shape", [(None, None, 1), (3,)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="takes RGB images"):
        zoo.ApplicationPreprocessing("tf")(keras.Input(shape))
