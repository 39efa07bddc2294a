"""`DeeplySupervised` wraps functional and sequential models, and finds layers within models."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles import softmax

import zoo
from zoo import CompanionHead, DecodingHead, DeeplySupervised

pytestmark = pytest.mark.eager

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype("float32")
LABELS = np.arange(8) % 3


def stack():
    """Layers that show it if they run twice: batch normalization and dropout."""
    keras.utils.set_random_seed(1)
    return [
        layers.Rescaling(1 / 255),
        layers.Conv2D(5, 3, activation="relu", name="conv1"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.3, seed=3),
        layers.Conv2D(6, 3, activation="relu", name="conv2"),
        layers.Flatten(),
        layers.Dense(3, name="logits"),
    ]


def chain(parts):
    x = images = keras.Input((8, 8, 1))
    for part in parts:
        x = part(x)
    return keras.Model(images, x)


def functional():
    return chain(stack())


def sequential():
    return keras.Sequential([keras.Input((8, 8, 1)), *stack()])


def sequential_of_one_by_one():
    model = keras.Sequential()
    for part in (keras.Input((8, 8, 1)), *stack()):
        model.add(part)
    return model


def called_elsewhere():
    model = sequential()
    model(keras.Input((8, 8, 1)))
    return model


def with_layers_of_another_model():
    parts = stack()
    chain(parts[:5])
    return chain(parts)


def nested():
    parts = stack()
    backbone = chain(parts[:5])
    backbone.name = "backbone"
    return chain([backbone, *parts[5:]])


TRUNKS = [sequential, sequential_of_one_by_one, called_elsewhere, with_layers_of_another_model]


def supervised(trunk):
    inside, whole = "conv1", "conv2"
    if trunk is nested:
        inside, whole = "backbone/conv1", "backbone"
    heads = [
        CompanionHead(3, kernel_initializer=keras.initializers.GlorotUniform(seed))
        for seed in (7, 8)
    ]
    model = DeeplySupervised(
        trunk(),
        {inside: heads[0], whole: heads[1]},
        decoders={inside: DecodingHead(), whole: DecodingHead(of=inside)},
    )
    for decoder in model.decoders.values():
        decoder.set_weights([np.full(w.shape, 0.1) for w in decoder.get_weights()])
    model.compile(keras.optimizers.SGD(0.01), zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    return model


def fit(model):
    return model.fit(IMAGES, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0).history


@pytest.fixture(scope="module")
def reference():
    model = supervised(functional)
    return model, fit(model)


@pytest.mark.parametrize("trunk", [*TRUNKS, nested])
def test_every_trunk_trains_to_the_numbers_of_the_functional_one(trunk, reference, tmp_path):
    expected, expected_logs = reference
    model = supervised(trunk)
    logs = {key.replace("backbone.conv1", "conv1"): value for key, value in fit(model).items()}
    logs = {key.replace("backbone", "conv2"): value for key, value in logs.items()}
    assert logs.keys() == expected_logs.keys()
    for key, values in logs.items():
        np.testing.assert_allclose(values, expected_logs[key], rtol=1e-5, err_msg=key)
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for one, other in zip(
        model.exits(IMAGES).values(), expected.exits(IMAGES).values(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )
    assert again.exits(IMAGES).keys() == model.exits(IMAGES).keys()
    logs = [model.evaluate(IMAGES, LABELS, verbose=0) for model in (model, again)]
    np.testing.assert_allclose(*logs, rtol=1e-6)
    fit(again)
    assert again.shipped_model() is again.trunk


@pytest.mark.parametrize("trunk", [sequential, nested])
def test_what_ships_is_exported_with_its_exits(trunk, tmp_path):
    model = supervised(trunk)
    fit(model)
    served = zoo.ServedModel(
        zoo.export_savedmodel(model, ("a", "b", "c"), tmp_path / "export", exits=True)
    )
    logits = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(served.predict(IMAGES)["probabilities"], softmax(logits), atol=1e-5)


def test_a_distiller_watches_a_layer_that_a_companion_watches_too():
    model = supervised(sequential)
    hint = zoo.knowledge.Hint("conv1", "conv1")
    distiller = zoo.Distiller(student=model, teacher=functional(), knowledge=[hint])
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    logs = distiller.fit(IMAGES, LABELS, verbose=0).history
    assert {"hint_loss", "conv1_loss", "conv2_loss"} <= logs.keys()
    layer = model.trunk.get_layer("conv1")
    assert "call" not in vars(layer)  # every tap is closed


class Idle(keras.Model):
    """It has a layer that never runs."""

    def __init__(self):
        super().__init__(name="idle")
        self.used, self.unused = layers.Conv2D(2, 3, name="used"), layers.Conv2D(2, 3, name="no")

    def build(self, input_shape):
        self.used.build(input_shape)
        self.unused.build(input_shape)

    def call(self, inputs):
        return self.used(inputs)


def test_a_layer_that_does_not_run_is_refused_in_one_line():
    trunk = chain([Idle(), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"^The layer 'no' did not run .*Name a layer[^\n]*$"):
        DeeplySupervised(trunk, {"idle/no": CompanionHead(3)})
    with pytest.raises(ValueError, match=r"^Model 'idle' has no layer 'n'\. Did you mean 'no'\?"):
        DeeplySupervised(trunk, {"idle/n": CompanionHead(3)})


def test_a_model_that_trains_another_is_no_trunk():
    with pytest.raises(ValueError, match="built functional or sequential"):
        DeeplySupervised(supervised(functional), {"trunk": CompanionHead(3)})
