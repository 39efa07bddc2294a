"""What workers on several machines agree on."""

import contextlib

from zoo.errors import ZooError
from zoo.training.strategy import StrategyError, several_workers, workers


class WorkerLost(ZooError, RuntimeError):
    """Another worker stopped; the training goes on when all are started again."""


class Ballot:
    """What a worker wishes, and what all learn after the same step that some worker wished.

    `wish` is set here, a whole number in 0..63; `agreed` is the largest that any has.
    """

    def __init__(self):
        self.wish = self.agreed = 0


@contextlib.contextmanager
def workers_watched():
    """The errors of TensorFlow that mean that another process is gone, as one that says so."""
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


def check_same_everywhere(strategy, what, number):
    """Raise StrategyError unless all workers have the same number."""
    import tensorflow as tf

    def mine():
        return tf.constant([number], tf.int64)

    @tf.function(autograph=False)
    def everyone():
        return strategy.gather(strategy.run(mine), axis=0)

    with workers_watched():
        numbers = set(everyone().numpy().tolist())
    if len(numbers) > 1:
        raise StrategyError(
            f"The workers are at different numbers of {what}: {sorted(numbers)}. They must see the "
            "same run folder: put --runs on storage that all share."
        )


def wait_for_all(strategy):
    """Until all workers are here."""
    if strategy is not None and several_workers(strategy):
        check_same_everywhere(strategy, "end", 0)
