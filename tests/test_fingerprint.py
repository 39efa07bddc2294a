import subprocess
import sys

import keras
import numpy as np

import zoo
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
