"""Search the fields that a recipe declares: keras-tuner proposes values, the runner trains them."""

import contextlib
import dataclasses
import time

import keras
import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalError
from rich.console import Console

from zoo import memory, training
from zoo.errors import MOST_SECONDS, check_number
from zoo.experiments import tuning_table
from zoo.experiments.tuning_search import Search
from zoo.experiments.tuning_workers import reach_chief, role, tuner_id
from zoo.recipe import RecipeError
from zoo.runs import Run, folder_of, name_of
from zoo.terminal import say

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
    force=False,
    console=None,
):
    """Try `trials` settings of the fields that `recipe.search` declares, and return the folder.

    Each trial is a run of `zoo.training.train`. Its score is the accuracy after the last epoch on
    the recipe's validation share. The test set is not opened.

    The folder runs/<recipe>/<name> gets a run folder for each trial, trials.csv, trials.md and
    trials.png. The same call again resumes, even in the middle of a trial. A larger `trials` goes
    on with the search. Under "hyperband", a trial of fewer epochs is a whole training of that
    length, with its own schedule. No trial continues another.

    Several processes that share the folder can search together. keras-tuner's environment variables
    KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and KERASTUNER_TUNER_ID say so. The process whose
    id contains "chief" proposes values and writes the table. The others train. If a tuner dies,
    start it again with its id; the chief waits for it until then.

    Arguments:
        recipe: the recipe, with the values that all trials have in common.
        file: the recipe's file.
        trials: the total number of trials.
        tuner: the method that proposes values: "bayesian", "hyperband" or "random".
        fixed: fields that keep the recipe's value, declared or not.
        runs: the folder of all runs.
        name: the name of the search's folder. By default it is built from the tuner and the fields.
        checkpoint_seconds: as of `zoo.training.train`.
        deterministic: as of `zoo.training.train`.
        force: as of `zoo.training.train`.
        console: the rich console to print to; by default standard output.

    Raises:
        RecipeError: if the recipe has no validation share or nothing to search, or the folder
            holds another search.
        ConnectionError: if this process is a tuner and no chief answers.
        zoo.training.TrainingError: if no trial has a score. A trial that diverges has none, and
            the search goes on.
        zoo.training.Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    console = console or Console(highlight=False)
    own_role = role()
    recipe.check()
    check_number("--checkpoint-seconds", checkpoint_seconds, 0, MOST_SECONDS)
    if tuner not in TUNERS:
        raise RecipeError(f"--tuner is one of {', '.join(TUNERS)}; received {tuner!r}.")
    if trials < 1:
        raise RecipeError(f"--trials is a number of runs, 1 or more; received {trials}.")
    if not recipe.validation:
        raise RecipeError(
            "Held-out training images judge a search, never the test set: choose their share, "
            "such as --validation 0.1."
        )
    if name is None:
        name = f"tune={tuner},{name_of(recipe)}"
    folder = folder_of(recipe, file, runs, name)
    search = Search(recipe, file, folder, tuner=tuner, trials=trials, fixed=fixed)
    train_arguments = {
        "checkpoint_seconds": checkpoint_seconds,
        "deterministic": deterministic,
        "force": force,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory.forced(force))
        if own_role != "tuner":
            stack.enter_context(Run(folder).locked())
            if not search.file_of_settings.exists():
                stack.callback(search.remove_unless_begun)
        search.refuse_another()
        loop = _loop_of(search, own_role, console, train_arguments)
        if own_role == "chief":
            say(
                f"Chief of {folder}: it proposes values and waits for tuners to train.",
                console=console,
            )
        try:
            loop.search(verbose=0)
        except FatalError as stop:
            raise stop.__cause__ from None
        finally:
            if own_role != "tuner":
                tuning_table.write(search, loop.oracle, console)
    if own_role == "tuner":
        say("No trial is left; the chief has the table.", console=console)
    elif not search.finished(loop.oracle):
        raise training.TrainingError(f"None of the {trials} trials came to its end.")
    return folder


class TrialLoop(BaseTuner):
    """keras-tuner's loop over an oracle. Each trial is a run.

    Arguments:
        search: the `Search`.
        role: "alone", "chief" or "tuner", as `tuning_workers.role` says.
        console: the rich console to print to.
        train_arguments: further arguments of `zoo.training.train`.
        keywords: those of keras-tuner's `BaseTuner`.
    """

    def __init__(self, search, role, console, train_arguments, **keywords):
        # keras-tuner has a method `search`.
        self.settings, self.role, self.console = search, role, console
        self.train_arguments = train_arguments
        super().__init__(**keywords)

    def pre_create_trial(self):
        """Check that the chief is there before each trial."""
        if self.role == "tuner":
            reach_chief()
            time.sleep(0.1)  # else keras-tuner asks without a pause while the chief has no trial

    def run_trial(self, trial, **_):
        """Train a trial and return {the objective's name: its score}."""
        keras.utils.clear_session()  # else the nets of all trials stay in memory
        try:
            accuracy = self._train(trial)
            if self.role == "tuner":
                reach_chief()
        except training.TrainingError as error:  # the values' own fault: the trial has no score
            say(f"Trial {trial.trial_id} has no score: {error}", console=self.console)
            raise FailedTrialError(str(error)) from error
        except Exception as error:  # keras-tuner would ignore it and start the next trial
            raise FatalError(str(error)) from error
        return {_OBJECTIVE.name: accuracy}

    def _train(self, trial):
        """Return a trial's validation accuracy. A trial whose run is finished is not run again."""
        search, values = self.settings, self.settings.values(trial)
        description = ", ".join(f"{key} {value}" for key, value in values.items())
        say(f"Trial {trial.trial_id}, of {search.trials}: {description}", console=self.console)
        folder = training.train(
            dataclasses.replace(search.recipe, **values),
            search.file,
            runs=search.folder.parent.parent,
            name=str(search.run_folder(trial).relative_to(search.folder.parent)),
            page=False,
            console=self.console,
            **self.train_arguments,
        )
        return Run(folder).results["accuracy"]


def _loop_of(search, role, console, train_arguments):
    """Return keras-tuner's loop, at the place where it was stopped."""

    def make(overwrite):
        return TrialLoop(
            search,
            role,
            console,
            train_arguments,
            oracle=_oracle(search),
            directory=str(search.folder),
            # A tuner has nothing to keep, and must not write among the chief's files.
            project_name="keras-tuner" if role != "tuner" else f"keras-tuner/{tuner_id()}",
            overwrite=overwrite,
        )

    try:
        return make(overwrite=False)
    except (ValueError, RuntimeError) as error:
        # keras-tuner writes its files in place, so a kill can damage one. The runs are whole. The
        # same values are proposed again, and finished runs are not run again.
        say(
            f"keras-tuner's files are damaged ({error}); the proposals begin anew.", console=console
        )
        return make(overwrite=True)


def _oracle(search):
    """Return the oracle of keras-tuner that proposes the search's values."""
    common = {
        "objective": _OBJECTIVE,
        "hyperparameters": search.space.copy(),
        "seed": search.recipe.seed + 1,  # keras-tuner takes 0 for no seed
        # After this many failures keras-tuner raises while it holds a lock, and the chief would
        # wait for that lock.
        "max_consecutive_failed_trials": search.trials + 1,
    }
    if search.tuner == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(
            max_epochs=search.recipe.epochs, hyperband_iterations=None, **common
        )
        oracle.max_trials = search.trials  # without iterations, nothing else stops it
        return oracle
    oracles = {
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
    }
    return oracles[search.tuner](max_trials=search.trials, **common)
