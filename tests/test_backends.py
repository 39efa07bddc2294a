"""The layers and the deeply supervised model give the same numbers on Keras' other backends."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import sys

import keras
import numpy as np

import zoo
from zoo.preprocessing import GlobalContrastNormalization, LocalContrastNormalization, ZCAWhitening


def build(policy):
    keras.config.set_dtype_policy(policy)
    whitening = ZCAWhitening()
    whitening.adapt(GlobalContrastNormalization()(IMAGES))
    preprocessing = [GlobalContrastNormalization(), whitening, LocalContrastNormalization()]
    return zoo.nin_dsn(
        (8, 8, 3),
        4,
        width=0.05,
        dropout=0.0,
        preprocessing=preprocessing,
        companion_weight=keras.optimizers.schedules.CosineDecay(0.5, 10),
    )


def train(policy, weights=None):
    model = build(policy)
    if weights:
        model.set_weights(weights)
    first = [np.array(w) for w in model.get_weights()]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss, metrics=["accuracy"])
    history = model.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    logits = model.predict(IMAGES, verbose=0)
    return first, model.get_weights(), logits, {**logs, "fitted": history["loss"][-1]}


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (32, 8, 8, 3)).astype("float32")
LABELS = RNG.integers(0, 4, 32)

if __name__ == "__main__":
    given, taken = sys.argv[1:]
    with np.load(given) as arrays:
        weights = [arrays[f"w{index}"] for index in range(len(arrays))]
    _, after, logits, logs = train("float32", weights)
    half = train("mixed_bfloat16", weights)
    np.savez(
        taken,
        logits=logits,
        half=half[2],
        half_loss=half[3]["fitted"],
        **{f"log_{key}": value for key, value in logs.items()},
        **{f"w{index}": weight for index, weight in enumerate(after)},
    )
    print(keras.backend.backend())
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_deeply_supervised_nin_trains_to_the_same_numbers(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = {"__name__": "program"}
    exec(compile(PROGRAM, "program", "exec"), here)
    before, after, logits, logs = here["train"]("float32")
    np.savez(tmp_path / "given.npz", **{f"w{i}": w for i, w in enumerate(before)})
    (tmp_path / "program.py").write_text(PROGRAM)
    run = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "given.npz", tmp_path / "taken.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == backend, run.stderr
    with np.load(tmp_path / "taken.npz") as taken:
        np.testing.assert_allclose(taken["logits"], logits, atol=2e-3)
        for key, value in logs.items():
            np.testing.assert_allclose(taken[f"log_{key}"], value, rtol=1e-3, err_msg=key)
        for index, weight in enumerate(after):
            np.testing.assert_allclose(taken[f"w{index}"], weight, atol=2e-3, rtol=1e-3)
        assert taken["half"].dtype == np.float32
        np.testing.assert_allclose(taken["half_loss"], logs["fitted"], rtol=0.05)
    moved = max(np.abs(one - other).max() for one, other in zip(after, before, strict=True))
    assert moved > 1e-2
