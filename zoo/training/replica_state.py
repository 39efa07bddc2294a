"""The state that differs between replicas: random numbers and the counts of metrics."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from zoo.training.agreement import workers_watched

if TYPE_CHECKING:
    import tensorflow as tf

_SEED_STRIDE = 1000003  # between the seeds of two replicas; a prime


def decorrelate(model: keras.Model, strategy: "tf.distribute.Strategy") -> None:
    """Give each replica its own random numbers: otherwise all drop the same units.

    The first replica keeps its numbers. Call this again after loading a state, since a saved state
    is that of the first replica.
    """
    import tensorflow as tf

    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]

    @tf.function(autograph=False)
    def move_all():
        strategy.run(move)

    def move():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            value = tf.cast(state.value, tf.int64)
            seed = (value[0] + _SEED_STRIDE * tf.cast(replica, tf.int64)) % 2**32
            state.assign(tf.cast(tf.stack([seed, value[1]]), state.dtype))

    if states:
        move_all()


class Counted:
    """Reads and writes the counts of a model's metrics, as one row of numbers for each replica."""

    def __init__(
        self, model: keras.Model, strategy: "tf.distribute.Strategy | None" = None
    ) -> None:
        self.model, self.strategy = model, strategy
        self.gather: Any = None

    def read(self) -> list[list[float]]:
        """Return the rows of all replicas. With several workers, each must call this."""
        if self.strategy is None:
            values = [np.ravel(np.asarray(v, "float64")) for v in self.model.metrics_variables]
            return [np.concatenate(values).tolist()]
        import tensorflow as tf

        if self.gather is None:
            gather = self.strategy.gather
            self.gather = tf.function(
                lambda: gather(self.strategy.run(self._row), axis=0), autograph=False
            )
        with workers_watched():
            return self.gather().numpy().tolist()

    def _row(self):
        import tensorflow as tf

        variables = self.model.metrics_variables
        flat = [tf.reshape(tf.cast(v.value, tf.float64), (-1,)) for v in variables]
        return tf.concat(flat, axis=0)[tf.newaxis]

    def write(self, rows: Sequence[Sequence[float]]) -> None:
        """Set the counts to rows that `read` returned.

        If the number of replicas has changed, the first replica gets the sum of all rows.
        """
        replicas = 1 if self.strategy is None else self.strategy.num_replicas_in_sync
        counts = np.asarray(rows)
        if len(counts) != replicas:
            total = counts.sum(axis=0)
            counts = np.stack([total, *[np.zeros_like(total)] * (replicas - 1)])
        if self.strategy is None:
            for variable, value in _values_of(self.model.metrics_variables, counts[0]):
                variable.assign(value.reshape(variable.shape).astype(variable.dtype))
            return
        import tensorflow as tf

        all_counts = tf.constant(counts)

        def write_own():
            row = all_counts[tf.distribute.get_replica_context().replica_id_in_sync_group]
            for variable, value in _values_of(self.model.metrics_variables, row):
                value = tf.cast(tf.reshape(value, variable.shape), variable.dtype)
                variable.value.assign(value)

        tf.function(lambda: self.strategy.run(write_own), autograph=False)()


def _values_of(variables, row) -> Iterator[tuple[Any, Any]]:
    """Yield each variable with its part of a row of numbers."""
    start = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        yield variable, row[start : start + size]
        start += size
