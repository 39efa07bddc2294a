import keras
import numpy as np
import pytest
from keras import layers
from oracles import log_softmax, softmax

from zoo import CompanionHead, DeeplySupervised, nin_dsn

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 1)).astype("float32")
LABELS = RNG.integers(0, 3, 24)
WEIGHTS = RNG.uniform(0, 2, 24).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plain(dropout=0.0):
    """A small net with batch normalization, a regularizer and, where asked, dropout."""
    keras.utils.set_random_seed(1)
    x = images = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(5, 3, activation="relu", name="conv1", kernel_regularizer="l2")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(dropout, seed=3)(x)
    x = layers.Conv2D(6, 3, activation="relu", name="conv2")(x)
    return keras.Model(images, layers.Dense(3)(layers.Flatten(name="flatten")(x)))


def deep(weight, form="pool", **arguments):
    model = plain(**arguments)
    heads = {"conv1": CompanionHead(3, form), "conv2": CompanionHead(3, form)}
    return DeeplySupervised(model, heads, companion_weight=weight)


def compiled(model, loss=LOSS, **arguments):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], **arguments)
    return model


def cross_entropy(logits, labels=LABELS, weights=None):
    """Mean over the batch of -log softmax at the label, times the weights."""
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    return np.mean(losses * (1 if weights is None else weights))


def head_scores(model, layer, images=IMAGES):
    features = keras.Model(model.trunk.input, model.trunk.get_layer(layer).output)(images)
    return model.companions[layer](features)


@pytest.mark.parametrize("form", ["pool", "dense"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_is_the_output_loss_plus_the_weighted_companions_plus_regularization(
    form, weights
):
    model = compiled(deep({"conv1": 0.3, "conv2": 0.7}, form))
    logs = model.evaluate(  # 24 images in batches of 7: the last batch weighs less
        IMAGES, LABELS, sample_weight=weights, batch_size=7, verbose=0, return_dict=True
    )
    expected = {
        "output_loss": cross_entropy(model.trunk(IMAGES), weights=weights),
        "conv1_loss": cross_entropy(head_scores(model, "conv1"), weights=weights),
        "conv2_loss": cross_entropy(head_scores(model, "conv2"), weights=weights),
    }
    kernel = model.trunk.get_layer("conv1").kernel.numpy()
    expected["loss"] = (
        expected["output_loss"]
        + 0.3 * expected["conv1_loss"]
        + 0.7 * expected["conv2_loss"]
        + 0.01 * np.square(kernel).sum()
    )
    for key, value in expected.items():
        np.testing.assert_allclose(logs[key], value, rtol=1e-4, err_msg=key)


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({}, "float32"),
        ({"sample_weight": WEIGHTS}, "float32"),
        ({"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}, "float32"),
        ({"sample_weight": WEIGHTS}, "mixed_bfloat16"),
    ],
    ids=["plain", "sample weights", "class weights", "sample weights in half precision"],
    indirect=["policy"],
)
def test_with_weight_zero_it_is_the_plain_model_step_by_step(arguments, policy):
    alone, supervised = compiled(plain(0.3)), compiled(deep(0.0, dropout=0.3))
    histories = []
    for model in (alone, supervised):
        fitted = model.fit(
            IMAGES, LABELS, batch_size=8, epochs=3, shuffle=False, verbose=0, **arguments
        )
        histories.append(fitted.history)
    for key in ("loss", "accuracy"):
        np.testing.assert_allclose(histories[0][key], histories[1][key], rtol=1e-6)
    for one, other in zip(alone.get_weights(), supervised.trunk.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    metrics = [m.evaluate(IMAGES, LABELS, verbose=0, return_dict=True) for m in (alone, supervised)]
    np.testing.assert_allclose(metrics[0]["loss"], metrics[1]["loss"], rtol=1e-6)
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"]


def test_companions_move_the_layers_below_them_and_themselves():
    supervised, plainly = compiled(deep(1.0)), compiled(deep(0.0))
    before = [w.copy() for w in supervised.companions["conv1"].get_weights()]
    for model in (supervised, plainly):
        model.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    assert np.abs(before[0] - supervised.companions["conv1"].get_weights()[0]).max() > 1e-4
    kernels = [m.trunk.get_layer("conv1").kernel.numpy() for m in (supervised, plainly)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_one_step_is_the_gradient_of_the_written_objective():
    import tensorflow as tf

    model = deep({"conv1": 0.3, "conv2": 0.7})
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=LOSS)
    variables = model.trainable_variables
    before = [v.numpy() for v in variables]
    normalizations = [layer for layer in model.trunk.layers if "normalization" in layer.name]
    network = keras.Model(
        model.trunk.input,
        [model.trunk.output, *(model.trunk.get_layer(c).output for c in ("conv1", "conv2"))],
    )
    with tf.GradientTape() as tape:
        output, one, two = network(IMAGES, training=True)
        objective = (
            LOSS(LABELS, output)
            + 0.3 * LOSS(LABELS, model.companions["conv1"](one))
            + 0.7 * LOSS(LABELS, model.companions["conv2"](two))
            + 0.01 * tf.reduce_sum(model.trunk.get_layer("conv1").kernel ** 2)
        )
    gradients = tape.gradient(objective, [v.value for v in variables])
    for layer in normalizations:
        layer.moving_mean.assign(np.zeros(5))
    model.fit(IMAGES, LABELS, batch_size=24, verbose=0)
    for variable, start, gradient in zip(variables, before, gradients, strict=True):
        np.testing.assert_allclose(
            variable, start - 0.1 * gradient, atol=1e-5, err_msg=variable.path
        )


def test_the_companion_weight_follows_its_schedule_and_the_schedule_survives_a_file(tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [1.0, 0.5, 0.0])
    model = compiled(deep({"conv1": schedule, "conv2": 0.25}))

    def weight():
        model.optimizer.learning_rate = 0.0  # so that the heads' losses stay as they are
        logs = model.fit(IMAGES, LABELS, batch_size=24, verbose=0).history
        regularization = 0.01 * np.square(model.trunk.get_layer("conv1").kernel.numpy()).sum()
        rest = logs["loss"][0] - logs["output_loss"][0] - regularization
        return (rest - 0.25 * logs["conv2_loss"][0]) / logs["conv1_loss"][0]

    np.testing.assert_allclose([weight() for _ in range(3)], [1, 1, 0.5], rtol=1e-3)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose([weight() for _ in range(2)], [0.5, 0], atol=1e-3)


def test_predict_and_calls_give_the_output_alone_and_the_trunk_is_an_ordinary_model(tmp_path):
    model = compiled(deep(0.3))
    model.fit(IMAGES, LABELS, verbose=0)
    logits = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(model.trunk.predict(IMAGES, verbose=0), logits)
    np.testing.assert_allclose(model(IMAGES), logits, atol=1e-6)
    model.trunk.save(tmp_path / "trunk.keras")
    trunk = keras.models.load_model(tmp_path / "trunk.keras")
    np.testing.assert_array_equal(trunk.predict(IMAGES, verbose=0), logits)
    assert trunk.count_params() == plain().count_params()
    assert model(IMAGES, training=True).shape == (24, 3)


def test_a_saved_model_goes_on_training_as_if_it_had_stayed(tmp_path):
    model = compiled(nin_dsn((8, 8, 1), 3, width=0.1, dropout=0))
    model.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert len(again.layers) == 3  # the trunk and two heads


@pytest.mark.parametrize("loss", ["categorical_crossentropy", keras.losses.categorical_hinge])
def test_losses_given_by_name_or_as_functions_serve_all_heads(loss):
    model = compiled(deep(0.5), loss=loss)
    targets = np.eye(3)[LABELS]
    logs = model.evaluate(IMAGES, targets, verbose=0, return_dict=True)
    function = keras.losses.get(loss)
    expected = np.mean(function(targets, np.asarray(head_scores(model, "conv1"))))
    np.testing.assert_allclose(logs["conv1_loss"], expected, rtol=1e-4)


def test_the_options_of_fit_and_compile_are_those_of_keras():
    reference = compiled(deep(0.5))
    reference.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for options in ({"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}):
        model = compiled(deep(0.5), **options)
        model.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
        for one, other in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_network_of_keras_applications_trains_goes_on_and_ships_its_trunk(tmp_path):
    from zoo import ServedModel, export_savedmodel

    keras.utils.set_random_seed(0)
    # Of all of them it takes the least time to trace.
    base = keras.applications.VGG16(
        input_shape=(32, 32, 3), weights=None, include_top=False, pooling="avg"
    )
    trunk = keras.Model(base.input, keras.layers.Dense(3)(base.output))
    layer = "block3_conv3"
    model = compiled(DeeplySupervised(trunk, {layer: CompanionHead(3)}, companion_weight=0.5))
    images = RNG.integers(0, 256, (4, 32, 32, 3)).astype("float32")
    logs = model.fit(images, LABELS[:4], verbose=0).history
    assert set(logs) == {"accuracy", "loss", "output_loss", f"{layer}_loss"}
    np.testing.assert_allclose(
        logs["loss"][0], logs["output_loss"][0] + 0.5 * logs[f"{layer}_loss"][0], rtol=1e-4
    )
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    logs = [m.fit(images, LABELS[:4], verbose=0).history["loss"] for m in (model, again)]
    np.testing.assert_allclose(*logs, rtol=1e-4)
    served = ServedModel(export_savedmodel(again.trunk, ("a", "b", "c"), tmp_path / "export"))
    probabilities = served.predict(images)["probabilities"]
    logits = again.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-5)


def unbuilt():
    return keras.Sequential([layers.Dense(3)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeeplySupervised(plain(), {"conv_1": CompanionHead(3)}), "mean 'conv1'"),
        (
            lambda: DeeplySupervised(plain(), {"conv1": CompanionHead(4)}),
            r"\(None, 4\).*\(None, 3\)",
        ),
        (lambda: DeeplySupervised(plain(), {"flatten": CompanionHead(3)}), "expects maps"),
        (lambda: DeeplySupervised(unbuilt(), {"dense": CompanionHead(3)}), "built functional"),
        (lambda: deep(-0.1), "-0.1"),
        (lambda: deep(float("nan")), "nan"),
        (
            lambda: deep(keras.optimizers.schedules.CosineDecay(-1.0, 5)),
            "a schedule that starts at -1.0",
        ),
        (lambda: deep({"conv1": 1.0}), "conv2"),
        (lambda: compiled(deep(0.1), loss=None).fit(IMAGES, LABELS, verbose=0), "one loss"),
        (lambda: compiled(deep(0.1), loss=[LOSS]).fit(IMAGES, LABELS, verbose=0), "one loss"),
    ],
)
def test_it_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
