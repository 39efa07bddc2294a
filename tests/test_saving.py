"""Load models and runs that an older zoo made, or whose recipe registers its own layers."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo.recipe
import zoo.training
from zoo import saving
from zoo.commands.main import main
from zoo.runs import Run
from zoo.training import teachers

BEFORE = Path(__file__).parent / "fixtures" / "before_floors"
OWN_RECIPE = '''"""A net with a layer that this file registers: for tests."""

from dataclasses import dataclass

import keras

import zoo.recipe


@keras.saving.register_keras_serializable("own_recipe")
class Halved(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 1
    steps_per_epoch: int = 2
    precision: zoo.recipe.Precision = "float32"

    def model(self, data, steps):
        images = keras.Input(data.image_shape)
        pixels = keras.layers.Flatten()(Halved(name="halved")(images))
        return keras.Model(images, keras.layers.Dense(data.classes, name="logits")(pixels))
'''


def images(count=2):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 1))
    return pixels[:count].astype("float32")


@pytest.mark.parametrize("name", ["teacher", "specialist", "distiller"])
def test_every_reader_of_models_reads_every_class_that_we_register(name):
    expected = json.loads((BEFORE / "models.json").read_text())["answers"][name]
    for load in (saving.load_model, teachers.load):
        model = load(BEFORE / f"{name}.keras")
        np.testing.assert_allclose(model.predict(images(), verbose=0), expected, atol=1e-4)
        assert not model.compiled


def test_what_ships_and_what_is_supervised_are_found_in_whatever_wraps_them():
    distiller = saving.load_model(BEFORE / "distiller.keras")
    supervised = distiller.student
    assert saving.supervised(distiller) is saving.supervised(supervised) is supervised
    assert saving.shipped(distiller) is saving.shipped(supervised) is supervised.trunk
    plain = supervised.trunk
    assert saving.shipped(plain) is plain
    assert saving.supervised(plain) is None

    class Foreign(keras.Model):  # its attributes only have the same names
        def __init__(self):
            super().__init__()
            self.student = self.trunk = plain

    foreign = Foreign()
    assert saving.shipped(foreign) is foreign
    assert saving.supervised(foreign) is None


def test_a_run_begun_before_the_folders_resumes_with_its_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BEFORE / "begun", tmp_path / "runs" / "taught" / "begun")
    for name in ("taught.py", "teacher.keras"):
        shutil.copy(BEFORE / name, tmp_path)
    recipe = zoo.recipe.load("taught.py")(precision="float32")
    folder = zoo.training.train(recipe, "taught.py", name="begun", page=False)
    results = Run(folder).results
    assert (results["resumed"], results["epochs"]) == (1, 2)
    assert (
        results["teacher"]
        == json.loads((BEFORE / "models.json").read_text())["fingerprints"]["teacher"].split()
    )
    # Its teacher was never trained, and is near chance. No warning says that it has changed.
    warnings = [warning for warning in results["warnings"] if "teacher" in warning]
    assert all("chance" in warning for warning in warnings)
    assert results["errors"] < 359 * 0.9  # it goes on learning


@pytest.fixture
def own_run(tmp_path, monkeypatch):
    """Train a recipe file that registers a layer, and forget that layer."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(OWN_RECIPE)
    run = Run(zoo.training.train(zoo.recipe.load(file)(), file, name="run"))
    forget()
    return run


def forget():
    keras.saving.get_custom_objects().pop("own_recipe>Halved", None)


def commands(run, *more):
    picture = next(run.examples.glob("*.png"))
    yield ["evaluate", run.folder, *more]
    yield ["predict", run.folder, picture, *more]
    yield ["report", run.folder, *more]
    yield ["export", run.folder, "--out", f"export{len(more)}", *more]


def call(arguments):
    """Run a command; return its exit code."""
    forget()
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_every_command_reads_a_run_of_a_recipe_of_ones_own(own_run, capsys):
    for arguments in commands(own_run):
        assert call(arguments) == 0, capsys.readouterr().err
    forget()
    assert teachers.load(own_run.folder).get_layer("halved")


def test_a_recipe_file_runs_only_if_the_user_named_it(own_run, capsys):
    """A run folder may come from anywhere, so the program that it names must not run."""
    trap = own_run.folder.parents[2] / "cache" / "recipes"
    shutil.rmtree(trap)  # as on a machine that never trained with this file
    for arguments in commands(own_run):
        assert call(arguments) == 2
        error = capsys.readouterr().err
        assert "never used on this machine" in error
        assert f"--recipe {own_run.record['file']}" in error
    for arguments in commands(own_run, "--recipe", own_run.record["file"]):
        assert call(arguments) == 0, capsys.readouterr().err
    assert not os.path.exists(trap)  # looking is not approving

    Path(own_run.record["file"]).write_text(OWN_RECIPE.replace("/ 2", "/ 3"))
    for more in ([], ["--recipe", own_run.record["file"]]):
        for arguments in commands(own_run, *more):
            assert call(arguments) == 2
            assert "changed since" in capsys.readouterr().err


def test_layers_that_nobody_registers_are_named(own_run, tmp_path):
    copy = shutil.copy(own_run.model_file, tmp_path / "alone.keras")
    with pytest.raises(saving.ModelError, match=r"does not know: own_recipe>Halved"):
        saving.load_model(copy)


@pytest.mark.parametrize("path", ["none", "none.keras", "."])
def test_what_is_no_model_is_refused_in_a_line(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(saving.ModelError, match=path.replace(".", r"\.")):
        saving.load_model(path)


def with_config(content):
    """A `.keras` file with another config.json."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(BEFORE / "teacher.keras") as good,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, content if name == "config.json" else good.read(name))
    return file.getvalue()


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "half": (BEFORE / "teacher.keras").read_bytes()[:50_000],
    "no config": with_config(b""),
    "a list": with_config(b"[]"),
    "null": with_config(b"null"),
    "not UTF-8": with_config(b"\xff"),
    "lists in lists": with_config(b"[" * 10**5),
    "a module of 7": with_config(b'{"module": 7, "registered_name": "x>y", "config": {}}'),
    "a name of 7": with_config(b'{"module": "keras", "registered_name": 7, "config": {}}'),
    "17 megabytes": with_config(b" " * (17 * 2**20)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_error(name, tmp_path):
    file = tmp_path / "bad.keras"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(saving.ModelError, match=r"bad\.keras") as error:
        saving.load_model(file)
    assert error.value.exit_code == 2
    assert len(str(error.value)) < 500


def test_a_finished_run_keeps_no_optimizer_in_its_model(tmp_path):
    """The state of an optimizer is as large as the model, and nobody trains on with it."""
    model = zoo.nin((8, 8, 1), 4, width=0.05)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), zoo.SoftmaxCrossEntropy())
    model.fit(images(8), np.arange(8) % 4, verbose=0)
    saving.save_uncompiled(model, tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not again.compiled
    np.testing.assert_array_equal(again.predict(images()), model.predict(images()))
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"optimizer" not in archive.read("model.weights.h5")

    class Unregistered(keras.layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)

        def call(self, inputs):
            return inputs

    inputs = keras.Input((2,))
    odd = keras.Model(inputs, Unregistered(3)(inputs))
    saving.save_uncompiled(odd, tmp_path / "odd.keras")  # a training's end loses nothing
    assert (tmp_path / "odd.keras").is_file()
