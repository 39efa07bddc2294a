import keras
import numpy as np
import pytest

from zoo.optimizers import Muon
from zoo.optimizers.muon import orthogonal

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 3, 2, 4), "norm": (4,), "class_maps": (1, 1, 4, 5)}


def variables():
    made = []
    for layer, shape in SHAPES.items():
        with keras.name_scope(layer):
            values = np.random.default_rng(1).normal(size=shape).astype("float32")
            made.append(keras.Variable(values, name="weights"))
    return made


GRADIENTS = [[RNG.normal(size=shape).astype("float32") for shape in SHAPES.values()] for _ in "abc"]


def trained(optimizer):
    made = variables()
    optimizer.build(made)
    for gradients in GRADIENTS:
        optimizer.apply(gradients)
    return [np.asarray(variable, "float64") for variable in made]


def iterated(matrix, steps):
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        y = x @ x.T
        x = 3.4445 * x + (-4.7750 * y + 2.0315 * y @ y) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_a_kernel_follows_the_formula():
    (kernel, _, _) = trained(Muon(0.1, 0.7, steps=2))
    expected = np.asarray(variables()[0], "float64").reshape(18, 4)
    velocity = np.zeros((18, 4))
    for gradient, *_ in GRADIENTS:
        gradient = gradient.astype("float64").reshape(18, 4)
        velocity = 0.7 * velocity + gradient
        update = iterated(gradient + 0.7 * velocity, 2)
        expected = expected * 2 / np.linalg.norm(expected) - 0.1 * update
    np.testing.assert_allclose(kernel.reshape(18, 4), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [False, True])
def test_all_other_variables_are_those_of_sgd_at_their_rates(schedule):
    def rate(factor):
        if schedule:
            return keras.optimizers.schedules.PolynomialDecay(0.1 * factor, 3, 0.0)
        return 0.1 * factor

    _, bias, head = trained(Muon(rate(1), plain_rate=3, bias_rate=0.5, plain_momentum=0.8))
    _, expected, _ = trained(keras.optimizers.SGD(rate(0.5), 0.8, nesterov=True))
    np.testing.assert_allclose(bias, expected, rtol=1e-6)
    _, _, expected = trained(keras.optimizers.SGD(rate(3), 0.8, nesterov=True))
    np.testing.assert_allclose(head, expected, rtol=1e-6)


def test_with_all_kernels_plain_it_is_exactly_sgd():
    plain = Muon(0.1, plain=("conv", "class_maps"), plain_rate=1, bias_rate=1, plain_momentum=0.9)
    for one, other in zip(
        trained(plain), trained(keras.optimizers.SGD(0.1, 0.9, nesterov=True)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(18, 4), (4, 18), (5, 5), (1, 7)])
def test_an_orthogonal_matrix_has_the_singular_vectors_and_values_near_1(shape):
    matrix = RNG.normal(size=shape).astype("float32")
    result = np.asarray(orthogonal(matrix, 5), "float64")
    values = np.linalg.svd(result, compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.25
    left, _, right = np.linalg.svd(matrix.astype("float64"), full_matrices=False)
    back = left.T @ result @ right.T  # diagonal, if the vectors are the same
    np.testing.assert_allclose(back, np.diag(np.diag(back)), atol=1e-3)


def test_no_gradient_leaves_the_direction_of_a_kernel():
    made = variables()
    before = np.asarray(made[0])
    optimizer = Muon(0.1)
    optimizer.build(made)
    optimizer.apply([np.zeros(shape, "float32") for shape in SHAPES.values()])
    after = np.asarray(made[0])
    np.testing.assert_allclose(after, before * 2 / np.linalg.norm(before), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(made[1]), np.asarray(variables()[1]))


def test_its_configuration_makes_it_again():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.3, 10, 0.0)
    optimizer = Muon(schedule, 0.5, plain="logits", plain_rate=2, bias_rate=0.3, steps=4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, Muon)
    assert again.get_config() == optimizer.get_config()
    for one, other in zip(trained(again), trained(optimizer), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "arguments",
    [{"momentum": 2}, {"plain_momentum": -1}, {"bias_rate": -1}, {"plain_rate": -1}, {"steps": 0}],
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="momentum is in"):
        Muon(**arguments)
