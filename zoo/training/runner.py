"""Train a recipe: the training resumes at any step, and leaves a run folder."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from zoo import files, memory, provenance
from zoo.errors import MOST_SECONDS, check_number
from zoo.recipe import Recipe, RecipeError, approve
from zoo.runs import Run, folder_of, record_of
from zoo.training import checkpoint, distribute
from zoo.training.finish import draw_missing_page, finish
from zoo.training.measuring import measure_teachers
from zoo.training.plan import checked_data
from zoo.training.progress import Progress
from zoo.training.session import Session

if TYPE_CHECKING:
    from rich.console import Console


def train(
    recipe: Recipe,
    file: Path | str,
    *,
    runs: Path | str = "runs",
    name: str | None = None,
    checkpoint_seconds: float = 60.0,
    deterministic: bool = True,
    page: bool = True,
    console: "Console | None" = None,
    strategy: str = "none",
    replicas: int = 0,
    minutes: float | None = None,
    taught_by: Sequence[str] | None = None,
    checkpoints: Path | str | None = None,
    force: bool = False,
) -> Path:
    """Train a recipe in the folder runs/<recipe>/<name>, and return that folder.

    The same call again resumes from the last saved state. The state is saved after each epoch,
    every `checkpoint_seconds` seconds, and when SIGINT, SIGTERM or SIGHUP requests a stop. On a CPU
    with `deterministic` operations, a run that was killed and resumed ends with the same bits as
    an undisturbed one.

    Arguments:
        recipe: the recipe with its values.
        file: the recipe's file.
        runs: the folder of all runs. Several workers must share it; the chief alone writes.
        name: name of the run folder; None builds it from the fields that differ from their
            defaults.
        checkpoint_seconds: time between two saved states within an epoch, in seconds.
        deterministic: use operations that repeat their bits.
        page: draw the page of the finished run if it has none, and write example images.
        console: a `rich.console.Console` to print to.
        strategy: kind of strategy, see `zoo.distribute.make_strategy`.
        replicas: number of devices, see `zoo.distribute.make_strategy`.
        minutes: save and stop after this time; None for no limit.
        taught_by: fingerprints that the teachers of a `Distiller` must have; None accepts any.
        checkpoints: an empty or missing folder to save the states in, on another disk. The run
            folder remembers it. None for the run folder, or what it remembers.
        force: begin even if the data, the net or a step seem too large for the memory.

    Returns:
        The run folder.

    Raises:
        RecipeError: if no training can use the values, the folder holds another run, or the
            teachers are not `taught_by`.
        zoo.data.DataError: if the data cannot be trained on.
        TrainingError: if the loss is not finite, the net never starts to learn, the memory is too
            small, no state can be saved, or the run folder was moved or deleted.
        zoo.errors.UsageError: if a file of the run folder is damaged, if the name, a time or
            `checkpoints` cannot be used, or if the memory is too small.
        Interrupted: after saving, if a signal came, to any of several workers.
        TimeUp: after saving, if the minutes are over.
        zoo.distribute.StrategyError: if the strategy is not available, or does not suit.
        zoo.distribute.WorkerLost: if another worker stopped.
    """
    check_number("--checkpoint-seconds", checkpoint_seconds, 0, MOST_SECONDS)
    if minutes is not None:
        check_number("--minutes", minutes, 0.001, MOST_SECONDS // 60)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    recipe.check()
    tf_strategy = distribute.make_strategy(strategy, replicas)
    chief = distribute.is_chief(tf_strategy)
    run = Run(folder_of(recipe, file, runs, name))
    with (
        memory.forced(force),
        # Building the net already talks to the other workers.
        contextlib.nullcontext() if tf_strategy is None else distribute.workers_watched(),
        run.locked() if chief else contextlib.nullcontext(),
        Progress(console, quiet=not chief) as progress,
    ):
        record = record_of(recipe, file)
        run.refuse_another(record, dataclasses.asdict(type(recipe)()))
        if run.is_finished:
            progress.say(f"{run.folder} is complete; choose another --name to train again.")
            if chief and page and not run.page.is_file():
                draw_missing_page(recipe, run, progress)
            return run.folder
        _set_up_keras(recipe, deterministic)
        default, (recipe, training, judging) = recipe.batch_size, checked_data(recipe)
        if recipe.batch_size != default:
            progress.say(_why_the_batch_size(recipe.batch_size, default))
        versions = provenance.versions(recipe, deterministic, distribute.described(tf_strategy))
        versions["recipe"] = files.sha256(file)
        session = Session(
            recipe,
            run,
            training,
            judging,
            progress,
            tf_strategy,
            checkpoint_seconds=checkpoint_seconds,
            record=record,
            versions=versions,
        )
        _check_teachers(session, taught_by)
        if chief:
            # A start that was refused must not bind the folder to its fields, so not earlier.
            run.write_recipe(record)
            run.find_checkpoints(checkpoints)
            checkpoint.remove_unfinished(run.checkpoints)
        session.restore()
        if chief:
            approve(file)
            session.warn_of_other_versions()
            session.warn_of_skipped_files()
            session.warn_of_untested_classes()
            session.warn_of_shared_images()
            run.write_versions(versions)
            measure_teachers(session)
        session.fit(deadline)
        if chief:
            finish(session, page)
        distribute.wait_for_all(tf_strategy)  # a worker that exits stops the others
    return run.folder


def _set_up_keras(recipe, deterministic):
    """Set the random seed, deterministic operations and the precision; first of all."""
    keras.utils.set_random_seed(recipe.seed)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(provenance.dtype_policy(recipe.precision))


def _why_the_batch_size(batch_size, default):
    """Return a line about a batch size that is not the recipe's."""
    if not default:
        return f"--batch-size is {batch_size}: it follows the number of images."
    return (
        f"--batch-size is {batch_size}, the number of training images: they are fewer than the "
        f"default, {default}."
    )


def _check_teachers(session, fingerprints):
    if fingerprints not in (None, session.teacher):
        raise RecipeError(
            f"The teacher now is {session.teacher}; expected {fingerprints}. It has been trained "
            "again since; an older commit has the one expected."
        )
