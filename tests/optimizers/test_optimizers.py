import json

import keras
import numpy as np
import pytest
from keras import ops

from zoo.optimizers import CompanionDecay, InversePowerDecay, LayerwiseSGD, warm_cosine_sgd

pytestmark = pytest.mark.eager

PATHS = ["conv1/kernel", "conv1/bias", "cccp6/kernel", "cccp6/bias"]
STEPS = 6
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, len(PATHS), 2, 3)).astype("float32")
FIRST = np.random.default_rng(1).normal(size=(len(PATHS), 2, 3)).astype("float32")
CAFFE = {"bias": 2.0, "cccp6/": 0.1}
CAFFE_FACTORS = [1, 2, 0.1, 0.2]


def variables(paths=PATHS):
    made = []
    for path, value in zip(paths, FIRST, strict=False):
        scope, name = path.split("/")
        with keras.name_scope(scope):
            made.append(keras.Variable(value, name=name))
    assert [variable.path for variable in made] == list(paths)
    return made


def trained(optimizer, gradients=GRADIENTS):
    """The values of the variables after each step."""
    weights = variables()
    after = []
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in step], weights)
        after.append([ops.convert_to_numpy(weight) for weight in weights])
    return np.array(after)


def caffe(rates, factors, momentum, gradients=GRADIENTS, fresh=()):
    """Caffe's SGDSolver: `rates` one a step; `factors` one a variable, or a row of them a step."""
    weights, history, after = np.float64(FIRST), np.zeros(FIRST.shape), []
    factors = np.broadcast_to(factors, (len(gradients), len(PATHS)))
    for step, gradient in enumerate(np.float64(gradients)):
        if step in fresh:
            history = np.zeros(FIRST.shape)
        for index in range(len(PATHS)):
            local_rate = rates[step] * factors[step][index]
            history[index] = momentum * history[index] + local_rate * gradient[index]
        weights = weights - history
        after.append(weights)
    return np.array(after)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return ops.power(0.5, ops.cast(step, "float32"))


HALVED = 0.5 ** np.arange(STEPS)


def test_the_update_is_that_of_caffe_with_a_factor_a_layer():
    got = trained(LayerwiseSGD(0.1, 0.9, multipliers=CAFFE))
    expected = caffe([0.1] * STEPS, CAFFE_FACTORS, 0.9)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(got - caffe([0.1] * STEPS, 1, 0.9)).max() > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_learning_rate_may_be_a_schedule_too(momentum):
    got = trained(LayerwiseSGD(Halving(), momentum, multipliers=CAFFE))
    np.testing.assert_allclose(got, caffe(HALVED, CAFFE_FACTORS, momentum), rtol=1e-5, atol=1e-6)


def test_a_factor_may_be_a_schedule_of_the_step():
    optimizer = LayerwiseSGD(0.1, 0.9, multipliers={"bias": 2.0, "cccp6/bias": Halving()})
    factors = [[1, 2, 1, 2 * half] for half in HALVED]
    np.testing.assert_allclose(
        trained(optimizer), caffe([0.1] * STEPS, factors, 0.9), rtol=1e-5, atol=1e-6
    )


def test_two_schedules_multiply():
    optimizer = LayerwiseSGD(
        0.1, multipliers={"bias": Halving(), "conv1": InversePowerDecay(3.0, 1.0, 2.0)}
    )
    squares = 3 / (1 + np.arange(STEPS)) ** 2
    factors = np.stack([squares, squares * HALVED, np.ones(STEPS), HALVED], 1)
    np.testing.assert_allclose(
        trained(optimizer), caffe([0.1] * STEPS, factors, 0), rtol=1e-5, atol=1e-6
    )


def test_factor_zero_keeps_a_layer_as_it_is():
    after = trained(LayerwiseSGD(0.1, 0.9, multipliers={"^conv1/": 0}))
    np.testing.assert_array_equal(after[-1][:2], FIRST[:2])
    assert (np.abs(after[-1][2:] - FIRST[2:]) > 1e-3).all()


@pytest.mark.parametrize("multipliers", [{}, CAFFE])
def test_momentum_starts_afresh_at_the_steps_given(multipliers):
    factors = CAFFE_FACTORS if multipliers else 1
    optimizer = LayerwiseSGD(0.1, 0.9, multipliers=multipliers, fresh_momentum_at=[2, 5])
    got = trained(optimizer)
    expected = caffe([0.1] * STEPS, factors, 0.9, fresh=(2, 5))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    carried = caffe([0.1] * STEPS, factors, 0.9)
    assert [np.abs(a - b).max() > 1e-3 for a, b in zip(got, carried, strict=True)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_fresh_momentum_is_a_new_optimizer_with_nesterov_too():
    whole = trained(LayerwiseSGD(0.1, 0.9, True, fresh_momentum_at=[3]))
    weights = variables()
    for part in (GRADIENTS[:3], GRADIENTS[3:]):
        stock = keras.optimizers.SGD(0.1, 0.9, True)
        for step in part:
            stock.apply(list(step), weights)
    np.testing.assert_array_equal(whole[-1], [ops.convert_to_numpy(w) for w in weights])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_with_nothing_given_it_is_the_sgd_of_keras(momentum, nesterov):
    arguments = {"momentum": momentum, "nesterov": nesterov, "weight_decay": 0.01, "clipnorm": 1.0}
    ours = trained(LayerwiseSGD(0.1, **arguments))
    np.testing.assert_array_equal(ours, trained(keras.optimizers.SGD(0.1, **arguments)))


def test_one_factor_for_all_is_a_learning_rate_with_nesterov_too():
    ours = trained(LayerwiseSGD(0.5, 0.9, True, multipliers={"": 0.25}, fresh_momentum_at=[0]))
    np.testing.assert_array_equal(ours, trained(keras.optimizers.SGD(0.125, 0.9, True)))


def test_steps_are_updates_where_gradients_accumulate():
    halves = {"multipliers": {"cccp6/": Halving(), "bias": 2.0}, "fresh_momentum_at": [2]}
    optimizer = LayerwiseSGD(0.1, 0.9, gradient_accumulation_steps=2, **halves)
    got = trained(optimizer)
    means = GRADIENTS.reshape(3, 2, *GRADIENTS.shape[1:]).mean(1)
    factors = [[1, 2, half, 2 * half] for half in HALVED[:3]]
    expected = caffe([0.1] * 3, factors, 0.9, means, fresh=[2])
    np.testing.assert_allclose(got[1::2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[0], FIRST)
    np.testing.assert_array_equal(got[2::2], got[1:-1:2])
    assert int(optimizer.iterations) == 3


def model():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "tanh", bias_initializer="ones", name="hidden"),
            keras.layers.Dense(3, name="output"),
        ],
        name="net",
    )
    return net


IMAGES = np.random.default_rng(2).normal(size=(12, 4)).astype("float32")
TARGETS = np.random.default_rng(3).normal(size=(12, 3)).astype("float32")


def fitted(net, epochs=1):
    net.fit(IMAGES, TARGETS, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return net.get_weights()


def test_fit_moves_each_layer_by_its_factor():
    steps = []
    for optimizer in (
        keras.optimizers.SGD(0.01),
        LayerwiseSGD(0.01, multipliers={"bias": 2.0, "output/": 0.1, "hidden/kernel": 0}),
    ):
        net = model()
        before = net.get_weights()
        net.compile(optimizer, "mse")
        net.fit(IMAGES, TARGETS, batch_size=12, verbose=0)
        steps.append([w - b for w, b in zip(net.get_weights(), before, strict=True)])
    for stock, ours, factor in zip(*steps, [0, 2, 0.1, 0.2], strict=True):
        assert np.abs(stock).max() > 1e-4
        np.testing.assert_allclose(ours, factor * stock, rtol=1e-2, atol=2e-7)


def test_a_loaded_model_trains_on_as_the_saved_one(tmp_path):
    multipliers = {
        "bias": 2.0,
        "hidden": InversePowerDecay(1.0, 0.5, 0.75),
        r"output/kernel$": CompanionDecay(0.5, 4, 2, compounding=False),
    }
    net = model()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    net.compile(
        LayerwiseSGD(schedule, 0.9, multipliers=multipliers, fresh_momentum_at=[4, 7]), "mse"
    )
    fitted(net)
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    start, ended, again = net.get_weights(), fitted(net, 2), fitted(loaded, 2)
    for first, one, other in zip(start, ended, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one - first).max() > 1e-4
    assert loaded.optimizer.get_config() == net.optimizer.get_config()


def test_what_does_not_decay_does_not_after_loading_either(tmp_path):
    net = model()
    net.compile(warm_cosine_sgd(40, 0.5, 0.1), "mse")
    fitted(net)
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(fitted(net, 2), fitted(loaded, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.optimizer.get_config() == net.optimizer.get_config()


def test_a_config_is_json_and_gives_the_same_optimizer():
    optimizer = LayerwiseSGD(
        0.1, 0.9, True, multipliers={"bias": 2, "conv1/": InversePowerDecay(1.0, 0.5, 0.75)}
    )
    config = json.loads(json.dumps(optimizer.get_config()))
    copy = LayerwiseSGD.from_config(config)
    assert config == optimizer.get_config()
    through_keras = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    expected = trained(optimizer)
    for same in (copy, through_keras):
        np.testing.assert_array_equal(trained(same), expected)


def test_a_schedule_of_ones_own_comes_back_with_custom_objects():
    optimizer = LayerwiseSGD(0.1, multipliers={"bias": Named(2.0)})
    copy = LayerwiseSGD.from_config(optimizer.get_config(), custom_objects={"Named": Named})
    np.testing.assert_array_equal(
        trained(copy), trained(LayerwiseSGD(0.1, multipliers={"bias": 2}))
    )


class Named(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, value):
        self.value = value

    def __call__(self, step):
        return self.value

    def get_config(self):
        return {"value": self.value}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multipliers": {"bias": -1.0}}, "'bias' is a number >= 0, .*; received -1.0"),
        ({"multipliers": {"bias": float("nan")}}, "'bias' is .* received nan"),
        ({"multipliers": {"bias": float("inf")}}, "'bias' is .* received inf"),
        ({"multipliers": {"bias": "2"}}, "'bias' is .* received '2'"),
        ({"multipliers": {"bias": None}}, "'bias' is .* received None"),
        ({"multipliers": {"(bias": 2.0}}, r"received '\(bias': missing \)"),
        ({"multipliers": {3: 2.0}}, "regular expression; received 3"),
        ({"multipliers": {"bias": 2.0}, "weight_decay": 5e-4}, r"L2\(0.00025\)"),
        ({"fresh_momentum_at": [100, -1]}, "received -1"),
        ({"fresh_momentum_at": [1.5]}, "received 1.5"),
    ],
)
def test_layerwise_sgd_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseSGD(0.1, 0.9, **arguments)


def test_an_expression_found_in_no_path_is_refused_when_it_is_built():
    optimizer = LayerwiseSGD(0.1, multipliers={"bias": 2.0, "ccp7": 0.1})
    message = (
        "'ccp7' matches the path of no trainable variable; the paths are conv1/kernel, conv1/bias, "
        r"cccp6/kernel, cccp6/bias\.$"
    )
    with pytest.raises(ValueError, match=message):
        optimizer.build(variables())
    net = keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(4))])
    net.compile(LayerwiseSGD(0.1, multipliers={"ccp7": 0.1}), "mse")
    with pytest.raises(ValueError, match=r"'ccp7'.*(kernel|bias), \.\.\.\."):
        net.fit(IMAGES[:, :2], TARGETS[:, :2], verbose=0)


def both(schedule, steps):
    """Of plain numbers, and of the tensors of a compiled step."""
    import tensorflow as tf

    eager = [ops.convert_to_numpy(schedule(step)) for step in steps]
    compiled = tf.function(schedule)
    graph = [compiled(tf.constant(step, "int64")).numpy() for step in steps]
    np.testing.assert_array_equal(eager, graph)
    assert eager[0].dtype == np.float32
    return eager


def test_inverse_power_decay_is_the_policy_of_caffe():
    steps = [0, 1, 500, 50_000]
    got = both(InversePowerDecay(2.0, 1e-4, 0.75), steps)
    np.testing.assert_allclose(got, [2.0 * (1 + 1e-4 * s) ** -0.75 for s in steps], rtol=1e-5)
    assert got[-1] == pytest.approx(2 * 0.26, rel=0.01)


@pytest.mark.parametrize("compounding", [True, False])
def test_companion_decay_is_the_rule_of_the_paper_in_both_readings(compounding):
    epochs, steps_per_epoch = 5, 3
    expected, weight = [], 0.4
    for epoch in range(epochs + 2):
        if compounding:
            weight = weight * 0.1 * (1 - epoch / epochs) if epoch else weight
        else:
            weight = 0.4 * 0.1 * (1 - epoch / epochs)
        expected += [max(weight, 0) if epoch < epochs else 0] * steps_per_epoch
    schedule = CompanionDecay(0.4, epochs, steps_per_epoch, compounding)
    got = both(schedule, range(len(expected)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got[0] == np.float32(0.4 if compounding else 0.04)
    assert (got[14] > 0, got[15], got[20]) == (True, 0, 0)


def test_companion_decay_compounds_unless_told():
    first_steps = [float(CompanionDecay(1.0, 100, 10)(step)) for step in (9, 10, 29, 30)]
    np.testing.assert_allclose(first_steps, [1, 0.099, 0.009702, 0.000941094], rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        InversePowerDecay(2.0, 1e-4, 0.75),
        CompanionDecay(0.4, 5, 3),
        CompanionDecay(0.4, 5, 3, compounding=False),
    ],
)
def test_a_schedule_comes_back_from_its_config(schedule):
    config = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    copy = keras.optimizers.schedules.deserialize(config)
    steps = range(0, 20, 4)
    assert [float(copy(step)) for step in steps] == [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (InversePowerDecay, (-1.0, 1e-4, 0.75), "initial is a number >= 0; received -1.0"),
        (InversePowerDecay, (1.0, -1e-4, 0.75), "rate is a number >= 0; received -0.0001"),
        (InversePowerDecay, (1.0, 1e-4, float("nan")), "power is a number >= 0; received nan"),
        (CompanionDecay, (float("inf"), 5, 3), "initial is a number >= 0; received inf"),
        (CompanionDecay, (1.0, 0, 3), "epochs is a whole number >= 1; received 0"),
        (CompanionDecay, (1.0, 5, 2.5), "steps_per_epoch is a whole number >= 1; received 2.5"),
    ],
)
def test_a_schedule_refuses(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)
