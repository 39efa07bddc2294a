"""Let the workers of a training agree: on a stop, on the run folder, on the end."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.training.strategy import StrategyError, several_workers, workers

if TYPE_CHECKING:
    import tensorflow as tf


class WorkerLost(ZooError, RuntimeError):
    """Another worker stopped. Start all workers again, and the training resumes."""


class Ballot:
    """Lets workers agree when to save or stop: `agreed` is the maximum request of all workers.

    Each worker sets its `wish`, a whole number in 0..63, where 0 requests nothing. After the next
    step all workers read the same value in `agreed`.
    """

    def __init__(self) -> None:
        self.wish = self.agreed = 0


@contextlib.contextmanager
def workers_watched() -> Iterator[None]:
    """While active, turn TensorFlow's errors about a lost process into `WorkerLost`."""
    import tensorflow as tf

    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    try:
        yield
    except (*lost, tf.errors.InternalError, tf.errors.DeadlineExceededError) as error:
        if len(workers()) < 2:
            raise
        raise WorkerLost(
            "Another worker stopped or cannot be reached: start all workers again with the same "
            f"commands, and the training resumes. ({str(error).splitlines()[0][:200]})"
        ) from error


def check_same_everywhere(strategy: "tf.distribute.Strategy", what: str, number: int) -> None:
    """Check that all workers have the same number; every worker must call this.

    Arguments:
        strategy: the strategy of the training.
        what: the name of the number, for the message.
        number: this worker's number.

    Raises:
        StrategyError: if the numbers differ.
        WorkerLost: if another worker stopped.
    """
    import tensorflow as tf

    def own_number():
        return tf.constant([number], tf.int64)

    @tf.function(autograph=False)
    def all_numbers():
        return strategy.gather(strategy.run(own_number), axis=0)

    with workers_watched():
        numbers = set(all_numbers().numpy().tolist())
    if len(numbers) > 1:
        raise StrategyError(
            f"The workers are at different numbers of {what}: {sorted(numbers)}. They must see the "
            "same run folder: put --runs on storage that all share."
        )


def wait_for_all(strategy: "tf.distribute.Strategy | None") -> None:
    """Wait until all workers have called this; with one process, return at once."""
    if strategy is not None and several_workers(strategy):
        check_same_everywhere(strategy, "end", 0)
