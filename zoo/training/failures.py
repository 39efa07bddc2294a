"""Errors say what a failed save or a lack of memory means for a training, and what to do then."""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from zoo.recipe import Recipe
from zoo.training.stopping import TrainingError


def no_room(folder: Path, needed: int, why: object = "") -> TrainingError:
    """Return the error of a training whose first checkpoint cannot be saved.

    Arguments:
        folder: the folder of the checkpoints. It may not exist.
        needed: the number of bytes of a checkpoint.
        why: the error of the save; "" if it was not tried.
    """
    return TrainingError(
        f"No checkpoint can be saved in {folder}{f' ({why})' if why else ''}: it takes {needed:,} "
        f"bytes, and {free_bytes(folder):,} are free. The training would be lost, so it stops. "
        "Make room, or save in a folder on another disk: --checkpoints DIR."
    )


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk where `folder` lies, or will be made."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def gone(folder: Path, place: Path | None, step: int, saved: bool) -> TrainingError:
    """Return the error of a training whose run folder is no longer where it was.

    Arguments:
        folder: where the run folder was.
        place: where it is now; None if it was deleted.
        step: the number of the last step.
        saved: whether the state of that step is saved in `place`.
    """
    if place is None:
        return TrainingError(
            f"{folder} was deleted during the training, which stops at step {step}. Nothing is "
            "left of it; the same command begins anew."
        )
    state = f"the state of step {step} is saved there" if saved else "its last state is kept"
    return TrainingError(
        f"{folder} was moved to {place} during the training, which stops; {state}. Move it back, "
        "and the same command resumes."
    )


@contextlib.contextmanager
def memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Turn an error about memory into a `TrainingError` with the text that `explain` returns."""
    try:
        yield
    except Exception as error:  # each backend has its own
        if not is_out_of_memory(error):
            raise
        raise TrainingError(explain()) from error


def is_out_of_memory(error: Exception) -> bool:
    """Return True for the errors of Python, TensorFlow, JAX and PyTorch about too little memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "No space left" in str(error):  # TensorFlow gives a full disk the same name
        return False
    by_name = names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
    texts = ("RESOURCE_EXHAUSTED", "can't allocate memory")  # of JAX, and of PyTorch on CPUs
    return bool(by_name) or any(text in str(error) for text in texts)


def too_large(recipe: Recipe, replicas: int, step: int) -> str:
    """Return a sentence about a step for which the memory was too small, and what may fit."""
    micro, batch = recipe.micro_batches, recipe.batch_size
    images = math.ceil(batch / (replicas * micro))
    text = f"The memory is too small for step {step}, with {images} images at once"
    if images == 1:
        return f"{text}: take smaller images, a smaller net or more memory."
    ways = [f"--batch-size {math.ceil(batch / 2)}"]
    finer = min(2 * micro, batch // replicas)
    if finer > micro and keras.backend.backend() == "tensorflow":
        ways.insert(0, f"--micro-batches {finer} (the same batches in smaller parts)")
    return (
        f"{text}. Half as many may fit: {' or '.join(ways)}. That is another run: if you give a "
        "--name, give another."
    )
