"""What Keras and TensorFlow do with a model, they do with `DeeplySupervised` and `Distiller`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import zoo

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1)).astype("float32")
LABELS = np.arange(4) % 3


def net(name):
    x = images = keras.Input((6, 6, 1), name="images")
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(images, layers.Dense(3, name="logits")(layers.Flatten()(x)), name=name)


def supervised():
    return zoo.DeeplySupervised(net("trunk"), {"conv": zoo.CompanionHead(3)}, name="both")


def distiller():
    return zoo.Distiller(student=net("student"), teacher=net("teacher"))


def distiller_of_supervised():
    return zoo.Distiller(student=supervised(), teacher=net("teacher"))


MODELS = [supervised, distiller, distiller_of_supervised]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A model that was trained, and has predicted."""
    keras.utils.set_random_seed(0)
    model = request.param()
    model.compile("sgd", zoo.SoftmaxCrossEntropy())
    model.fit(IMAGES, LABELS, verbose=0)
    model.logits = model.predict(IMAGES, verbose=0)
    return model


def same(outputs, model):
    np.testing.assert_allclose(outputs, model.logits, atol=1e-5)


def test_export(model, tmp_path):
    model.export(tmp_path / "export", verbose=False)
    exported = tf.saved_model.load(tmp_path / "export")
    same(exported.serve(IMAGES), model)


def test_a_loaded_model_is_exported_before_it_predicts(model, tmp_path):
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").export(tmp_path / "export", verbose=False)
    exported = tf.saved_model.load(tmp_path / "export")
    same(exported.serve(IMAGES), model)


def test_saved_model_of_tensorflow(model, tmp_path):
    tf.saved_model.save(model, tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert list(loaded.signatures) == ["serving_default"]
    same(loaded.signatures["serving_default"](inputs=IMAGES)["output_0"], model)


def test_lite(model):
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], IMAGES.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], IMAGES)
    interpreter.invoke()
    same(interpreter.get_tensor(answer["index"]), model)


def test_a_hidden_layer_is_read_as_in_grad_cam(model):
    plain = model.shipped_model()
    assert (model.input_shape, model.output_shape) == ((None, 6, 6, 1), (None, 3))
    assert model.input is plain.inputs[0]
    assert model.output is plain.outputs[0]
    maps_and_logits = keras.Model(model.inputs, [model.get_layer("conv").output, model.output])
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        maps, logits = maps_and_logits(images)
        score = tf.reduce_sum(logits[:, 0])
    same(logits, model)
    kernel = plain.get_layer("logits").kernel.numpy()[:, 0].reshape(1, 4, 4, 4)
    np.testing.assert_allclose(
        tape.gradient(score, maps), np.broadcast_to(kernel, maps.shape), atol=1e-6
    )
    with pytest.raises(ValueError, match="No such layer: conv9"):
        model.get_layer("conv9")
    assert model.get_layer(index=0) is model.layers[0]


def test_the_summary_shows_the_model_that_ships(model):
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line), expand_nested=True)
    text = "\n".join(lines)
    assert model.shipped_model().name in text
    assert "?" not in text  # every shape is known
    assert "(None, 4, 4, 4)" in text


def test_a_plot(model, tmp_path):
    pytest.importorskip("pydot")
    keras.utils.plot_model(model, tmp_path / "model.png")


@pytest.mark.parametrize("make", MODELS)
def test_a_configuration_has_no_build_shapes(make):
    """The file is that of an older zoo, and so is the fingerprint of a wrapped student."""
    assert "build_config" not in keras.saving.serialize_keras_object(make())


def test_a_signature_takes_the_dtype_of_the_inputs_under_every_policy(policy, tmp_path):
    model = supervised()
    assert model.input_dtype == "float32"
    tf.saved_model.save(model, tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    spec = loaded.signatures["serving_default"].structured_input_signature[1]["inputs"]
    assert spec.dtype == tf.float32


def test_a_student_without_symbolic_inputs_is_still_distilled():
    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.dense = layers.Flatten(), layers.Dense(3)

        def call(self, inputs):
            return self.dense(self.flatten(inputs))

    student = Student()
    student(IMAGES)
    model = zoo.Distiller(student=student, teacher=net("teacher"))
    model.compile("sgd", zoo.SoftmaxCrossEntropy())
    model.fit(IMAGES, LABELS, verbose=0)
    assert not hasattr(model, "inputs")


def test_a_derived_class_may_add_metrics_after_it_is_made():
    class Mine(zoo.DeeplySupervised):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.mine = keras.metrics.Mean(name="mine")

    model = Mine(net("trunk"), {"conv": zoo.CompanionHead(3)})
    assert "mine" in [metric.name for metric in model.metrics]
