"""Foreign checkpoints, leftovers, full disks, moved folders, signals, and too little memory."""

import errno
import hashlib
import json
import os
import shutil
import signal

import keras
import pytest

import zoo.recipe
import zoo.training
from zoo.errors import UsageError
from zoo.report import page
from zoo.runs import Run
from zoo.training import checkpoint, distribute, failures, runner

RECIPE = '''"""A tiny net: for tests."""

from dataclasses import dataclass

import keras

import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 2
    batch_size: int = 500
    precision: zoo.recipe.Precision = "float32"

    def model(self, data, steps):
        return zoo.mlp(data.image_shape, data.classes, hidden=(3,))

    def callbacks(self):
        return [Act()]


class Act(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == STEP:
            ACTION()

    def on_test_begin(self, logs=None):
        EVALUATION()


STEP, ACTION, EVALUATION = 0, None, int
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tiny" / "run"


def run(file, step=0, action=None, evaluation=int, page=False, checkpoints=None, **fields):
    """Train in this process. After a step the action is called, and before each evaluation."""
    recipe_class = zoo.recipe.load(file)
    recipe_class.callbacks.__globals__.update(STEP=step, ACTION=action, EVALUATION=evaluation)
    return zoo.training.train(
        recipe_class(**fields),
        file,
        runs=file.parent,
        name="run",
        deterministic=False,
        page=page,
        checkpoints=checkpoints,
    )


def unfinished(folder):
    (folder / "results.json").unlink()


def last_commit(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def change_meta(commit, change):
    """Change the `meta` of a commit, and its checksum."""
    file = commit / "meta.json"
    record = json.loads(file.read_text().splitlines()[1])
    change(record["meta"])
    text = json.dumps(record)
    file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n")


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_of_another_run_is_refused_and_one_that_does_not_know_its_run_is_not(
    file, folder
):
    run(file)
    unfinished(folder)
    commit = last_commit(folder)
    for change, message in (
        (lambda meta: meta["run"]["fields"].update(seed=7), r"another run, with seed=7, now 0\."),
        (lambda meta: meta["run"].update(recipe="other"), "the recipe 'other', now 'tiny'"),
    ):
        text = (commit / "meta.json").read_text()
        change_meta(commit, change)
        with pytest.raises(zoo.recipe.RecipeError, match=message) as error:
            run(file)
        assert str(commit) in str(error.value)
        (commit / "meta.json").write_text(text)
    # Other code may go on. It is noted, even if a start in between has rewritten versions.json.
    change_meta(commit, lambda meta: meta["versions"].update(commit="old"))
    run(file)
    assert "Resumed with other commit: old" in Run(folder).results["warnings"][0]
    unfinished(folder)

    def as_before_there_were_identities(meta):
        del meta["run"], meta["versions"]

    change_meta(commit, as_before_there_were_identities)
    run(file)
    assert Run(folder).is_finished


def test_each_start_draws_the_missing_page_and_cleans_up(file, folder, monkeypatch, capsys):
    run(file)
    torn = folder / "checkpoints" / "step-0000000099.tmp"
    partial = folder / ".model.999.partial.keras"
    unfinished(folder)
    torn.mkdir()
    partial.touch()
    run(file)
    assert not torn.exists()
    assert not partial.exists()
    drawn = []
    monkeypatch.setattr(page, "write", lambda *arguments: drawn.append(arguments))
    partial.touch()
    run(file)  # with page=False
    assert not drawn
    assert not partial.exists()
    run(file, page=True)
    ((drawn_run, model, images),) = drawn
    assert (drawn_run.folder, images.examples) == (folder, 359)
    assert model.output_shape == (None, 10)
    assert len(list((folder / "examples").glob("*.png"))) == 8
    results = json.loads((folder / "results.json").read_text())
    results["data"]["test"][1] = "other labels"
    (folder / "results.json").write_text(json.dumps(results))
    run(file, page=True)
    assert "has changed" in capsys.readouterr().out
    assert len(drawn) == 1


def test_a_disk_that_is_full_from_the_start_stops_the_training(file, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 7))
        with pytest.raises(
            zoo.training.TrainingError, match=r"takes 1,\d+ bytes, and 7 are free.*--checkpoints"
        ):
            run(file, 1, lambda: pytest.fail("it trains"))
    calls = []
    monkeypatch.setattr(checkpoint, "save", lambda *a, **k: calls.append(a) or full_disk())
    with pytest.raises(
        zoo.training.TrainingError, match=r"checkpoints \(.*No space left.*--checkpoints DIR"
    ) as error:
        run(file)
    assert (len(calls), error.value.exit_code) == (1, 1)


def test_later_failures_are_counted_and_the_end_says_what_is_kept(
    file, folder, monkeypatch, capsys
):
    save, calls = checkpoint.save, []

    def full_after_the_first(*arguments, **keywords):
        calls.append(arguments)
        return save(*arguments, **keywords) if len(calls) == 1 else full_disk()

    monkeypatch.setattr(checkpoint, "save", full_after_the_first)
    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", full_disk)
    monkeypatch.setattr(zoo.training.finish.saving, "save", full_disk)
    with pytest.raises(zoo.training.TrainingError, match=r"not be written.* of step 3 is kept"):
        run(file, epochs=3)
    shown = capsys.readouterr().out
    assert "the last 2 saves failed; training goes on, and the state of step 3 is kept" in shown
    assert shown.count("TensorBoard's files are no longer written: [Errno 28]") == 1


def test_checkpoints_elsewhere_are_found_again(file, folder, tmp_path):
    elsewhere = tmp_path / "other disk"
    with pytest.raises(zoo.training.Interrupted):
        run(file, 4, lambda: os.kill(os.getpid(), signal.SIGTERM), checkpoints=elsewhere)
    assert checkpoint.latest_step(elsewhere) == 4
    elsewhere.rename(tmp_path / "away")
    with pytest.raises(UsageError, match="not there"):
        run(file)
    (tmp_path / "away").rename(elsewhere)
    run(file)  # without the flag
    assert Run(folder).results["resumed"] == 1
    assert checkpoint.latest_step(elsewhere) == 6


def test_a_moved_run_folder_is_noticed_and_keeps_the_state(file, folder, tmp_path):
    away = tmp_path / "away"
    with pytest.raises(
        zoo.training.TrainingError, match=f"moved to {away} .*the state of step 6 is saved there"
    ):
        run(file, 4, lambda: folder.rename(away))
    assert not folder.exists()
    away.rename(folder)
    run(file)
    assert Run(folder).results["resumed"] == 1


def test_a_deleted_run_folder_is_noticed_and_not_made_again(file, folder):
    with pytest.raises(zoo.training.TrainingError, match="was deleted during the training"):
        run(file, 4, lambda: shutil.rmtree(folder))
    assert not folder.exists()


def hang_up():
    for _ in range(2):  # a shell sends it, and then the kernel
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("micro_batches", [1, 2])  # 2 takes the loop of several devices
def test_sighup_saves_and_stops(file, folder, micro_batches):
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(zoo.training.Interrupted, match="SIGHUP and saved at step") as stop:
        run(file, 1, hang_up, micro_batches=micro_batches)
    assert stop.value.exit_code == 129
    assert signal.getsignal(signal.SIGHUP) is before
    # Several workers agree in the next step.
    assert checkpoint.latest_step(folder / "checkpoints") == micro_batches


def test_sighup_that_is_ignored_stays_ignored(file, folder):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run(file, 1, hang_up, epochs=1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert Run(folder).is_finished


def test_too_little_memory_in_a_step_says_what_may_fit(file, folder):
    import tensorflow as tf

    def take_too_much():  # a real one on a CPU comes after 10 s
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    with pytest.raises(
        zoo.training.TrainingError,
        match=r"step 5, with 500 images at once.*--micro-batches 2 .*--batch-size 250.*step 3 is",
    ):
        run(file, 5, take_too_much)
    with pytest.raises(
        zoo.training.TrainingError, match=r"evaluate the model after step 6.*step 3"
    ):
        run(file, evaluation=take_too_much)
    run(file)  # what was kept can be used
    assert Run(folder).results["resumed"] == 1


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (type("ResourceExhaustedError", (Exception,), {})("f; No space left on device"), False),
        (ValueError("no"), False),
    ],
    ids=repr,
)
def test_errors_about_memory_are_known_by_name(error, is_memory):
    assert failures.is_out_of_memory(error) == is_memory


def test_no_more_parts_are_proposed_than_a_replica_has_images():
    one = zoo.recipe.Recipe(batch_size=3, micro_batches=2)
    assert "--micro-batches 3 " in failures.too_large(one, 1, 5)
    several = zoo.recipe.Recipe(batch_size=4, micro_batches=2)
    assert "1 images" in failures.too_large(several, 2, 5)
    assert "--" not in failures.too_large(several, 2, 5)


def test_another_worker_that_is_lost_while_the_net_is_built_is_one_line(file, monkeypatch):
    import tensorflow as tf

    def lost(*arguments, **keywords):
        raise tf.errors.UnavailableError(None, None, "unhealthy (stopped sending heartbeats)\n[Op:")

    hosts = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    monkeypatch.setattr(
        distribute, "make_strategy", lambda *_: tf.distribute.OneDeviceStrategy("cpu:0")
    )
    monkeypatch.setattr(runner, "Session", lost)
    with pytest.raises(distribute.WorkerLost, match=r"start all workers again.*heartbeats\)\)$"):
        run(file)
