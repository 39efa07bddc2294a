"""Models do not depend on the global settings of Keras, such as those of ~/.keras/keras.json."""

import functools

import keras
import numpy as np
import pytest

import zoo
from zoo import knowledge
from zoo.serving import exporting

pytestmark = pytest.mark.eager

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 8, 8, 1)).astype("float32")
LABELS = np.array([0, 1, 2, 1])
SIZES = {"input_shape": (8, 8, 1), "classes": 3, "width": 0.05, "dropout": 0.0}
CONTRAST = [zoo.GlobalContrastNormalization, zoo.LocalContrastNormalization]


def nin(**arguments):
    return zoo.nin(**SIZES, **arguments)


def distiller():
    lessons = [
        knowledge.Hint("mlpconv2", "mlpconv1"),  # of other sizes, and of other channels
        knowledge.Flow(["mlpconv1", "mlpconv2"], ["mlpconv1", "mlpconv2"]),
        knowledge.AttentionTransfer("mlpconv1", "mlpconv2"),
        knowledge.SimilarityPreserving("mlpconv1", "mlpconv1"),
        knowledge.DecoupledSoftTargets(),
    ]
    student = zoo.nin_dsn(**SIZES, threshold=0.1)
    teacher = zoo.nin((8, 8, 1), 3, width=0.1, dropout=0.0)
    return zoo.Distiller(student=student, teacher=teacher, knowledge=lessons, soft_companions=True)


MODELS = {
    "nin": lambda: nin(kernel_regularizer="l2"),
    "dense head": lambda: nin(head="dense", variant="plain"),
    "preprocessing": lambda: nin(preprocessing=[layer() for layer in CONTRAST]),
    "linear taps": lambda: nin(linear_taps=True),
    "mlp": lambda: zoo.mlp((8, 8, 1), 3, hidden=(4,)),
    "nin_dsn": lambda: zoo.nin_dsn(**SIZES, threshold=0.1, soft_weight=0.3, companion_form="dense"),
    "decoders": lambda: zoo.nin_dsn(**SIZES, decoders={"mlpconv2": zoo.DecodingHead("mlpconv1")}),
    "Distiller": distiller,
}


@pytest.fixture
def settings():
    """Set a data format and a precision; afterwards they are as before."""
    before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy()

    def choose(data_format="channels_last", floatx="float32"):
        keras.config.set_image_data_format(data_format)
        keras.config.set_floatx(floatx)
        # Keras takes the policy from floatx, unless it has one already.
        keras.config.set_dtype_policy(floatx)

    yield choose
    keras.config.set_image_data_format(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_dtype_policy(before[2])


@functools.cache
def reference(name):
    """The results of `trained` under the ordinary settings."""
    return trained(name)


def trained(name, weights=None):
    """The weights at first, the predictions, and the logs of a step of training."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    everything = [*model.weights, *getattr(getattr(model, "teacher", None), "weights", ())]
    if weights:
        for variable, value in zip(everything, weights, strict=True):
            variable.assign(value)
    weights = [keras.ops.convert_to_numpy(variable) for variable in everything]
    model.compile(keras.optimizers.SGD(0.1), zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    logits = model.predict(IMAGES, verbose=0)
    logs = model.fit(IMAGES, LABELS, batch_size=4, verbose=0).history
    return weights, logits, {key: value[0] for key, value in logs.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_net_is_the_same_with_channels_first(name, settings):
    weights, logits, logs = reference(name)
    config = keras.saving.serialize_keras_object(MODELS[name]())
    settings(data_format="channels_first")
    found_weights, found_logits, found = trained(name)
    for one, other in zip(found_weights, weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found_logits, logits)
    assert found == logs
    assert "channels_first" not in str(keras.saving.serialize_keras_object(MODELS[name]()))
    again = keras.saving.deserialize_keras_object(config)  # it comes from a file as it was
    assert "channels_first" not in str(keras.saving.serialize_keras_object(again))


@pytest.mark.parametrize(("floatx", "tolerance"), [("float64", 2e-3), ("float16", 5e-2)])
@pytest.mark.parametrize("name", MODELS)
def test_a_net_has_float32_logits_and_the_same_numbers_in_other_precisions(
    name, floatx, tolerance, settings
):
    weights, logits, logs = reference(name)
    settings(floatx=floatx)
    _, found_logits, found = trained(name, weights)
    assert found_logits.dtype == "float32"
    np.testing.assert_allclose(found_logits, logits, rtol=tolerance, atol=tolerance)
    assert found.keys() == logs.keys()
    for key, value in logs.items():
        np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance, err_msg=key)


def test_a_dense_head_with_a_regularizer_is_refused_where_keras_cannot_add_it(settings):
    settings(floatx="float64")
    with pytest.raises(ValueError, match="kernel_regularizer to those of float64; leave it out"):
        nin(head="dense", kernel_regularizer="l2")


@pytest.mark.parametrize(
    "chosen", [{"data_format": "channels_first", "floatx": "float64"}, {"floatx": "float16"}]
)
def test_an_export_answers_as_the_net_does(chosen, settings, tmp_path):
    """Within the tolerance that it has without these settings; else it is not written."""
    settings(**chosen)
    path = exporting.export_savedmodel(nin(), list("abc"), tmp_path)
    assert path.name == "1"
