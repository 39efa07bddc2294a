"""Train a recipe: resumable at every step, and a run folder that says what was done."""

import contextlib
import dataclasses
import time

import keras

from zoo import files, provenance
from zoo.recipe import RecipeError, approve
from zoo.runs import Run, folder_of, record_of
from zoo.training import distribute
from zoo.training.finish import finish
from zoo.training.plan import checked_data
from zoo.training.progress import Progress
from zoo.training.session import Session


def train(
    recipe,
    file,
    *,
    runs="runs",
    name=None,
    checkpoint_seconds=60.0,
    deterministic=True,
    page=True,
    console=None,
    strategy="none",
    replicas=0,
    minutes=None,
    taught_by=None,
):
    """Train `recipe`, defined in `file`, in the folder runs/<recipe>/<name>; returns that folder.

    The same call again resumes, from the last step saved: at the end of each epoch, every
    `checkpoint_seconds` seconds, and when SIGINT or SIGTERM asks to stop. On a CPU, with
    `deterministic` operations, a run killed and resumed ends with the bits of one left alone.
    Without `page` the run folder has neither page nor example images.
    `strategy` and `replicas` are of `zoo.distribute.make_strategy`; of several workers, which share
    the folder `runs`, the chief alone writes. After so many `minutes` the training stops, saved.
    `name` is by default made of the fields that differ from the recipe's own. `taught_by` are the
    fingerprints that the teachers of a `Distiller` must have.

    Raises:
        RecipeError: for values no training can use, a folder that holds another run, or teachers
            that are others than `taught_by`.
        zoo.data.DataError: for data that cannot be trained on.
        TrainingError: when the loss stops being finite, or the net never starts to learn.
        Interrupted: after saving, when SIGINT or SIGTERM came; of several workers to any.
        TimeUp: after saving, when the minutes are over.
        zoo.distribute.StrategyError: for a strategy that cannot be had, or does not fit.
        zoo.distribute.WorkerLost: when another worker stopped.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    recipe.check()
    strategy = distribute.make_strategy(strategy, replicas)
    chief = distribute.is_chief(strategy)
    run = Run(folder_of(recipe, file, runs, name))
    with (
        run.locked() if chief else contextlib.nullcontext(),
        Progress(console, quiet=not chief) as progress,
    ):
        record = record_of(recipe, file)
        run.refuse_another(record, dataclasses.asdict(type(recipe)()))
        if run.is_finished:
            progress.say(f"{run.folder} is complete; choose another --name to train again.")
            return run.folder
        _set_up(recipe, deterministic)
        training, judging = checked_data(recipe)
        session = Session(
            recipe,
            run,
            training,
            judging,
            progress,
            strategy,
            checkpoint_seconds=checkpoint_seconds,
        )
        if taught_by not in (None, session.teacher):
            raise RecipeError(
                f"The teacher now is {session.teacher}; expected {taught_by}. It has been trained "
                "again since; an older commit has the one expected."
            )
        versions = provenance.versions(recipe, deterministic, distribute.described(strategy))
        versions["recipe"] = files.sha256(file)
        if chief:
            # Only now: a start that was refused must not bind the folder to its fields.
            run.write_recipe(record)
        session.restore()
        if chief:
            approve(file)
            session.compare_versions(versions)
            session.name_skipped()
            session.name_copies()
            run.write_versions(versions)
        session.fit(deadline)
        if chief:
            finish(session, page)
        distribute.wait_for_all(strategy)  # a worker that leaves takes the others with it
    return run.folder


def _set_up(recipe, deterministic):
    """Random numbers, operations and precision, before anything is made."""
    keras.utils.set_random_seed(recipe.seed)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(provenance.dtype_policy(recipe.precision))
