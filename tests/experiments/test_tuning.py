"""`zoo tune`: trials are runs, a search resumes, and several processes can share it."""

import _thread
import contextlib
import csv
import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import threading
import time
from types import SimpleNamespace

import keras_tuner
import keras_tuner.engine.trial
import numpy as np
import pytest
from forked import ZooProcess
from quick_recipe import RECIPE

import zoo.commands.main
import zoo.data
import zoo.experiments.tuning
import zoo.memory
import zoo.recipe
import zoo.training
from zoo.experiments import tuning_table
from zoo.experiments.tuning_search import Search
from zoo.report import figures
from zoo.runs import Run
from zoo.text import counted
from zoo.training import checkpoint

pytestmark = pytest.mark.long

LONGER = RECIPE.replace("steps_per_epoch: int = 4", "steps_per_epoch: int = 200")


@pytest.fixture(autouse=True)
def _no_chief(monkeypatch):
    for name in ("ORACLE_IP", "ORACLE_PORT", "TUNER_ID"):
        monkeypatch.delenv(f"KERASTUNER_{name}", raising=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "quick.py"
    path.write_text(RECIPE)
    return path


def tune(file, trials, tuner="random", fixed=(), checkpoint_seconds=60.0, **fields):
    """A search in this process; its folder."""
    recipe = zoo.recipe.load(file)(**fields)
    keywords = {"trials": trials, "tuner": tuner, "fixed": fixed, "deterministic": False}
    keywords["checkpoint_seconds"] = checkpoint_seconds
    return zoo.experiments.tuning.tune(
        recipe, file, runs=file.parent / "runs", name="search", **keywords
    )


def rows(folder):
    """trials.csv without the times."""
    with open(folder / "trials.csv", newline="") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def runs(folder):
    """{trial: its run folder}."""
    return {path.name.split(",")[0]: path for path in (folder / "trials").iterdir()}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def stamps(folder):
    """When each finished trial's results were written."""
    files = {trial: run / "results.json" for trial, run in runs(folder).items()}
    return {trial: path.stat().st_mtime_ns for trial, path in files.items() if path.exists()}


def test_a_search_says_what_its_runs_say_goes_on_and_survives_torn_files(file, capsys, monkeypatch):
    asked, load = [], zoo.data.load
    monkeypatch.setattr(zoo.data, "load", lambda n, s, **k: asked.append(s) or load(n, s, **k))
    folder = tune(file, 2, "bayesian")
    first, before = rows(folder), stamps(folder)
    tune(file, 3, "bayesian")
    table = rows(folder)
    assert [row for row in table if row["trial"] in before] == first  # neither lost nor changed
    assert {t: at for t, at in stamps(folder).items() if t in before} == before  # nor run again
    assert set(asked) == {"train"}  # the test set stays closed
    assert sorted(row["trial"] for row in table) == ["0", "1", "2"]
    assert len({row["learning_rate"] for row in table}) == 3
    errors = [int(row["errors"]) for row in table]
    assert errors == sorted(errors)
    for row in table:
        run = runs(folder)[row["trial"]]
        fields, results = read(run, "recipe")["fields"], read(run, "results")
        assert fields["learning_rate"] == float(row["learning_rate"])
        assert fields["units"] == int(row["units"])
        assert (results["errors"], results["evaluated_on"]) == (int(row["errors"]), "validation")
        assert f"{100 * results['errors'] / 360:.2f}" == f"{float(row['error_percent']):.2f}"
        with open(run / "metrics.csv", newline="") as lines:
            last = list(csv.DictReader(lines))[-1]
        assert 360 * (1 - float(last["val_accuracy"])) == pytest.approx(int(row["errors"]), abs=0.1)
    best = f"zoo train {file} --learning-rate {table[0]['learning_rate']} --units"
    assert best in (folder / "trials.md").read_text()
    assert best in capsys.readouterr().out
    assert (folder / "trials.png").stat().st_size > 10_000

    oracle = [read(path, "trial") for path in sorted(folder.glob("keras-tuner/trial_*"))]
    drawn = {
        trial["trial_id"]: trial["hyperparameters"]["values"]["learning_rate"] for trial in oracle
    }
    tried = {row["trial"]: float(row["learning_rate"]) for row in table}
    assert tried == {trial: float(f"{rate:.3g}") for trial, rate in drawn.items()}
    assert set(tried.values()) != set(drawn.values())

    before = stamps(folder)
    torn = folder / "keras-tuner" / "oracle.json"
    torn.write_text(torn.read_text()[:-40])
    tune(file, 3, "bayesian")
    assert "files are damaged" in capsys.readouterr().out
    assert (rows(folder), stamps(folder)) == (table, before)


def test_hyperband_trains_the_best_longer_and_has_the_longest_first(file):
    folder = tune(file, 4, "hyperband", epochs=3, steps_per_epoch=2)
    table = rows(folder)
    assert [row["epochs"] for row in table] == ["3", "1", "1", "1"]
    errors = [int(row["errors"]) for row in table[1:]]
    assert errors == sorted(errors)
    key = ("learning_rate", "units")
    assert [table[0][k] for k in key] in [
        [row[k] for k in key] for row in table[1:] if int(row["errors"]) == min(errors)
    ]
    lengths = {t: read(run, "results")["epochs"] for t, run in runs(folder).items()}
    assert all(lengths[row["trial"]] == int(row["epochs"]) for row in table)


def test_of_trials_of_several_lengths_the_longest_come_first(file):
    recipe = zoo.recipe.load(file)()
    search = Search(recipe, file, file.parent, tuner="hyperband", trials=4)
    trials = {}
    for name, (epochs, score) in enumerate([(1, 0.9), (3, 0.7), (3, 0.8), (1, None)]):
        drawn = search.space.copy()
        drawn.values["tuner/epochs"] = epochs
        trial = keras_tuner.engine.trial.Trial(drawn, str(name), "COMPLETED" if score else "FAILED")
        trial.score = score
        trials[str(name)] = trial
    oracle = SimpleNamespace(trials=trials)
    assert [trial.trial_id for trial in search.finished(oracle)] == ["2", "1", "0"]


def diverging(file, rates):
    file.write_text(RECIPE.replace('hp.Float("learning_rate", 1e-3, 1.0, sampling="log")', rates))


def test_the_best_command_trains_the_best_and_is_one_that_can_be_typed(file, monkeypatch):
    recipe = """    flip: bool = True
    stream: bool | None = None

    def search(self, hp):
        return replace(self, flip=hp.Boolean("flip"), units=hp.Choice("units", [4, 8]))

    def search_"""
    file.write_text(RECIPE.replace("    def search", recipe, 1))
    make = zoo.recipe.load(file)
    given = make(data="some folder", image_size=(8, 9), stream=True, epochs=3, validation=0.1)
    search = Search(given, file, file.parent, tuner="random", trials=1)
    row = {"flip": False, "units": None}  # the trial has no value of `units`
    command = tuning_table.command(search, row)
    assert command == (
        f"zoo train {file} --data 'some folder' --image-size 8 9 --stream True --no-flip"
    )
    parsed, (without_recipe, options, _) = [], zoo.commands.main.OF_A_RECIPE["train"]
    parse_only = (without_recipe, options, lambda recipe, *others: parsed.append(recipe))
    monkeypatch.setitem(zoo.commands.main.OF_A_RECIPE, "train", parse_only)
    zoo.commands.main.main(shlex.split(command)[1:])
    expected = make(data="some folder", image_size=(8, 9), stream=True, flip=False)
    assert dataclasses.asdict(parsed[0]) == dataclasses.asdict(expected)


def test_a_trial_that_diverges_has_no_score_and_the_search_goes_on(file, capsys):
    diverging(file, 'hp.Choice("learning_rate", [0.1, 1e30])')
    folder = tune(file, 3)
    rates = [row["learning_rate"] for row in rows(folder)]
    assert set(rates) == {"0.1"}
    diverged = counted(3 - len(rates), "further trial")
    assert f"{diverged} diverged" in (folder / "trials.md").read_text()
    assert capsys.readouterr().out.count("has no score: The loss became") == 3 - len(rates) > 0


def test_a_search_without_a_score_is_a_failure(file):
    diverging(file, 'hp.Choice("learning_rate", [1e30])')
    with pytest.raises(zoo.training.TrainingError, match="None of the 3 trials came to its end"):
        tune(file, 3)  # keras-tuner's own patience would end with the third


@pytest.mark.parametrize(
    ("replacement", "arguments", "message"),
    [
        (None, {"validation": 0.0}, "such as --validation 0.1"),
        (None, {"trials": 0}, "--trials is a number of runs"),
        (None, {"tuner": "grid"}, "--tuner is one of bayesian, hyperband, random"),
        (None, {"epochs": 0}, "--epochs is a positive number"),
        (None, {"fixed": ["units", "learning_rate"]}, "which were given"),
        ("def search(self, hp):\n        return self", {}, "draws no field"),
        ('def search(self, hp):\n        hp.Float("rate", 0, 1)\n        return self', {}, "rate"),
        (
            'def search(self, hp):\n        hp.Float("units", 5, 6)\n'
            "        return replace(self, epochs=2)",
            {},
            "draws units and changes epochs",
        ),
    ],
)
def test_searches_that_cannot_be_are_refused_before_anything_is_made(
    replacement, arguments, message, file
):
    if replacement:
        file.write_text(re.sub(r"def search.*?\n        \)", replacement, RECIPE, flags=re.DOTALL))
    with pytest.raises(zoo.recipe.RecipeError, match=message):
        tune(file, **{"trials": 2, **arguments})
    assert not (file.parent / "runs").exists()


def test_a_folder_with_another_search_is_refused(file):
    folder = file.parent / "runs" / "quick" / "search"
    Search(zoo.recipe.load(file)(), file, folder, tuner="random", trials=2).refuse_another()
    for arguments, what in (
        ({"tuner": "bayesian"}, "tuner"),
        ({"epochs": 9}, "fields"),
        ({"fixed": ["units"]}, "space"),
    ):
        with pytest.raises(zoo.recipe.RecipeError, match=f"another {what}; choose another --name"):
            tune(file, 1, **arguments)
    with Run(folder).locked(), pytest.raises(zoo.recipe.RecipeError, match="Another proc"):
        tune(file, 1)


def test_a_search_that_was_refused_leaves_nothing(file):
    for fields, error in (
        ({"data": "./nowhere"}, zoo.data.DataError),
        ({"image_size": (10**5, 10**5)}, zoo.memory.TooLarge),
    ):
        with pytest.raises(error):
            tune(file, 2, **fields)
        assert not (file.parent / "runs").exists()


def test_a_search_is_not_continued_with_other_images(file, monkeypatch):
    recipe = zoo.recipe.load(file)(data="digits")
    search = Search(recipe, file, file.parent, tuner="random", trials=1)
    search.refuse_another()
    search.refuse_another()
    record = json.loads((file.parent / "search.json").read_text())
    digits = zoo.data.load("digits")
    images = digits.images.copy()
    images[0, 3, 3] ^= 1
    other = dataclasses.replace(digits, images=images)
    monkeypatch.setattr(zoo.data, "load", lambda *_, **__: other)
    with pytest.raises(
        zoo.recipe.RecipeError, match=r"search of other .* images of digits \(pixel"
    ):
        search.refuse_another()
    del record["data"]  # an older search does not know its images
    (file.parent / "search.json").write_text(json.dumps(record))
    search.refuse_another()


def test_the_figure_has_a_point_a_trial_and_the_best_in_its_colour():
    fields = {"rate": [0.1, 0.01, 1.0], "net": ["b", "a", "b"], "late": [None, 3, 5]}
    figure = figures.searched(fields, np.array([2.0, 5.0, 40.0]), ["rate"])
    points = [axes.collections[0] for axes in figure.axes]
    expected = ([[0.1, 2], [0.01, 5], [1, 40]], [[1, 2], [0, 5], [1, 40]], [[3, 5], [5, 40]])
    for scatter, places in zip(points, expected, strict=True):
        np.testing.assert_array_equal(scatter.get_offsets(), places)
    assert [axes.get_xlabel() for axes in figure.axes] == list(fields)
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["a", "b"]
    colours = points[0].get_facecolors()
    assert not np.array_equal(colours[0], colours[1])
    np.testing.assert_array_equal(colours[1], colours[2])
    # Where the best is not among the points, none has its colour.
    np.testing.assert_array_equal(points[2].get_facecolors(), colours[1:])


# Processes


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start():
    """`zoo tune` in a process of its own, which does not outlive the test."""
    started = []
    yield lambda *arguments: started.append(_start(*arguments)) or started[-1]
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _start(file, trials, role="alone"):
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "KERASTUNER_TUNER_ID": role}
    command = ["tune", file, "--trials", trials]
    command += ["--tuner", "random", "--runs", file.parent / "runs", "--name", "search"]
    command += ["--units=8", "--no-deterministic", "--checkpoint-seconds", "0.1"]
    return ZooProcess(*command, environment=environment)


def is_training(folder, trial):
    """Whether this trial has saved something."""
    return any(map(checkpoint.latest_step, folder.glob(f"trials/{trial},*/checkpoints")))


def kill_in(folder, trial, process):
    """SIGKILL, as soon as it has saved something of this trial."""
    while not is_training(folder, trial):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (runs(folder)[trial] / "results.json").exists()


def test_a_search_that_is_stopped_in_a_trial_ends_like_one_left_alone(file, capsys):
    """By SIGINT, so as not to start another process; the tuner below is killed."""
    file.write_text(LONGER)
    folder = file.parent / "runs" / "quick" / "search"
    keywords = {"fixed": ["units"], "units": 8, "checkpoint_seconds": 0.1}

    def stop():
        while not is_training(folder, "1"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(zoo.training.Interrupted, match="SIGINT"):
        tune(file, 2, **keywords)
    thread.join()
    before = stamps(folder)
    assert list(before) == ["0"]
    assert [row["trial"] for row in rows(folder)] == ["0"]  # the table so far
    tune(file, 2, **keywords)
    assert "Resumed" in capsys.readouterr().out
    assert stamps(folder)["0"] == before["0"]
    assert read(runs(folder)["1"], "results")["resumed"] == 1
    table = rows(folder)
    (file.parent / "alone").mkdir()
    alone = file.rename(file.parent / "alone" / file.name)
    assert table == rows(tune(alone, 2, **keywords))


def test_a_chief_and_two_tuners_share_the_trials_though_one_is_killed(
    file, start, monkeypatch, capsys
):
    """The chief is this process, the tuners are others."""
    file.write_text(LONGER)
    folder = file.parent / "runs" / "quick" / "search"
    address = {"ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(free_port()), "TUNER_ID": "chief"}
    for name, value in address.items():
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    ended = []

    def tuners():
        try:
            while not answers(int(address["ORACLE_PORT"])):
                time.sleep(0.1)
            kill_in(folder, "0", start(file, 3, "tuner0"))
            both = [start(file, 3, f"tuner{index}") for index in range(2)]
            ended.extend((*tuner.communicate(timeout=400), tuner.returncode) for tuner in both)
            assert [code for *_, code in ended] == [0, 0], ended
        except BaseException:
            _thread.interrupt_main()  # else the chief waits for ever
            raise

    thread = threading.Thread(target=tuners)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        tune(file, 3, fixed=["units"], units=8)
    thread.join()
    shown = capsys.readouterr().out
    assert len(ended) == 2, ended
    assert sorted(row["trial"] for row in rows(folder)) == ["0", "1", "2"]
    assert set(rows(folder)[0]) == {"trial", "learning_rate", "errors", "error_percent"}
    begun = sorted(re.findall(r"Trial (\d), of 3", "".join(output for output, *_ in ended)))
    assert begun == ["0", "1", "2"]  # none twice, none by the chief
    assert read(runs(folder)["0"], "results")["resumed"] == 1
    assert "Trial" not in shown
    assert f"zoo train {file} --units 8 --learning-rate" in shown
    assert "the chief has the table" in ended[0][0]
    assert {read(run, "recipe")["fields"]["units"] for run in runs(folder).values()} == {8}


def answers(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True


def test_a_tuner_stops_before_the_next_trial_if_the_chief_is_gone(file, monkeypatch):
    address = {"ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(free_port()), "TUNER_ID": "tuner0"}
    for name, value in address.items():
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    oracle = keras_tuner.oracles.RandomSearchOracle(objective="val_loss")
    loop = zoo.experiments.tuning.TrialLoop(
        None, "tuner", None, {}, oracle=oracle, directory=str(file.parent)
    )
    with pytest.raises(ConnectionError, match="No chief answers"):
        loop.search()


@pytest.mark.parametrize(
    ("environment", "error", "message"),
    [
        ({"ORACLE_PORT": "{free}"}, ConnectionError, r"No chief answers at 127.0.0.1:\d+ .*first"),
        ({"TUNER_ID": None}, zoo.recipe.RecipeError, "KERASTUNER_TUNER_ID must be set too"),
        ({"ORACLE_PORT": ""}, zoo.recipe.RecipeError, "KERASTUNER_ORACLE_PORT must be set too"),
        ({"ORACLE_PORT": "http"}, zoo.recipe.RecipeError, "is a port number; received 'http'"),
        ({"TUNER_ID": "chief"}, zoo.recipe.RecipeError, "is taken"),
    ],
)
def test_a_chief_that_cannot_be_reached_is_reported_at_once(
    environment, error, message, file, monkeypatch
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(taken.getsockname()[1])}
        for name, value in {**values, "TUNER_ID": "tuner0", **environment}.items():
            if value is not None:
                value = value.replace("{free}", str(free_port()))
                monkeypatch.setenv(f"KERASTUNER_{name}", value)
        begun = time.monotonic()
        with pytest.raises(error, match=message):
            tune(file, 2)
        assert time.monotonic() - begun < 60  # keras-tuner waits for an hour
    assert not (file.parent / "runs").exists()
