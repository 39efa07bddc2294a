"""Search the fields that a recipe declares: keras-tuner proposes, the runner trains."""

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import shlex
import socket
import time
from pathlib import Path

import keras
import keras_tuner
import numpy as np
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.errors import FailedTrialError, FatalError
from rich.console import Console
from rich.table import Table as RichTable

from zoo import files, training
from zoo.recipe import RecipeError, names
from zoo.report import figures
from zoo.runs import Run, name_of
from zoo.tables import Table
from zoo.text import flag

TUNERS = ("bayesian", "hyperband", "random")
_OBJECTIVE = keras_tuner.Objective("validation_accuracy", "max")


def tune(
    recipe,
    file,
    *,
    trials,
    tuner="bayesian",
    fixed=(),
    runs="runs",
    name=None,
    checkpoint_seconds=60.0,
    deterministic=True,
    console=None,
):
    """Try `trials` settings of the fields that `recipe.search` declares; returns the folder.

    Each trial is a run of `zoo.training.train`, and is judged by the last epoch's accuracy on the
    recipe's validation share: the test set stays closed. The folder runs/<recipe>/<name> gets a
    run folder a trial, trials.csv, trials.md and trials.png. The same call again resumes, in the
    middle of a trial too; with more `trials` it goes on. Under "hyperband" a trial of fewer epochs
    is a whole training of so many, its schedule and all; none continues another.

    With keras-tuner's environment variables KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and
    KERASTUNER_TUNER_ID, many processes that share the folder search together: the one whose id has
    "chief" in it proposes, and writes the table; the others train. A tuner that died is started
    again with its id; until then the chief waits for it.

    Arguments:
        fixed: fields that keep the recipe's value, declared or not.

    Raises:
        RecipeError: for a recipe without a validation share or with nothing to search, or a folder
            that holds another search.
        ConnectionError: at once, where no chief answers.
        zoo.training.TrainingError: if no trial came to its end. One that diverges has no score,
            and the search goes on.
        zoo.training.Interrupted: after saving, when SIGINT or SIGTERM came.
    """
    role = _role()
    recipe.check()
    if tuner not in TUNERS:
        raise RecipeError(f"--tuner is one of {', '.join(TUNERS)}; received {tuner!r}.")
    if trials < 1:
        raise RecipeError(f"--trials is a number of runs, 1 or more; received {trials}.")
    if not recipe.validation:
        raise RecipeError(
            "A search is judged by held-out training images, never by the test set: choose their "
            "share, such as --validation 0.1."
        )
    space = _space(recipe, fixed)
    folder = Path(runs) / Path(file).stem / (name or f"tune={tuner},{name_of(recipe)}")
    keywords = {"checkpoint_seconds": checkpoint_seconds, "deterministic": deterministic}
    search = _Search(recipe, Path(file), folder, tuner, space, trials, keywords, console)
    with contextlib.nullcontext() if role == "tuner" else Run(folder).locked():
        search.refuse_another()
        loop = search.loop(role)
        if role == "chief":
            search.say(f"Chief of {folder}: it proposes, and waits for tuners that train.")
        try:
            loop.search(verbose=0)
        except FatalError as stop:
            raise stop.__cause__ from None
        finally:
            if role != "tuner":
                search.write(loop.oracle)
    if role == "tuner":
        search.say("No trial is left; the chief has the table.")
    elif not search.finished(loop.oracle):
        raise training.TrainingError(f"None of the {trials} trials came to its end.")
    return folder


class _Tuner(BaseTuner):
    """keras-tuner's loop, whose trials are runs."""

    def __init__(self, trials, role, **keywords):
        self.trials, self.role = trials, role
        super().__init__(**keywords)

    def pre_create_trial(self):
        if self.role == "tuner":
            _reach_chief()  # keras-tuner would wait an hour for one that is gone
            time.sleep(0.1)  # and ask without a pause while the chief has nothing to give

    def run_trial(self, trial, **_):
        keras.utils.clear_session()  # else the nets of all trials stay in memory
        try:
            accuracy = self.trials.run(trial)
            if self.role == "tuner":
                _reach_chief()
        except training.TrainingError as error:  # what these values lead to: they have no score
            self.trials.say(f"Trial {trial.trial_id} has no score: {error}")
            raise FailedTrialError(str(error)) from error
        except Exception as error:  # else keras-tuner passes over it to the next trial
            raise FatalError(str(error)) from error
        return {_OBJECTIVE.name: accuracy}


class _Search:
    """What the trials have in common, and the table of them."""

    def __init__(self, recipe, file, folder, tuner, space, trials, keywords, console):
        self.recipe, self.file, self.folder = recipe, file, folder
        self.tuner, self.space, self.trials = tuner, space, trials
        self.keywords = keywords
        self.console = console or Console(highlight=False)
        self.searched = [each.name for each in space.space if not isinstance(each, Fixed)]

    def say(self, text):
        self.console.print(text, soft_wrap=True, markup=False)

    def refuse_another(self):
        """A folder belongs to the search that it was begun with."""
        record = {
            "tuner": self.tuner,
            "fields": dataclasses.asdict(self.recipe),
            "space": self.space.get_config()["space"],
        }
        record, path = json.loads(json.dumps(record)), self.folder / "search.json"
        if path.exists():
            begun = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in record if begun.get(key) != record[key]]
            if differing:
                raise RecipeError(
                    f"{self.folder} holds a search of another {' and '.join(differing)}; choose "
                    "another --name."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(record, indent=2) + "\n")

    def loop(self, role):
        """keras-tuner's loop over its oracle, where it was stopped if it was."""
        try:
            return self._loop(role, overwrite=False)
        except (ValueError, RuntimeError) as error:
            # Its files are written in place, and a kill can leave one torn. The runs are whole:
            # proposed once more, they are taken as they are.
            self.say(f"keras-tuner's files are damaged ({error}); the proposals begin anew.")
            return self._loop(role, overwrite=True)

    def _loop(self, role, overwrite):
        common = {
            "objective": _OBJECTIVE,
            "hyperparameters": self.space.copy(),
            "seed": self.recipe.seed + 1,  # keras-tuner takes 0 for none
            # After so many it raises within a lock that the chief then waits for.
            "max_consecutive_failed_trials": self.trials + 1,
        }
        if self.tuner == "hyperband":
            oracle = keras_tuner.oracles.HyperbandOracle(
                max_epochs=self.recipe.epochs, hyperband_iterations=None, **common
            )
            oracle.max_trials = self.trials  # it stops at nothing else
        else:
            make = {
                "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
                "random": keras_tuner.oracles.RandomSearchOracle,
            }[self.tuner]
            oracle = make(max_trials=self.trials, **common)
        return _Tuner(
            self,
            role,
            oracle=oracle,
            directory=str(self.folder),
            # A tuner has nothing to keep, and must not come between the chief and its files.
            project_name="keras-tuner"
            if role != "tuner"
            else f"keras-tuner/{os.environ['KERASTUNER_TUNER_ID']}",
            overwrite=overwrite,
        )

    def run(self, trial):
        """The last validation accuracy of a trial, trained now if it was not before."""
        values = self.values(trial)
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        self.say(f"Trial {trial.trial_id}, of {self.trials}: {told}")
        folder = training.train(
            dataclasses.replace(self.recipe, **values),
            self.file,
            runs=self.folder.parent.parent,
            name=str(self.run_folder(trial).relative_to(self.folder.parent)),
            page=False,
            console=self.console,
            **self.keywords,
        )
        return Run(folder).results["accuracy"]

    def values(self, trial):
        """{field: value} that a trial decides, in the order of declaration."""
        drawn = trial.hyperparameters.values
        found = self.recipe.search(trial.hyperparameters)
        values = {key: getattr(found, key) for key in self.searched if key in drawn}
        if "tuner/epochs" in drawn:
            values["epochs"] = drawn["tuner/epochs"]
        # Three digits, so that the table says, to the bit, what was trained.
        return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in values.items()}

    def run_folder(self, trial):
        values = ",".join(f"{key}={value}" for key, value in self.values(trial).items())
        return self.folder / "trials" / f"{trial.trial_id},{values}"[:200]

    def finished(self, oracle):
        """The trials with a score, the best first; of hyperband, the longest first."""
        trials = [each for each in oracle.trials.values() if each.status == "COMPLETED"]
        return sorted(trials, key=lambda each: (-self.values(each).get("epochs", 0), -each.score))

    def write(self, oracle):
        """trials.csv, trials.md and trials.png."""
        trials = self.finished(oracle)
        if not trials:
            return
        rows = []
        for trial in trials:
            results = Run(self.run_folder(trial)).results
            rows.append(
                {
                    "trial": trial.trial_id,
                    **dict.fromkeys(self.searched),  # of which a trial may lack some
                    **self.values(trial),
                    "errors": results["errors"],
                    "error_percent": round(results["error_percent"], 2),
                    "seconds": round(results["seconds"], 1),
                }
            )
        with open(self.folder / "trials.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        fields = {key: [row.get(key) for row in rows] for key in rows[0] if key in self.searched}
        logarithmic = [
            each.name for each in self.space.space if getattr(each, "sampling", None) == "log"
        ]
        errors = np.array([row["error_percent"] for row in rows])
        figures.searched(fields, errors, logarithmic).savefig(self.folder / "trials.png", dpi=150)
        failed = sum(each.status == "FAILED" for each in oracle.trials.values())
        files.write(self.folder / "trials.md", self._page(rows, failed))
        table = RichTable(*rows[0], box=None, padding=(0, 2, 0, 0))
        for row in rows[:10]:
            table.add_row(*map(str, row.values()))
        self.console.print(table)
        self.say(f"\nThe page    {self.folder / 'trials.md'}")
        self.say(f"The figure  {self.folder / 'trials.png'}")
        self.say(f"The best    {self._command(rows[0])}")

    def _page(self, rows, failed):
        trials = sorted((self.folder / "trials").iterdir())
        finished = next(run for run in map(Run, trials) if run.is_finished)
        versions = finished.versions
        hardware, commit = versions["hardware"], (versions["commit"] or "unknown")[:7]
        examples = finished.results["examples"]
        table = Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows))
        minutes = sum(row["seconds"] for row in rows) / 60
        return "\n\n".join(
            [
                f"# Search of {self.file.stem}: {len(rows)} of {self.trials} trials",
                f"Error (%) on {examples} held-out training images after the last epoch; the test "
                "set was not opened. **It is evidence for this budget**: "
                + ", ".join(f"`{flag(key)} {value}`" for key, value in self.given.items())
                + (f". {failed} further trials diverged." if failed else "."),
                f"The best: `{self._command(rows[0])}`",
                "![The trials](trials.png)",
                table.markdown(),
                f"Made by `zoo tune {self.file.stem} --tuner {self.tuner} --trials {self.trials}` "
                f"with the budget above: {minutes:.0f} minutes of training on {hardware['cores']} "
                f"cores ({hardware['cpu']}), commit {commit}.\n",
            ]
        )

    @property
    def given(self):
        """{field: value} of what the trials have in common and the recipe not by itself."""
        own, fields = type(self.recipe)(), dataclasses.asdict(self.recipe)
        return {key: value for key, value in fields.items() if value != getattr(own, key)}

    def _command(self, row):
        """What trains the best for as long as the recipe says, and is judged by the test set."""
        budget = ("validation", "epochs", "steps_per_epoch")
        values = {key: value for key, value in self.given.items() if key not in budget}
        values |= {key: row[key] for key in self.searched if row[key] is not None}
        known, own = names().get(self.file.stem), type(self.recipe)()
        by_name = known is not None and known.resolve() == self.file.resolve()
        recipe = self.file.stem if by_name else str(self.file)
        flags = [_as_flags(key, value, getattr(own, key)) for key, value in values.items()]
        return shlex.join(["zoo", "train", recipe, *itertools.chain(*flags)])


def _as_flags(field, value, own):
    """As the command line takes it, where a field that is true or false has no value."""
    if isinstance(own, bool):
        return [flag(field if value else f"no_{field}")]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [flag(field), *map(str, values)]


def _space(recipe, fixed):
    """What `recipe.search` declares, as keras-tuner's `HyperParameters`."""
    declared = keras_tuner.HyperParameters()
    found = recipe.search(declared)
    drawn = [each.name for each in declared.space]
    fields = {each.name: getattr(recipe, each.name) for each in dataclasses.fields(recipe)}
    changed = [each for each in fields if getattr(found, each) != fields[each]]
    if {*drawn} - {*fields} or {*changed} - {*drawn}:
        raise RecipeError(
            f"{type(recipe).__module__}: search draws {', '.join(drawn) or 'nothing'} and changes "
            f"{', '.join(changed) or 'nothing'}; what it draws has the names of the fields."
        )
    if not {*drawn} - {*fixed}:
        raise RecipeError(
            f"{type(recipe).__module__} has nothing to search: its method `search` draws "
            f"{', '.join(drawn) + ', which were given' if drawn else 'no field'}."
        )
    space = keras_tuner.HyperParameters()
    for field in {*drawn} & {*fixed}:
        space.Fixed(field, fields[field])  # keras-tuner then has this value in the draw's place
    recipe.search(space)
    return space


def _role():
    """ "alone"; "chief" or "tuner" where keras-tuner's environment variables say so."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if not os.environ.get(name):
            raise RecipeError(f"KERASTUNER_ORACLE_IP is set, so {name} must be set too.")
    if not os.environ["KERASTUNER_ORACLE_PORT"].isdecimal():
        port = os.environ["KERASTUNER_ORACLE_PORT"]
        raise RecipeError(f"KERASTUNER_ORACLE_PORT is a port number; received {port!r}.")
    if "chief" not in os.environ["KERASTUNER_TUNER_ID"]:
        _reach_chief()
        return "tuner"
    with contextlib.suppress(ConnectionRefusedError, TimeoutError):
        _connection().close()
        raise RecipeError(f"{_address()} is taken: a chief needs a port of its own.")
    return "chief"


def _reach_chief():
    try:
        _connection().close()
    except OSError as error:
        raise ConnectionError(
            f"No chief answers at {_address()} ({error}). Start it first: the same command with "
            "KERASTUNER_TUNER_ID=chief; then this one again."
        ) from error


def _connection(seconds=5):
    host, port = _address().rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=seconds)


def _address():
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
