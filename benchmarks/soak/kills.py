"""Kill commands at any moment, start them again, and compare with one that was left alone."""

import csv
import functools
import hashlib
import json
import random
import signal
import socket
import threading
import time

import numpy as np
from processes import Command, Conditions
from shared_with_tests import RECIPE

from zoo import exports
from zoo.exports import ExportError
from zoo.runs import Run
from zoo.serving import verifying

TRAINING = '''"""A small NIN-DSN with everything that has a state: to be killed."""

from dataclasses import dataclass

import keras

import zoo
import zoo.data
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 3
    steps_per_epoch: int = 12
    batch_size: int = 64
    precision: zoo.recipe.Precision = "float32"
    width: float = 0.05

    def augmentation(self):
        return zoo.data.Augmentation(shift=1)

    def model(self, data, steps):
        weight = keras.optimizers.schedules.CosineDecay(0.5, steps)
        net = zoo.nin_dsn(
            data.image_shape, data.classes, width=self.width, dropout=0.3, companion_weight=weight
        )
        teacher = zoo.mlp(data.image_shape, data.classes, hidden=(8,))
        return zoo.Distiller(student=net, teacher=teacher, soft_companions=True)
'''
STUDY = "removal"
SHORTEST: dict[str, float] = {}  # attack: seconds of the shortest command that nothing disturbed
_ONE_AT_A_TIME = threading.Lock()  # what is left alone is made once


def recipe_file(folder, name, text):
    file = folder / f"{name}.py"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


def train_arguments(scratch, runs):
    file = recipe_file(scratch, "small", TRAINING)
    return ["train", file, "--runs", runs, "--name", "run", "--checkpoint-seconds", "0.1"]


def state(run):
    """Return what must be equal: all variables, the metrics, the model's file of weights."""
    commit = sorted((run / "checkpoints").iterdir())[-1]
    digest = hashlib.sha256()
    with np.load(commit / "state.npz") as arrays:
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].tobytes())
    with open(run / "metrics.csv", newline="", encoding="utf-8") as lines:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]
    results = {k: v for k, v in Run(run).results.items() if k not in ("seconds", "resumed")}
    return commit.name, digest.hexdigest(), rows, json.dumps(results, sort_keys=True)


def left_behind(folder):
    """Return what a finished command must not leave."""
    marks = (".partial", ".tmp", ".export-")
    return [path.name for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


@functools.cache
def trained_alone(scratch):
    """Return the state of a training that was left alone, and the seconds that it took."""
    runs = scratch / "alone"
    command = Command(train_arguments(scratch, runs), scratch / "alone.log")
    command.wait()
    assert command.code == 0, command.output
    return state(runs / "small" / "run"), time.monotonic() - command.begun


def left_alone(function, scratch):
    with _ONE_AT_A_TIME:
        return function(scratch)


def killed_until_done(name, start, seconds, rng, is_committing=None, most=8):
    """Start a command again and again, and kill it at random moments; then let it end.

    Returns (kills, the last command). Half of the kills wait until `is_committing`.

    `seconds` is the length of a command that was left alone. A machine that was busier then than it
    is now would kill after the end, so each command that ends first shortens it.
    """
    kills = 0
    for _ in range(most):
        command = start()
        seconds = min(seconds, SHORTEST.get(name, seconds))
        aim = is_committing is not None and rng.random() < 0.5
        ended = command.wait(rng.uniform(0, seconds))
        while aim and not ended and not is_committing():
            ended = command.wait(0.001)
        if ended:
            if kills == 0 and command.code == 0:
                SHORTEST[name] = min(seconds, time.monotonic() - command.begun)
            return kills, command
        command.kill()
        kills += 1
    command = start()
    command.wait(20 * seconds + 60)
    return kills, command


def trainings(scratch, seed):
    """Kill one training up to eight times: at its start, in steps, commits, the end, the page."""
    expected, seconds = left_alone(trained_alone, scratch)
    rng = random.Random(seed)
    runs = scratch / f"train-{seed}"
    run = runs / "small" / "run"

    def committing():
        return any((run / "checkpoints").glob("*.tmp")) if run.exists() else False

    kills, command = killed_until_done(
        "trainings",
        lambda: Command(train_arguments(scratch, runs), scratch / f"train-{seed}.log"),
        seconds,
        rng,
        committing,
    )
    return kills, _compared(command, run, expected)


def _compared(command, run, expected):
    if command.code != 0:
        return f"exit code {command.code}: {command.output[-300:]}"
    if state(run) != expected:
        return "another end than that of the run left alone"
    if not Run(run).page.is_file():
        return "a finished run without its page"
    return f"left behind: {leftovers}" if (leftovers := left_behind(run)) else ""


def _workers(scratch, runs, name):
    """Start two workers of one training."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    commands = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environment = {"TF_CONFIG": config, "TF_CPP_MIN_LOG_LEVEL": "3"}
        arguments = [*train_arguments(scratch, runs), "--strategy", "multi", "--no-page"]
        log = scratch / f"{name}-{index}.log"
        commands.append(Command(arguments, log, Conditions(environment)))
    return commands


@functools.cache
def trained_by_two_alone(scratch):
    runs = scratch / "alone-two"
    begun = time.monotonic()
    commands = _workers(scratch, runs, "alone-two")
    for command in commands:
        command.wait()
        assert command.code == 0, command.output
    return state(runs / "small" / "run"), time.monotonic() - begun


def two_workers(scratch, seed):
    """Kill one of two workers, or both, up to three times."""
    expected, seconds = left_alone(trained_by_two_alone, scratch)
    rng = random.Random(seed)
    runs, kills = scratch / f"two-{seed}", 0
    for _ in range(3):
        commands = _workers(scratch, runs, f"two-{seed}")
        commands[0].wait(rng.uniform(0, seconds))
        victims = rng.choice([commands[:1], commands[1:], commands])
        alive = [command for command in victims if command.code is None]
        for command in alive:
            command.kill()
        kills += len(alive)
        for command in commands:
            if not command.wait(120):
                command.kill()
                return kills, "a worker waits for one that was killed"
            if command not in victims and "Traceback" in command.output:
                return kills, f"a traceback: {command.output[-300:]}"
        if not alive:
            break
    for command in (commands := _workers(scratch, runs, f"two-{seed}")):
        command.wait(20 * seconds + 60)
    if any(command.code != 0 for command in commands):
        return kills, f"exit codes {[command.code for command in commands]}"
    run = runs / "small" / "run"
    return kills, "" if state(run) == expected else "another end than that of workers left alone"


def tune_arguments(scratch, runs):
    file = recipe_file(scratch, "search", RECIPE)
    flags = ["--trials", "3", "--tuner", "bayesian", "--runs", runs, "--name", "search"]
    return ["tune", file, *flags, "--checkpoint-seconds", "0.1"]


def table_of(runs):
    with open(runs / "search" / "search" / "trials.csv", newline="", encoding="utf-8") as lines:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]
    return sorted(rows, key=lambda row: row["trial"])


@functools.cache
def searched_alone(scratch):
    runs = scratch / "alone-tune"
    command = Command(tune_arguments(scratch, runs), scratch / "alone-tune.log")
    command.wait()
    assert command.code == 0, command.output
    return table_of(runs), time.monotonic() - command.begun


def searches(scratch, seed):
    """Kill one search up to eight times."""
    expected, seconds = left_alone(searched_alone, scratch)
    runs = scratch / f"tune-{seed}"
    kills, command = killed_until_done(
        "tune",
        lambda: Command(tune_arguments(scratch, runs), scratch / f"tune-{seed}.log"),
        seconds,
        random.Random(seed),
    )
    if command.code != 0:
        return kills, f"exit code {command.code}: {command.output[-300:]}"
    return kills, "" if table_of(runs) == expected else "other trials than those left alone"


def figure_command(scratch, name):
    out = scratch / name
    arguments = ["figure", STUDY, "--seeds", "1", "--runs", out / "runs", "--out", out / "pages"]
    return Command(arguments, scratch / f"{name}.log", Conditions(study=STUDY))


def rows_of_page(scratch, name):
    text = (scratch / name / "pages" / f"{STUDY}.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|")]


@functools.cache
def drawn_alone(scratch):
    command = figure_command(scratch, "alone-figure")
    command.wait()
    assert command.code == 0, command.output
    return rows_of_page(scratch, "alone-figure"), time.monotonic() - command.begun


def figures(scratch, seed):
    """Kill one study up to eight times."""
    expected, seconds = left_alone(drawn_alone, scratch)
    name = f"figure-{seed}"
    kills, command = killed_until_done(
        "figure", lambda: figure_command(scratch, name), seconds, random.Random(seed)
    )
    if command.code != 0:
        return kills, f"exit code {command.code}: {command.output[-300:]}"
    same = rows_of_page(scratch, name) == expected
    return kills, "" if same else "another table than that of the study left alone"


def export_kills(scratch, seed):
    """Kill `zoo export` ten times, while a reader checks each version as soon as it is there."""
    left_alone(trained_alone, scratch)
    run, out = scratch / "alone" / "small" / "run", scratch / f"exports-{seed}"
    rng, torn, stop = random.Random(seed), [], threading.Event()

    def read():
        seen = set()
        while not stop.wait(0.005):
            versions = exports.versions(out) if out.is_dir() else {}
            for number in set(versions) - seen:
                seen.add(number)
                try:
                    exports.verify_checksums(versions[number])
                except (ExportError, OSError) as error:
                    torn.append(f"version {number}: {error}")

    reader = threading.Thread(target=read)
    reader.start()
    kills, seconds = 0, 12.0
    while kills < 10:
        command = Command(["export", run, "--out", out], scratch / f"export-{seed}.log")
        if not command.wait(rng.uniform(0.2, seconds)):
            command.kill()
            kills += 1
        else:
            seconds = time.monotonic() - command.begun
            if command.code != 0:
                torn.append(f"exit code {command.code}: {command.output[-300:]}")
                break
    command = Command(["export", run, "--out", out], scratch / f"export-{seed}.log")
    command.wait()
    stop.set()
    reader.join()
    if command.code != 0:
        torn.append(f"the last export: {command.output[-300:]}")
    elif wrong := [c for c in verifying.verify(out) if not c.passed]:
        torn.append(f"{wrong[0].name}: {wrong[0].found}")
    if leftovers := left_behind(out):
        torn.append(f"left behind: {leftovers}")
    return kills, "; ".join(torn)


def signals(scratch, seed):
    """Stop a training with SIGINT, SIGTERM or SIGHUP, or halt it for a while; then resume."""
    expected, seconds = left_alone(trained_alone, scratch)
    rng = random.Random(seed)
    runs = scratch / f"signal-{seed}"
    log = scratch / f"signal-{seed}.log"
    command = Command(train_arguments(scratch, runs), log)
    if not command.wait(rng.uniform(0.3, 1) * seconds):
        number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP])
        command.send(number)
        if number == signal.SIGSTOP:
            time.sleep(rng.uniform(0.1, 2))
            command.send(signal.SIGCONT)
        if not command.wait(60 + 20 * seconds):
            command.kill()
            return 1, f"{number!r} did not end it"
        if "Traceback" in command.output:
            return 1, f"{number!r}: a traceback: {command.output[-300:]}"
    if command.code != 0:
        command = Command(train_arguments(scratch, runs), log)
        command.wait()
    return 1, _compared(command, runs / "small" / "run", expected)
