"""Two workers on 127.0.0.1 train like one process, and resume after one of them was killed."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest
from forked import ZooProcess

import zoo.recipe
import zoo.training
from zoo.training import checkpoint

pytestmark = pytest.mark.long

RECIPE = '''"""A small net with a companion, batch normalization and early stopping: for tests."""

from dataclasses import dataclass

import keras

import zoo
import zoo.data
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 40
    batch_size: int = 102
    learning_rate: float = 0.02
    precision: zoo.recipe.Precision = "float32"

    def augmentation(self):
        return zoo.data.Augmentation(shift=1)

    def model(self, data, steps):
        x = inputs = keras.Input(data.image_shape)
        x = keras.layers.Rescaling(1 / 255)(x)
        x = zoo.MLPConv((6,), 3, strides=2, normalization="batch", name="conv")(x)
        x = keras.layers.Dense(data.classes, name="logits")(keras.layers.Flatten()(x))
        heads = {"conv": zoo.CompanionHead(data.classes, name="head")}
        return zoo.DeeplySupervised(keras.Model(inputs, x), heads, companion_weight=0.3)

    def optimizer(self, steps):
        return keras.optimizers.SGD(self.learning_rate, momentum=0.9, global_clipnorm=1.0)

    def callbacks(self):
        # The loss never falls by ten, so the run ends after five epochs without progress.
        return [keras.callbacks.EarlyStopping("val_loss", min_delta=10, patience=5)]
'''


def start(file, runs):
    """Start both workers on free ports; return their processes."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = ["train", file, "--runs", runs, "--name", "run", "--no-page"]
        command += ["--checkpoint-seconds", "0.3"]
        environment = {**os.environ, "TF_CONFIG": config, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["TF_NUM_INTRAOP_THREADS"] = environment["TF_NUM_INTEROP_THREADS"] = "2"
        processes.append(ZooProcess(*command, environment=environment))
    return processes


def ended(processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Make the run folders of two workers, of two workers with one killed, and of one process."""
    file = tmp_path_factory.mktemp("recipe") / "small.py"
    file.write_text(RECIPE)
    runs = {name: file.parent / name for name in ("together", "killed", "alone")}
    together = start(file, runs["together"])
    killed = start(file, runs["killed"])
    commits = runs["killed"] / "small" / "run" / "checkpoints"
    while not checkpoint.latest_step(commits) and all(p.poll() is None for p in killed):
        time.sleep(0.02)
    killed[1].send_signal(signal.SIGKILL)
    after_kill = ended(killed)
    step = checkpoint.latest_step(commits)
    resumed = ended(start(file, runs["killed"]))
    undisturbed = ended(together)
    recipe = zoo.recipe.load(file)()
    zoo.training.train(
        recipe, file, runs=runs["alone"], name="run", deterministic=False, page=False
    )
    folders = {name: path / "small" / "run" for name, path in runs.items()}
    return folders, after_kill, step, resumed, undisturbed


def last_commit(folder):
    """Return the step, all variables, and the logs of all epochs without their times."""
    commit = sorted((folder / "checkpoints").iterdir())[-1]
    meta = json.loads((commit / "meta.json").read_text().splitlines()[1])["meta"]
    with np.load(commit / "state.npz") as arrays:
        state = {name: arrays[name] for name in arrays.files}
    logs = [{k: v for k, v in row.items() if k != "seconds"} for row in meta["history"]]
    return commit.name, state, logs


def test_two_workers_train_to_the_weights_and_logs_of_one_process(folders):
    paths, _, _, _, (codes, outputs) = folders
    assert codes == [0, 0], outputs
    (step, state, logs), (alone_step, alone, alone_logs) = (
        last_commit(paths[name]) for name in ("together", "alone")
    )
    assert step == alone_step == f"step-{6 * 15:010d}"  # early stopping
    for name, value in alone.items():
        np.testing.assert_allclose(state[name], value, atol=2e-6, err_msg=name)
    for row, alone_row in zip(logs, alone_logs, strict=True):
        assert row == pytest.approx(alone_row, abs=1e-5)
    results = [
        json.loads((paths[name] / "results.json").read_text()) for name in ("together", "alone")
    ]
    assert results[0]["errors"] == results[1]["errors"]
    assert results[0]["exits"] == results[1]["exits"]
    versions = json.loads((paths["together"] / "versions.json").read_text())
    assert versions["strategy"] == {"kind": "multi", "replicas": 2}


def test_only_the_chief_speaks(folders):
    _, _, _, _, (_, (chief, other)) = folders
    assert "epoch 6/40" in chief
    assert "epoch" not in other


def test_one_worker_killed_ends_the_other_which_says_what_to_do(folders):
    _, (codes, outputs), step, _, _ = folders
    assert codes == [1, -signal.SIGKILL], outputs
    assert "Another worker stopped" in outputs[0]
    assert 0 < step < 90


def test_started_again_both_end_with_the_bits_of_an_undisturbed_run(folders):
    paths, _, step, (codes, outputs), _ = folders
    assert codes == [0, 0], outputs
    assert f"at step {step}." in outputs[0]
    killed, together = (last_commit(paths[name]) for name in ("killed", "together"))
    assert killed[0] == together[0]
    assert killed[2] == together[2]
    for name, value in together[1].items():
        np.testing.assert_array_equal(killed[1][name], value, err_msg=name)
    assert json.loads((paths["killed"] / "results.json").read_text())["resumed"] == 1
