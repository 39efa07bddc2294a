import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
from zoo import exports
from zoo.fingerprint import fingerprint


def net():
    """With batch normalization, dropout and layers within layers."""
    keras.utils.set_random_seed(0)
    return zoo.nin((8, 8, 1), 3, width=0.05, dropout=0.3)


def test_a_model_is_known_again_in_this_process_and_in_another(tmp_path):
    model = net()
    model.save(tmp_path / "model.keras")
    known = fingerprint(model)
    assert len(known) == 64
    assert fingerprint(keras.models.load_model(tmp_path / "model.keras")) == known
    code = (
        "import sys, keras, zoo; from zoo.fingerprint import fingerprint;"
        "print(fingerprint(keras.models.load_model(sys.argv[1])))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.keras"], capture_output=True, text=True
    )
    assert ran.stdout.strip() == known, ran.stderr


def test_training_state_that_is_no_weight_does_not_count():
    model = net()
    known = fingerprint(model)
    images = np.zeros((4, 8, 8, 1))
    model(images, training=False)
    model.compile("adam", "mse")
    assert fingerprint(model) == known


def test_the_last_bit_of_one_weight_makes_another_model():
    model = net()
    known = fingerprint(model)
    kernel = model.weights[0].numpy()
    kernel.flat[3] = np.nextafter(kernel.flat[3], np.float32(np.inf))
    model.weights[0].assign(kernel)
    assert fingerprint(model) != known


def test_the_same_weights_in_another_architecture_are_another_model():
    def dense(activation):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation, name="d")])

    one, other = dense("relu"), dense("tanh")
    other.set_weights(one.get_weights())
    assert fingerprint(one) != fingerprint(other)


def test_the_precision_that_a_model_calculates_in_makes_no_other_model():
    known = net()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = net()
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.get_layer("mlpconv1").compute_dtype == "bfloat16"
    mixed.set_weights(known.get_weights())
    assert fingerprint(mixed) == fingerprint(known)

    # Compiled with a loss that Keras could not make again, too.
    def own(labels, logits):
        return logits

    mixed.compile("sgd", own)
    assert fingerprint(mixed) == fingerprint(known)


BEFORE = Path(__file__).parent / "fixtures" / "before_floors"
SAVED_MODELS = Path(__file__).parent.parent / "saved_models"
# Of the files as they are in the repository; most were calculated when every module lay in one
# folder.
GOLDEN = {
    "cifar10_fast": "94722038c4fe8cb6960b00d7808fe792f1e378c9797f4e1caf6fd4f068c049d4",
    "cifar10_nin_dsn": "4119bebde0fa6c88245af80b4131de7c6f0dbe2d07062d7ceb82f924de7bb511",
    "cifar10_student": "74927045575df4ee221f4188cb7d84048bab59a47c207a27dfa11e87445a17c8",
    "digits_nin_dsn": "e7afc00432b962d9bb64c48fd9db07a3d92013c9b6bc47376fb738f29154e8aa",
    "fashion_mnist_nin_dsn": "cd7ca7290f95d55479464734bec66c7c216260cb004129994214767a7ff56cc2",
    "fashion_mnist_student": "ad98fce4806fc1964b14fed53507561b77f9510e98c3495836bcb11592896c7d",
    "mnist_nin_dsn": "d056904e072286ba4d99e539d9f47ce27276c1e3023535a0375d4f3b12b46ac4",
    "mnist_student": "583bd66bedcb8cc7f55749312c9e8fe9cb0296ae35ee0f50d61dd507251c80df",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_trained_model_keeps_the_fingerprint_that_runs_remember(name):
    file = exports.find_version(SAVED_MODELS / name) / exports.MODEL
    assert fingerprint(keras.models.load_model(file, compile=False)) == GOLDEN[name]


@pytest.mark.parametrize("name", ["teacher", "specialist", "distiller"])
def test_a_model_saved_before_the_folders_keeps_fingerprint_and_answers(name):
    recorded = json.loads((BEFORE / "models.json").read_text())
    model = keras.models.load_model(BEFORE / f"{name}.keras")
    assert fingerprint(model) == recorded["fingerprints"][name]
    images = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 1))[:2].astype("float32")
    answers = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers, recorded["answers"][name], rtol=1e-4, atol=1e-4)


def test_a_class_may_move_to_another_file():
    def model(module):
        @keras.saving.register_keras_serializable("my_package")
        class Doubled(keras.layers.Layer):
            __module__ = module

            def call(self, inputs):
                return 2 * inputs

        return keras.Sequential([keras.Input((3,)), Doubled(name="doubled")])

    assert fingerprint(model("recipes.mine")) == fingerprint(model("my_package.layers"))
