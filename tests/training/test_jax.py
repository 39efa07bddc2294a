"""A packed recipe trains with JAX alone, in several starts, and resumes here."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

import zoo
import zoo.data
import zoo.recipe
from zoo.experiments import packing
from zoo.fingerprint import fingerprint
from zoo.saving import load_model
from zoo.training import teachers
from zoo.training.checkpoint import latest_step
from zoo.training.measuring import measure

pytestmark = pytest.mark.long

RECIPE = '''"""A taught and deeply supervised net with dropout: for tests."""

from dataclasses import dataclass

import keras

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 2
    batch_size: int = 100
    precision: zoo.recipe.Precision = "float32"
    teachers: tuple[str, ...] = ("teacher.keras",)

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=1, jitter=0.05)

    def model(self, data, steps):
        from zoo import teachers

        x = inputs = keras.Input(data.image_shape)
        x = keras.layers.Rescaling(1 / 255)(x)
        x = zoo.MLPConv((6,), 3, strides=2, normalization="batch", name="conv")(x)
        x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
        x = keras.layers.Dense(data.classes, name="scores")(x)
        heads = {"conv": zoo.CompanionHead(data.classes, name="head")}
        student = zoo.DeeplySupervised(keras.Model(inputs, x), heads, companion_weight=0.3)
        return zoo.Distiller(student=student, teacher=teachers.load(self.teachers[0]))
'''
JAX = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Make two run folders: one begun with JAX alone and finished here, one without a stop."""
    home = tmp_path_factory.mktemp("home")
    (home / "small.py").write_text(RECIPE)
    zoo.mlp((8, 8, 1), 10, hidden=(8,)).save(home / "teacher.keras")
    # A machine that has only JAX and its dependencies.
    machine = tmp_path_factory.mktemp("machine")
    for path in Path(sysconfig.get_path("platlib")).iterdir():
        if path.name.split(".")[0].split("-")[0] in JAX:
            (machine / path.name).symlink_to(path)
    before = Path.cwd()
    os.chdir(home)
    try:
        recipe = zoo.recipe.load(home / "small.py")()
        packing.pack(recipe, home / "small.py", home / "small.zip")
    finally:
        os.chdir(before)
    for name in ("sittings", "one_go"):
        with zipfile.ZipFile(home / "small.zip") as archive:
            archive.extractall(home / name)

    def there(name, *flags):
        return subprocess.run(
            [sys.executable, "-S", home / name / "train.py", *flags],
            capture_output=True,
            text=True,
            cwd=machine,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(machine),
                "XLA_FLAGS": os.environ["XLA_FLAGS"],  # which decide the bits
            },
        )

    stopped = there("sittings", "--minutes", "0.001")
    shutil.copytree(home / "sittings" / "runs", home / "runs")
    step = latest_step(home / "runs" / "small" / "default" / "checkpoints")
    finished = subprocess.run(
        [sys.executable, "-m", "zoo", "train", "small.py", "--no-page"],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    one_go = there("one_go")
    folders = [path / "runs" / "small" / "default" for path in (home, home / "one_go")]
    return folders, step, stopped, finished, one_go


def test_time_up_is_exit_code_3_and_a_saved_state(runs):
    _, step, stopped, _, _ = runs
    assert stopped.returncode == 3, stopped.stderr
    assert "time is up; saved at step 1" in stopped.stdout
    assert step == 1


def test_a_run_begun_there_and_finished_here_has_the_bits_of_one_go(runs):
    folders, _, _, finished, one_go = runs
    assert finished.returncode == 0, finished.stderr
    assert one_go.returncode == 0, one_go.stderr
    states = []
    for folder in folders:
        commit = sorted((folder / "checkpoints").iterdir())[-1]
        meta = json.loads((commit / "meta.json").read_text().splitlines()[1])["meta"]
        logs = [{k: v for k, v in row.items() if k != "seconds"} for row in meta["history"]]
        with np.load(commit / "state.npz") as arrays:
            states.append((commit.name, logs, {k: arrays[k] for k in arrays.files}))
    (name, logs, arrays), (other_name, other_logs, others) = states
    assert name == other_name == f"step-{30:010d}"
    assert logs == other_logs
    for key, value in arrays.items():
        np.testing.assert_array_equal(value, others[key], err_msg=key)


def test_tensorflow_reads_what_jax_trained(runs):
    folder = runs[0][0]
    results = json.loads((folder / "results.json").read_text())
    assert json.loads((folder / "versions.json").read_text())["backend"] == "jax"
    test = zoo.data.load("digits", "test")
    logits, loss = measure(load_model(folder), test)
    assert results["errors"] == (logits.argmax(1) != test.labels).sum() < 300
    assert results["loss"] == pytest.approx(loss, abs=1e-4)
    assert set(results["exits"]) == {"conv", "output"}


def test_a_teacher_out_of_reach_is_not_packed(tmp_path):
    (tmp_path / "small.py").write_text(RECIPE)
    make = zoo.recipe.load(tmp_path / "small.py")
    for teacher, message in (("../t.keras", "below the current"), ("no.keras", "train it first")):
        with pytest.raises(zoo.recipe.RecipeError, match=message):
            packing.pack(make(teachers=(teacher,)), tmp_path / "small.py", tmp_path / "p.zip")
    assert not list(tmp_path.glob("p.zip*"))


def test_a_trained_model_of_the_zoo_travels_as_a_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(zoo.__file__).parents[1])
    (tmp_path / "small.py").write_text(RECIPE)
    recipe = zoo.recipe.load(tmp_path / "small.py")(teachers=("saved_models/digits_nin_dsn",))
    archive = packing.pack(recipe, tmp_path / "small.py", tmp_path / "p.zip")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path, [n for n in packed.namelist() if n.startswith("saved_models")])
    there = teachers.load(tmp_path / "saved_models" / "digits_nin_dsn")
    here = teachers.load("saved_models/digits_nin_dsn")
    assert fingerprint(there) == fingerprint(here)


DATA_PARALLEL = """
import sys
import keras
import numpy as np
import zoo

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (64, 8, 8, 1)).astype("float32")
labels = rng.integers(0, 3, 64)


def net(width):
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = zoo.MLPConv((width,), 3, strides=2, normalization="batch", name="conv")(x)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    return keras.Model(inputs, x)


def trained():
    heads = {"conv": zoo.CompanionHead(3)}
    student = zoo.DeeplySupervised(net(4), heads, companion_weight=0.3, threshold=2.0)
    teacher = net(5)
    drawn = np.random.default_rng(1)  # JAX draws initial weights otherwise for several devices
    for variable in [*student.trainable_variables, *teacher.trainable_variables]:
        variable.assign(drawn.normal(0, 0.2, variable.shape))
    model = zoo.Distiller(student=student, teacher=teacher)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5)
    model.compile(optimizer, zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    logs = model.fit(images, labels, batch_size=16, epochs=5, shuffle=False, verbose=0).history
    return model, logs


alone, logs = trained()
alone = alone.get_weights()
keras.distribution.set_distribution(keras.distribution.DataParallel())
model, parallel_logs = trained()
assert len(model.student.trunk.variables[0].value.sharding.device_set) == 4
for one, other in zip(alone, model.get_weights(), strict=True):
    np.testing.assert_allclose(other, one, atol=1e-6)
for key in logs:
    np.testing.assert_allclose(parallel_logs[key], logs[key], atol=1e-6, err_msg=key)
"""


def test_data_parallel_on_four_devices_equals_one():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    ran = subprocess.run(
        [sys.executable, "-c", DATA_PARALLEL],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
