import csv
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import time

import keras
import numpy as np
import pytest
from forked import ZooProcess

import zoo.data
import zoo.recipe
import zoo.training
from zoo.runs import Run
from zoo.training import callbacks, checkpoint
from zoo.training.session import evaluation_batch_size

pytestmark = pytest.mark.long

RECIPE = '''"""A small net with everything that has a state: for tests."""

from dataclasses import dataclass

import keras

import zoo
import zoo.data
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 4
    batch_size: int = 100
    precision: zoo.recipe.Precision = "float32"
    width: float = 1.0
    taught: bool = False

    def augmentation(self):
        return zoo.data.Augmentation(shift=1)

    def model(self, data, steps):
        # Nearly every test traces it; so it has few layers.
        x = inputs = keras.Input(data.image_shape)
        x = keras.layers.Rescaling(1 / 255)(x)
        x = zoo.MLPConv((8, 6), 3, normalization="batch", name="conv")(x)
        x = keras.layers.Flatten()(keras.layers.Dropout(0.3)(x))
        trunk = keras.Model(inputs, keras.layers.Dense(data.classes, name="logits")(x))
        heads = {"conv": zoo.CompanionHead(data.classes)}
        weight = keras.optimizers.schedules.CosineDecay(0.5, steps)
        net = zoo.DeeplySupervised(trunk, heads, companion_weight=weight)
        if not self.taught:
            return net
        teacher = zoo.mlp(data.image_shape, data.classes, hidden=(8,))
        return zoo.Distiller(student=net, teacher=teacher, soft_companions=True)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(RECIPE)
    return path


def run(file, tmp_path, recipe=None, page=False, **fields):
    """Train in this process; return the run folder."""
    recipe = recipe or zoo.recipe.load(file)(**fields)
    return zoo.training.train(
        recipe, file, runs=tmp_path, name="run", deterministic=False, page=page
    )


FINISHED = {"epochs": 2, "seed": 3}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Train once: a recipe with its run folder, and how often the step was traced."""
    folder, traces = tmp_path_factory.mktemp("once"), []
    (folder / "small.py").write_text(RECIPE)
    step = zoo.DeeplySupervised.train_step
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            zoo.DeeplySupervised, "train_step", lambda *data: traces.append(1) or step(*data)
        )
        run(folder / "small.py", folder, page=True, **FINISHED)
    return folder, len(traces)


@pytest.fixture
def finished(once, tmp_path):
    """The folder of that run, a copy for a test alone. Its recipe is `file` with FINISHED."""
    return shutil.copytree(once[0] / "small" / "run", tmp_path / "small" / "run")


@pytest.fixture(scope="module")
def at_step_20(tmp_path_factory):
    """Train until SIGTERM comes: the folder with the recipe and its run, and what was raised."""
    folder = tmp_path_factory.mktemp("stopped")
    file = variant(folder / "small.py", STOP_AT_STEP_20)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(zoo.training.Interrupted) as stop:
        run(file, folder)
    assert signal.getsignal(signal.SIGTERM) is handler
    return folder, stop.value


@pytest.fixture
def stopped(at_step_20, tmp_path):
    """A copy of that recipe, beside a copy of its run, for a test alone."""
    return shutil.copytree(at_step_20[0], tmp_path / "stopped") / "small.py"


def rows(folder):
    with open(folder / "metrics.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def state(folder):
    """Return the last commit's name, a checksum of its variables, and the history without times."""
    commit = sorted((folder / "checkpoints").iterdir())[-1]
    digest = hashlib.sha256()
    with np.load(commit / "state.npz") as arrays:
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].tobytes())
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]
    return commit.name, digest.hexdigest(), history


def start(file, folder, *flags):
    command = ["train", file, "--runs", folder, "--name", "run"]
    command += ["--checkpoint-seconds", "0.2", "--epochs", "30", "--no-page", *flags]
    return ZooProcess(*command)


def steps_on_disk(folder):
    return checkpoint.latest_step(folder / "small" / "run" / "checkpoints") or 0


def stop_after_progress(process, folder, number, rng):
    """Wait for a new commit, then for a random time, then send the signal."""
    before = steps_on_disk(folder)
    while steps_on_disk(folder) == before and process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.4))
    process.send_signal(number)
    output = process.communicate()[0]
    return process.returncode, output


def test_a_run_killed_and_resumed_ends_with_the_bits_of_one_left_alone(file, tmp_path):
    """The net has dropout, augmentation, batch normalization, a companion schedule and a teacher.

    SIGKILL comes twice and SIGINT once, at random moments. SIGTERM comes in another test.
    """
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    undisturbed = start(file, alone, "--taught")
    rng = random.Random(time.time_ns())
    finished = False
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        code, output = stop_after_progress(start(file, killed, "--taught"), killed, number, rng)
        finished = code == 0
        if finished:  # on a fast machine the run ends first; the signals before still count
            break
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL, output
        else:
            assert code == 128 + number, output
            assert "saved at step" in output
    if not finished:
        process = start(file, killed, "--taught")
        output = process.communicate()[0]
        assert process.returncode == 0, output
        assert "Resumed" in output
    assert undisturbed.wait() == 0
    assert state(killed / "small" / "run") == state(alone / "small" / "run")
    results = [
        json.loads((f / "small" / "run" / "results.json").read_text()) for f in (alone, killed)
    ]
    assert results[1]["resumed"] >= 2
    for key in ("accuracy", "loss", "errors", "epochs"):
        assert results[0][key] == results[1][key], key


def test_the_run_folder_says_what_was_done(once, finished):
    folder = finished
    assert once[1] == 1  # TensorFlow traces a step twice that makes variables
    assert {path.name for path in folder.iterdir()} >= {
        *("recipe.json", "versions.json", "metrics.csv", "results.json", "model.keras"),
        *("checkpoints", "figures", "report.html", "tensorboard", "examples"),
    }
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["recipe"] == "small"
    assert recipe["title"] == "A small net with everything that has a state: for tests."
    assert recipe["fields"]["seed"] == 3
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["packages"]["keras"] == keras.__version__
    assert versions["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert versions["precision"] == "float32"
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]
    assert [row["step"] for row in rows(folder)] == ["15", "30"]  # 1,438 images in hundreds
    heads = {"output_loss", "conv_loss"}
    assert heads | {f"val_{head}" for head in heads} < set(rows(folder)[0])


def test_the_results_are_those_of_the_model_in_the_folder(finished):
    folder = finished
    results = json.loads((folder / "results.json").read_text())
    model = keras.models.load_model(folder / "model.keras")
    test = zoo.data.load("digits", "test")
    logits = model.predict(test.images.astype("float32"), verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(test.labels, logits)
    assert results["errors"] == (logits.argmax(1) != test.labels).sum()
    assert results["examples"] == test.examples
    assert results["balanced_accuracy"] is None  # the classes of the digits are of one size
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        results["loss"], float(rows(folder)[-1]["val_output_loss"]), rtol=1e-4
    )
    np.testing.assert_allclose(
        results["accuracy"], float(rows(folder)[-1]["val_accuracy"]), rtol=1e-6
    )
    assert results["parameters"] == model.count_params()
    assert results["evaluated_on"] == "test"


def test_with_a_validation_share_the_test_set_stays_closed(file, tmp_path, monkeypatch):
    load = zoo.data.load
    splits = []
    monkeypatch.setattr(zoo.data, "load", lambda n, s, **k: splits.append(s) or load(n, s, **k))
    results = json.loads(
        (run(file, tmp_path, epochs=1, validation=0.25) / "results.json").read_text()
    )
    assert splits == ["train"]
    assert (results["evaluated_on"], results["examples"]) == ("validation", 360)
    assert results["train_examples"] == 1438 - 360


def test_a_finished_run_is_not_trained_again(file, finished, tmp_path, capsys):
    before = state(finished)
    run(file, tmp_path, **FINISHED)
    assert "is complete" in capsys.readouterr().out
    assert state(finished) == before


@pytest.mark.usefixtures("finished")
def test_a_folder_with_another_run_is_refused(file, tmp_path):
    with pytest.raises(zoo.recipe.RecipeError, match=r"epochs=2, now 3.*--name"):
        run(file, tmp_path, **{**FINISHED, "epochs": 3})


def test_a_run_begun_before_its_recipe_had_a_field_goes_on_with_the_default(
    file, finished, tmp_path
):
    record = json.loads((finished / "recipe.json").read_text())
    del record["fields"]["steps_per_epoch"]
    (finished / "recipe.json").write_text(json.dumps(record))
    assert run(file, tmp_path, **FINISHED) == finished
    with pytest.raises(zoo.recipe.RecipeError, match=r"steps_per_epoch=0, now 2"):
        run(file, tmp_path, **FINISHED, steps_per_epoch=2)


def test_a_run_is_not_resumed_with_another_teacher(file, tmp_path):
    other = """
def model(self, data, steps):
    import keras
    keras.utils.set_random_seed(self.teacher)
    teacher = zoo.mlp(data.image_shape, data.classes, hidden=(4,))
    return zoo.Distiller(student=zoo.mlp(data.image_shape, 10, hidden=(3,)), teacher=teacher)

teacher = 1
"""
    variant(file, other)
    folder = run(file, tmp_path, epochs=1)
    results = json.loads((folder / "results.json").read_text())
    assert len(results["teacher"]) == 1
    (folder / "results.json").unlink()
    variant(file, other.replace("teacher = 1", "teacher = 2"))
    with pytest.raises(zoo.recipe.RecipeError, match="trained again"):
        run(file, tmp_path, epochs=1)


def test_a_run_that_goes_on_with_other_code_says_so(file, finished, tmp_path):
    folder = finished
    (folder / "results.json").unlink()
    versions = json.loads((folder / "versions.json").read_text())
    (folder / "versions.json").write_text(json.dumps({**versions, "commit": "0123abc"}))
    file.write_text(RECIPE + "\n# The fields are the same.\n")
    run(file, tmp_path, **FINISHED)
    first, second = json.loads((folder / "results.json").read_text())["warnings"]
    assert first == f"Resumed with other commit: 0123abc, now {versions['commit']}."
    assert second.startswith(f"Resumed with other recipe: {versions['recipe']}, now ")


def test_a_run_is_not_resumed_with_other_images(file, finished, tmp_path, monkeypatch):
    folder = finished
    data = json.loads((folder / "results.json").read_text())["data"]
    assert {split: count for split, (count, *_) in data.items()} == {"train": 1438, "test": 359}
    (folder / "results.json").unlink()
    read = zoo.data.load

    def fewer(*arguments, **how):
        data = read(*arguments, **how)
        return dataclasses.replace(data, images=data.images[1:], labels=data.labels[1:])

    monkeypatch.setattr(zoo.data, "load", fewer)
    number = r"begun with other train images of digits \(number 1438, now 1437; "
    with pytest.raises(zoo.recipe.RecipeError, match=number):
        run(file, tmp_path, **FINISHED)

    def one_pixel(*arguments, **how):
        data = read(*arguments, **how)
        images = data.images.copy()
        images[5, 3, 3] ^= 1
        return dataclasses.replace(data, images=images if data.split == "test" else data.images)

    monkeypatch.setattr(zoo.data, "load", one_pixel)
    pixels = r"begun with other test images of digits \(pixels \w+, now \w+\)\. Put them back"
    with pytest.raises(zoo.recipe.RecipeError, match=pixels):
        run(file, tmp_path, **FINISHED)


def test_an_augmentation_that_is_refused_does_not_bind_the_folder(file, tmp_path):
    text = file.read_text()
    file.write_text(text.replace("Augmentation(shift=1)", "Augmentation(cutout=8)"))
    with pytest.raises(zoo.data.DataError, match="can blacken all"):
        run(file, tmp_path, epochs=1)
    assert not (tmp_path / "small" / "run" / "recipe.json").exists()


def test_images_that_are_trained_and_judged_on_are_named_and_classes_without_test_images(
    file, tmp_path, monkeypatch
):
    training, test = zoo.data.load("digits"), zoo.data.load("digits", "test").without([9])
    assert not test.also_in(training)
    leaked = np.concatenate([training.images, test.images[[7, 30]]])
    labels = np.concatenate([training.labels, test.labels[[7, 30]]])
    training = dataclasses.replace(training, images=leaked, labels=labels)
    splits = {"train": training, "test": test}
    monkeypatch.setattr(zoo.data, "load", lambda name, split="train", **how: splits[split])
    results = json.loads((run(file, tmp_path, epochs=1) / "results.json").read_text())
    untested, warning = results["warnings"]
    assert untested.startswith("1 of 10 classes have no test image")
    assert untested.endswith("recognized: '9'.")
    seven, thirty = test.labels[[7, 30]]
    assert warning.startswith("2 of the 323 test images are among the training images")
    assert warning.endswith(f"number 7 ({seven}), 30 ({thirty}).")


def test_averaged_weights_ship_also_after_a_kill_at_the_end(file, tmp_path):
    variant(
        file,
        """
def optimizer(self, steps):
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
""",
    )
    folder = run(file, tmp_path, epochs=1)
    shipped = keras.models.load_model(folder / "model.keras").get_weights()
    for name in ("results.json", "model.keras"):
        (folder / name).unlink()  # as if the kill had come just before they were written
    run(file, tmp_path, epochs=1)
    again = keras.models.load_model(folder / "model.keras").get_weights()
    for one, other in zip(shipped, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_processes_do_not_train_in_one_folder(file, tmp_path):
    folder = tmp_path / "small" / "run"
    with (
        Run(folder).locked(),
        pytest.raises(zoo.recipe.RecipeError, match="Another process"),
    ):
        run(file, tmp_path)


def variant(file, code):
    """Write the recipe with more methods."""
    file.write_text(RECIPE + "\n".join(f"    {line}" for line in code.splitlines()) + "\n")
    return file


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_finite_state(file, tmp_path):
    variant(
        file,
        """
def loss(self):
    base = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    step = keras.Variable(0, dtype="int32")

    def infinite_in_epoch_2(labels, logits):
        step.assign_add(1)
        return base(labels, logits) / keras.ops.cast(step < 88, "float32")

    return infinite_in_epoch_2
""",
    )
    with pytest.raises(zoo.training.TrainingError) as error:
        run(file, tmp_path)
    step = int(str(error.value).split("at step ")[1].split(",")[0])
    assert 15 < step < 30  # the second epoch
    assert "state of step 15 is kept" in str(error.value)
    assert "--learning-rate" in str(error.value)
    commit = sorted((tmp_path / "small" / "run" / "checkpoints").iterdir())[-1]
    with np.load(commit / "state.npz") as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays)
    assert not (tmp_path / "small" / "run" / "results.json").exists()


def test_a_net_that_never_starts_is_noticed(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callbacks.Watch, "DEAD_WARNING", 5)
    monkeypatch.setattr(callbacks.Watch, "DEAD_STOP", 20)
    variant(
        file,
        """
def model(self, data, steps):
    model = zoo.nin(data.image_shape, data.classes, variant="mnist", width=0.1)
    model.get_layer("class_maps").bias.assign([-100.0] * 10)
    return model
""",
    )
    with pytest.raises(
        zoo.training.TrainingError, match=r"ln\(classes\) = 2.3026.*final_relu=False"
    ):
        run(file, tmp_path)
    assert "after 5 steps" in capsys.readouterr().out


def test_a_failed_checkpoint_costs_a_warning_and_not_the_run(file, tmp_path, monkeypatch, capsys):
    save, calls = checkpoint.save, []

    def full_disk(*arguments, **keywords):
        calls.append(arguments[1])
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return save(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "save", full_disk)
    folder = run(file, tmp_path, epochs=2)
    assert "No space left on device" in capsys.readouterr().out
    assert checkpoint.latest_step(folder / "checkpoints") == calls[0]
    assert json.loads((folder / "results.json").read_text())["epochs"] == 2


def test_what_could_not_be_saved_is_not_said_to_be(file, tmp_path, monkeypatch):
    def full_disk(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    variant(file, STOP_AT_STEP_20)
    monkeypatch.setattr(Run, "write_history", full_disk)
    with pytest.raises(zoo.training.TrainingError, match=r"could not be saved .*No space left"):
        run(file, tmp_path)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(stopped):
    folder = stopped.parent / "small" / "run"
    commit = sorted((folder / "checkpoints").iterdir())[-1]
    (commit / "state.npz").write_bytes(b"torn")
    results = json.loads((run(stopped, stopped.parent) / "results.json").read_text())
    assert results["warnings"] == [f"Checkpoint {commit.name} was damaged and skipped."]
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]


STOP_AT_STEP_20 = """
def callbacks(self):
    import os, signal, pathlib

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            flag = pathlib.Path(__file__).with_suffix(".stopped")
            if self.model.optimizer.iterations.numpy() == 20 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGTERM)

    return [Stop(), keras.callbacks.ReduceLROnPlateau("loss", min_delta=10, patience=2, factor=0.5)]

def optimizer(self, steps):
    return keras.optimizers.SGD(0.1)
"""


def test_sigterm_saves_and_the_callbacks_remember(at_step_20, stopped):
    assert "SIGTERM and saved at step 20" in str(at_step_20[1])
    assert at_step_20[1].signal == signal.SIGTERM
    folder = run(stopped, stopped.parent)
    assert [row["step"] for row in rows(folder)] == ["15", "30", "45", "60"]
    # The loss does not fall by ten, so the rate is halved after every two epochs. A callback that
    # lost its counters at the stop in epoch 2 would halve it later.
    assert [float(row["learning_rate"]) for row in rows(folder)] == pytest.approx(
        [0.1, 0.1, 0.1, 0.05]
    )
    assert json.loads((folder / "results.json").read_text())["resumed"] == 1


def test_early_stopping_ends_a_run_for_good(file, tmp_path):
    variant(
        file,
        """
def callbacks(self):
    return [keras.callbacks.EarlyStopping("loss", min_delta=10, patience=1)]
""",
    )
    folder = run(file, tmp_path)
    results = json.loads((folder / "results.json").read_text())
    assert results["epochs"] == len(rows(folder)) == 2
    (folder / "results.json").unlink()  # as if the kill had come just before it was written
    run(file, tmp_path)
    assert len(rows(folder)) == 2


def test_a_model_for_other_classes_is_refused(file, tmp_path):
    variant(
        file,
        """
def model(self, data, steps):
    return zoo.nin(data.image_shape, 7, width=0.1)
""",
    )
    with pytest.raises(zoo.recipe.RecipeError, match="7 scores; digits has 10"):
        run(file, tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"validation": 1.0},
        {"seed": -1},
        {"width": float("nan")},
    ],
    ids=str,
)
def test_values_no_training_can_use_are_refused_by_name(file, tmp_path, fields):
    name = next(iter(fields)).replace("_", "-")
    with pytest.raises(zoo.recipe.RecipeError, match=f"--{name} is .*; received"):
        run(file, tmp_path, **fields)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("examples", "replicas", "expected"),
    [(10000, 1, 256), (257, 1, 256), (10000, 4, 256), (257, 2, 255), (259, 4, 255), (3, 4, 256)],
)
def test_every_replica_has_an_image_of_each_batch_it_is_judged_on(examples, replicas, expected):
    size = evaluation_batch_size(examples, replicas)
    assert size == expected
    assert examples < replicas or examples % size == 0 or examples % size >= replicas
