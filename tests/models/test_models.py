import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.layers import GlobalContrastNormalization

RELEASED = [
    # variant, input shape, classes, trainable parameters, sides of the maps after each pooling
    ("mnist", (28, 28, 1), 10, 349_674, [14, 7]),
    ("cifar10", (32, 32, 3), 10, 966_986, [16, 8]),
    ("cifar100", (32, 32, 3), 100, 984_356, [16, 8]),
    ("svhn", (32, 32, 3), 10, 1_986_026, [16, 8]),
    ("imagenet", (224, 224, 3), 1000, 7_595_176, [27, 13, 6]),
]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(("variant", "shape", "classes", "parameters", "sides"), RELEASED)
def test_the_released_nets_have_their_sizes(variant, shape, classes, parameters, sides):
    model = zoo.nin(shape, classes, variant=variant)
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == parameters
    pools = [layer.output.shape[1:3] for layer in model.layers if layer.name.startswith("pool")]
    assert pools == [(side, side) for side in sides]
    assert model.get_layer("class_maps").output.shape == (None, sides[-1], sides[-1], classes)
    assert model.output_shape == (None, classes)


def test_the_fast_net_halves_its_maps_three_times_behind_a_whitening():
    whitening = zoo.PatchWhitening()
    whitening.adapt(np.random.default_rng(0).uniform(-1, 1, (9, 32, 32, 3)))
    model = zoo.nin(variant="fast", preprocessing=[whitening, keras.layers.ReLU()])
    blocks = [layer.output.shape[1:] for layer in model.layers if "mlpconv" in layer.name]
    assert blocks == [*[(15, 15, 64)] * 2, *[(7, 7, 256)] * 2, *[(3, 3, 256)] * 2]
    small = zoo.nin(variant="small", preprocessing=[whitening, keras.layers.ReLU()])
    filters = [layer.filters for layer in small.layers if "mlpconv" in layer.name]
    assert filters == [(32,), (32, 32), (48,), (48, 48), (56,), (56, 56)]
    with pytest.raises(ValueError, match=r"mlpconv5 .* 1 x 1, and halves .* too small"):
        zoo.nin((4, 4, 1), 4, variant="fast")
    with pytest.raises(ValueError, match="no linear_taps"):
        zoo.nin(variant="fast", linear_taps=True)


def deviations(model):
    return [w.numpy().std() for w in model.trainable_weights if w.path.endswith("kernel")]


@pytest.mark.parametrize(
    ("variant", "classes", "expected"),
    [
        ("mnist", 10, [0.05] * 9),
        ("cifar100", 100, [0.001, 0.01, 0.01, *[0.05] * 6]),
    ],
)
def test_the_released_nets_start_with_their_deviations(variant, classes, expected):
    model = zoo.nin((32, 32, 3), classes, variant=variant)
    np.testing.assert_allclose(deviations(model), expected, rtol=0.1)


def test_the_imagenet_net_starts_with_its_deviations():
    model = zoo.nin((67, 67, 3), 1000, variant="imagenet")
    expected = [0.01, 0.05, 0.05, 0.05, 0.05, 0.05, 0.01, 0.05, 0.05, 0.05, 0.05, 0.01]
    np.testing.assert_allclose(deviations(model), expected, rtol=0.1)


@pytest.mark.parametrize(("final_relu", "expected"), [(None, True), (True, True), (False, False)])
def test_the_relu_on_the_class_maps_is_one_argument(final_relu, expected):
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1))
    model = zoo.nin((28, 28, 1), variant="mnist", final_relu=final_relu)
    maps = keras.Model(model.input, model.get_layer("class_maps").output)
    assert (np.asarray(maps(images)).min() >= 0) == expected
    assert zoo.nin((28, 28, 1)).get_layer("class_maps").activation is not keras.activations.relu


def test_classical_dropout_masks_while_training_and_halves_otherwise():
    model = zoo.nin((8, 8, 1), variant="mnist", dropout=0.25)
    before = keras.Model(model.input, model.get_layer("pool1").output)
    after = keras.Model(model.input, model.get_layer("classical_dropout1").output)
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1))
    kept, masked = np.asarray(before(images)), np.asarray(after(images, training=True))
    np.testing.assert_allclose(after(images), 0.75 * kept, rtol=1e-5)
    through = masked[kept > 0] / kept[kept > 0]
    np.testing.assert_allclose(through[through > 0], 1, rtol=1e-5)
    np.testing.assert_allclose((through == 0).mean(), 0.25, atol=0.02)


@pytest.mark.parametrize("variant", ["modern", "mnist", "cifar10"])
def test_width_scales_the_hidden_layers_alone(variant):
    model = zoo.nin((16, 16, 3), 7, variant=variant, width=0.125)
    whole = zoo.nin((16, 16, 3), 7, variant=variant)
    for block in ("mlpconv1", "mlpconv2", "mlpconv3"):
        wide = whole.get_layer(block).filters
        assert model.get_layer(block).filters == tuple(round(f / 8) for f in wide)
    assert model.output_shape == (None, 7)


def test_raw_pixels_go_in_and_are_scaled_inside():
    model = zoo.nin((8, 8, 1), width=0.1)
    first = keras.Model(model.input, model.layers[1].output)
    np.testing.assert_allclose(
        np.ravel(
            first(np.array([0, 127.5, 255]).reshape(3, 1, 1, 1) * np.ones((3, 8, 8, 1)))[:, 0, 0]
        ),
        [-1, 0, 1],
        atol=1e-6,
    )


def test_other_preprocessing_takes_the_place_of_the_scaling():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("float32")
    layer = GlobalContrastNormalization()
    one = zoo.nin((8, 8, 1), width=0.1, preprocessing=layer)
    np.testing.assert_allclose(
        keras.Model(one.input, one.layers[1].output)(images), layer(images), rtol=1e-5
    )
    none = zoo.nin((8, 8, 1), width=0.1, preprocessing=[])
    assert none.layers[1].name == "mlpconv1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "cifar"}, "'cifar'"),
        ({"classes": 1}, "classes=1"),
        ({"width": 0}, "width"),
        ({"width": float("nan")}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"input_shape": (32, 32)}, "height, width, channels"),
        ({"input_shape": (4, 4, 3), "variant": "mnist"}, "too small"),
        ({"input_shape": (28, 31, 3), "variant": "mnist"}, "28 x 31"),
    ],
)
def test_nin_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.nin(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes=1"),
        ({"hidden": (8, 0)}, r"\(8, 0\)"),
        ({"dropout": 1}, "dropout"),
        ({"input_dropout": -0.1}, "input_dropout"),
        ({"max_norm": 0}, "max_norm"),
    ],
)
def test_mlp_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.mlp(**arguments)


def test_an_mlp_is_the_formula():
    model = zoo.mlp((3, 2, 1), 4, hidden=(5, 6))
    assert [w.shape for w in model.weights[::2]] == [(6, 5), (5, 6), (6, 4)]
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 2, 1)).astype("float32")
    x = images.reshape(7, 6) / 255
    (a, b), (c, d), (e, f) = (
        model.get_layer(n).get_weights() for n in ("hidden1", "hidden2", "logits")
    )
    expected = np.maximum(np.maximum(x @ a + b, 0) @ c + d, 0) @ e + f
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_the_dropout_of_an_mlp_is_of_pixels_and_of_hidden_units():
    model = zoo.mlp((20, 20, 1), dropout=0.5, input_dropout=0.2)
    images = np.full((8, 20, 20, 1), 255.0)
    for name, rate in (("input_dropout", 0.2), ("dropout1", 0.5), ("dropout2", 0.5)):
        layer = model.get_layer(name)
        both = keras.Model(model.input, [layer.input, layer.output])  # of one pass
        inputs, outputs = both(images, training=True)
        dropped = np.asarray(outputs)[np.asarray(inputs) != 0] == 0
        np.testing.assert_allclose(dropped.mean(), rate, atol=0.03)


def test_the_incoming_weights_of_each_hidden_unit_are_limited():
    model = zoo.mlp((4, 4, 1), 3, hidden=(6, 5), max_norm=0.5)
    model.compile(keras.optimizers.SGD(1.0), LOSS)
    rng = np.random.default_rng(0)
    model.fit(rng.integers(0, 256, (32, 4, 4, 1)), rng.integers(0, 3, 32), epochs=3, verbose=0)
    norms = [
        np.linalg.norm(layer.kernel.numpy(), axis=0)
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
    assert all((norm < 0.5 + 1e-6).all() and norm.max() > 0.49 for norm in norms[:2])
    assert norms[2].max() > 0.6


MODELS = {
    "mlp": lambda: zoo.mlp((8, 8, 1), 4, hidden=(32, 32)),
    "modern": lambda: zoo.nin((8, 8, 1), 4, width=0.25, dropout=0),
    "fast": lambda: zoo.nin((8, 8, 1), 4, variant="fast", width=0.25),
    "mnist without the last relu": lambda: zoo.nin(
        (8, 8, 1), 4, variant="mnist", width=0.5, dropout=0, final_relu=False
    ),
    "dsn, pooled heads": lambda: zoo.nin_dsn((8, 8, 1), 4, width=0.25, dropout=0),
    "dsn, dense heads": lambda: zoo.nin_dsn(
        (8, 8, 1), 4, width=0.25, dropout=0, companion_form="dense"
    ),
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, "float32") for name in MODELS), ("dsn, pooled heads", "mixed_bfloat16")],
    indirect=["policy"],
)
def test_every_model_learns_four_images_and_comes_back_from_a_file(name, tmp_path, policy):
    images = np.random.default_rng(0).integers(0, 64, (4, 8, 8, 1)).astype("float32")
    labels = np.arange(4)
    for label in labels:  # a bright quarter each
        images[label, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 160
    model = MODELS[name]()
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=LOSS, metrics=["accuracy"])
    assert model.built
    model.fit(images, labels, epochs=60, verbose=0)
    model.run_eagerly = True  # tracing a graph costs more than one batch
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] == 1
    logits = model.predict(images, verbose=0)
    assert logits.dtype == np.float32
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.run_eagerly = True
    np.testing.assert_array_equal(again.predict(images, verbose=0), logits)
    trunk = getattr(model, "trunk", model)
    trunk.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(
        served.serve(images), logits, atol=1e-5 if policy == "float32" else 0.1
    )


class InMemory(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.images,)


@pytest.mark.parametrize("make", [zoo.nin, zoo.mlp])
@pytest.mark.parametrize("form", [np.asarray, keras.ops.convert_to_tensor, InMemory])
def test_scaled_pixels_are_warned_of_once(make, form):
    model = make((8, 8, 1), 3, **({"width": 0.05} if make is zoo.nin else {"hidden": (4,)}))
    model.compile("sgd", zoo.SoftmaxCrossEntropy(), run_eagerly=True)
    raw = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (raw, raw / 255 + 1, np.zeros_like(raw)):
            model.predict(form(images), verbose=0)
    for scaled in (raw / 255, raw / 127.5 - 1):
        again = type(model).from_config(model.get_config())  # it has not warned yet
        again.run_eagerly = True
        with pytest.warns(UserWarning, match=r"received pixels in .*It expects 0\.\.255"):
            again.predict(form(scaled), verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again.predict(form(scaled), verbose=0)


def test_fit_and_evaluate_warn_of_scaled_pixels_and_other_preprocessing_is_silent():
    images = np.random.default_rng(0).random((4, 8, 8, 1), "float32")
    small = {"input_shape": (8, 8, 1), "classes": 3, "width": 0.05}
    for method in ("fit", "evaluate"):
        for model, number in (
            (zoo.nin(**small), 1),
            (zoo.nin(**small, preprocessing=[]), 0),
            (zoo.nin_dsn(**small), 1),
            (zoo.Distiller(student=zoo.nin(**small), teacher=zoo.nin(**small)), 1),
        ):
            model.compile("sgd", zoo.SoftmaxCrossEntropy(), run_eagerly=True)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                getattr(model, method)(images, np.arange(4) % 3, verbose=0)
            assert len([w for w in caught if "raw pixels" in str(w.message)]) == number
