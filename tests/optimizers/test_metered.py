import keras
import numpy as np
import pytest

from zoo.optimizers.metered import GradientMeter, MeteredSGD

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


def net():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")])


def test_the_meter_logs_the_mean_square_gradient_of_each_epochs_steps():
    model = net()
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    model.compile(MeteredSGD(0.1), "mse")
    history = model.fit(
        X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[GradientMeter(["only"])]
    ).history
    expected = []
    for _ in range(2):
        squares = []
        for start in (0, 4, 8):
            x, y = X[start : start + 4], Y[start : start + 4]
            slope = 2 * (x @ kernel + bias - y) / y.size
            squares.append(np.mean((x.T @ slope) ** 2))
            kernel, bias = kernel - 0.1 * x.T @ slope, bias - 0.1 * slope.sum(0)
        expected.append(np.mean(squares))
    np.testing.assert_allclose(history["gradient_only"], expected, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-5)


def test_metering_changes_no_weight():
    weights = []
    for kind in (keras.optimizers.SGD, MeteredSGD):
        model = net()
        model.compile(kind(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), "mse")
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
