import keras
import numpy as np
import pytest

from zoo.training import operations


def test_a_convolution_and_a_dense_layer_are_counted():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow counts")
    inputs = keras.Input((6, 5, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    outputs = keras.layers.Dense(7, use_bias=False)(keras.layers.Flatten()(maps))
    model = keras.Model(inputs, outputs)
    expected = 2 * (6 * 5 * 9 * 3 * 4 + 6 * 5 * 4 * 7)
    assert operations.of_an_image(model) == expected
    assert operations.of_training(expected, 10) == 30 * expected
    assert operations.of_training(None, 10) is None


def test_counting_prints_nothing(capfd):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    before = [weight.copy() for weight in model.get_weights()]
    operations.of_an_image(model)
    assert capfd.readouterr().out == ""
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
