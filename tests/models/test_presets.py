import keras
import numpy as np
import pytest

import zoo

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 16, 16, 3)).astype("float32")
LABELS = np.arange(20) % 10


def built(name, steps=200, epochs=10, **arguments):
    keras.utils.set_random_seed(0)
    chosen = zoo.preset(name, steps=steps, epochs=epochs, **arguments)
    model = zoo.nin_dsn((16, 16, 3), 10, width=0.1, **chosen.model)
    model.compile(chosen.optimizer, chosen.loss, metrics=["accuracy"])
    return model


def test_the_official_net_has_the_heads_of_the_released_code():
    # The full net on 32 x 32 images; notes: 1,966,090 + 491,530 + 122,890 beside the trunk.
    chosen = zoo.preset("official", steps=200_000, epochs=400)
    model = zoo.nin_dsn((32, 32, 3), 10, **chosen.model)
    assert model.trunk.count_params() == 966_986
    heads = {tap: head.count_params() for tap, head in model.companions.items()}
    assert heads == {"conv1": 1_966_090, "conv2": 491_530, "conv3": 122_890}
    for tap, limit in (("conv1", 0.00123526), ("conv2", 0.00247), ("conv3", 0.00494)):
        kernel = model.companions[tap].classifier.kernel.numpy()
        assert np.abs(kernel).max() == pytest.approx(limit, rel=5e-3)
    # Before its ReLU: half of the values are negative.
    features = keras.Model(model.trunk.input, model.trunk.get_layer("conv1").output)
    assert features(RNG.normal(size=(1, 32, 32, 3))).numpy().min() < 0


def test_the_official_schedule_is_that_of_the_released_solvers():
    chosen = zoo.preset("official", steps=200_000, epochs=400)
    config = chosen.optimizer.get_config()
    schedule = keras.optimizers.schedules.deserialize(config["learning_rate"])
    steps = (0, 49_999, 50_000, 149_999, 150_000, 169_999, 170_000, 199_999)
    rates = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(rates, [0.025] * 4 + [0.00125] * 2 + [1e-4] * 2)
    weight = chosen.model["companion_weight"]
    assert [float(weight(step)) for step in (0, 49_999, 50_000)] == [1, 1, 0]
    assert chosen.optimizer.fresh_momentum_at == [50_000, 170_000]
    factor = chosen.optimizer.multipliers["companion"]
    assert float(factor(0)) == pytest.approx(1e-3)
    assert float(factor(50_000)) == pytest.approx(2.6e-4, rel=0.01)


def test_one_official_step_moves_each_variable_at_its_rate():
    """Against the gradients of the objective and Caffe's rule, by hand."""
    import tensorflow as tf

    model = built("official")
    model.trunk.trainable = True
    variables = model.trainable_variables
    before = [v.numpy() for v in variables]
    keras.utils.set_random_seed(3)
    with tf.GradientTape() as tape, model.with_companions():
        outputs = model(IMAGES, training=False)
        loss = model.compute_loss(IMAGES, LABELS, outputs)
    gradients = tape.gradient(loss, [v.value for v in variables])
    model.optimizer.apply(gradients, variables)
    for variable, start, gradient in zip(variables, before, gradients, strict=True):
        factor = 2.0 if "bias" in variable.path else 1.0
        factor *= 0.1 if "class_maps" in variable.path else 1.0
        factor *= 1e-3 if "companion" in variable.path else 1.0
        expected = start - 0.025 * factor * gradient.numpy()
        np.testing.assert_allclose(variable, expected, atol=1e-6, err_msg=variable.path)
    # At the start no score is far from 0, and each one-vs-all hinge near 10.
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert logs["conv3_loss"] == pytest.approx(10, rel=0.05)


def test_the_papers_companions_fall_linearly_by_epochs_and_switch_off():
    chosen = zoo.preset("paper", steps=200, epochs=10)
    weight = chosen.model["companion_weight"]
    weights = [float(weight(step)) for step in (0, 19, 20, 100, 199, 200)]
    np.testing.assert_allclose(weights, [0.1, 0.1, 0.09, 0.05, 0.01, 0], atol=1e-7)
    model = built("paper")
    logs = model.fit(IMAGES, LABELS, verbose=0).history
    assert logs["mlpconv1_gate"] == [1.0]
    expected = 9 * np.ones(1)  # nine differences of scores near zero, a hinge of 1 each
    np.testing.assert_allclose(logs["mlpconv1_loss"], expected, rtol=0.3)


def test_the_modern_companions_fade_by_a_cosine():
    weight = zoo.preset("modern", steps=100, epochs=10).model["companion_weight"]
    assert [float(weight(step)) for step in (0, 50, 100)] == pytest.approx([0.3, 0.15, 0])
    model = built("modern")
    assert set(model.fit(IMAGES, LABELS, verbose=0).history) >= {"mlpconv1_loss", "output_loss"}


@pytest.mark.parametrize("name", ["paper", "official", "modern"])
def test_an_objective_of_ones_own_takes_the_place_of_the_presets(name):
    softmax = zoo.preset(name, steps=10, epochs=1, objective="softmax").loss
    assert softmax.name == "softmax_cross_entropy"
    assert "hinge" in zoo.preset(name, steps=10, epochs=1, objective="svm").loss.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "papers"}, "modern, official, paper"),
        ({"name": "paper", "objective": "hinge"}, "'hinge'"),
        ({"name": "paper", "steps": 3}, "steps=3, epochs=10"),
    ],
)
def test_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.preset(**{"steps": 100, "epochs": 10, **arguments})
