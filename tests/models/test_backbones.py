"""A net of `keras.applications` as the trunk: its preprocessing, its weights, our head."""

import keras
import numpy as np
import pytest

import zoo
from zoo.models import backbones, pretrained

pytestmark = pytest.mark.eager

SHAPE = (32, 32, 3)


def pixels(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("float32")


@pytest.mark.parametrize("name", ["mobilenet_v2", "ResNet50", "densenet121", "MobileNetV3Small"])
def test_the_preprocessing_is_that_of_the_net(name):
    """In -1..1; BGR less its mean; of ImageNet's statistics; and none, as the net has its own."""
    _, module = backbones._find(name)
    images = keras.Input(SHAPE)
    model = keras.Model(images, backbones._preprocessed(images, module))
    ours = np.asarray(model(pixels()))
    np.testing.assert_allclose(ours, module.preprocess_input(pixels()), rtol=1e-5, atol=1e-4)
    assert [layer.name for layer in model.layers[1:]] == ["scale"] * (name != "MobileNetV3Small")


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """The net that Keras makes, and the file of its weights."""
    keras.utils.set_random_seed(3)
    net = keras.applications.MobileNet(include_top=False, weights=None, input_shape=SHAPE)
    net.save_weights(file := tmp_path_factory.mktemp("net") / "net.weights.h5")
    return net, file


def test_the_trunk_has_the_weights_of_the_file_and_a_head_with_maps(mobilenet, tmp_path):
    net, file = mobilenet
    model = backbones.backbone("mobilenet", SHAPE, 4, weights=str(file))
    features = keras.Model(model.input, model.get_layer("class_maps").input)
    expected = net(keras.applications.mobilenet.preprocess_input(pixels()), training=False)
    np.testing.assert_allclose(features(pixels(), training=False), expected, rtol=1e-5, atol=1e-12)
    assert model.get_layer("class_maps").output.shape == (None, 1, 1, 4)
    assert [layer.name for layer in model.layers[-2:]] == ["class_maps", "logits"]
    assert isinstance(model.get_layer("conv_pw_1"), keras.layers.Layer)  # for companions
    model.save(tmp_path / "net.keras")
    again = pretrained.load(tmp_path / "net.keras").fitted((40, 40, 3), 3)
    assert again.output_shape == (None, 3)
    for before, after in zip(model.weights[:-2], again.weights[:-2], strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_cannot_be_built_is_refused(mobilenet):
    _, file = mobilenet
    for arguments, message in [
        (("mobilnet", SHAPE, 4), "no net 'mobilnet'. Did you mean 'mobilenet'"),
        (("mobilenet", (32, 32, 1), 4), r"takes \(height, width, 3\)"),
        (("mobilenet", SHAPE, 1), "at least 2 classes"),
        (("mobilenet", (8, 8, 3), 4, None), "mobilenet for images of .* at least 32x32"),
        (("mobilenet", SHAPE, 4, "none.h5"), "there is no 'none.h5'"),
        (("vgg16", SHAPE, 4, file.with_name("text.weights.h5")), "vgg16 .* cannot be built"),
    ]:
        file.with_name("text.weights.h5").write_text("no weights")
        *arguments, weights = arguments if len(arguments) == 4 else (*arguments, None)
        with pytest.raises(ValueError, match=message):
            backbones.backbone(*arguments, weights=weights)


def test_a_companion_hangs_on_a_layer_of_the_backbone():
    model = backbones.backbone("mobilenet", SHAPE, 4, weights=None)
    heads = {"conv_pw_1_relu": zoo.CompanionHead(4)}
    assert zoo.DeeplySupervised(model, heads)(pixels()).shape == (2, 4)
