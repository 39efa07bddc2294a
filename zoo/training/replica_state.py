"""What differs between replicas: random numbers and the counts of metrics."""

import numpy as np

from zoo.training.agreement import workers_watched

_APART = 1000003  # between the seeds of two replicas; a prime


def decorrelate(model, strategy):
    """Give each replica random numbers of its own: else all drop the same units of their parts.

    The first one keeps its own. After loading a state, which is that of the first, do it again.
    """
    import tensorflow as tf

    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]

    @tf.function(autograph=False)
    def set_apart():
        strategy.run(move)

    def move():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            value = tf.cast(state.value, tf.int64)
            seed = (value[0] + _APART * tf.cast(replica, tf.int64)) % 2**32
            state.assign(tf.cast(tf.stack([seed, value[1]]), state.dtype))

    if states:
        set_apart()


class Counted:
    """What the metrics of a model have counted so far: a row of numbers for each replica."""

    def __init__(self, model, strategy=None):
        self.model, self.strategy = model, strategy
        self.gather = None

    def read(self):
        """The rows, of all workers; each must ask."""
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

    def write(self, rows):
        """Undo `read`; for another number of replicas the first gets what all had."""
        replicas = 1 if self.strategy is None else self.strategy.num_replicas_in_sync
        rows = np.asarray(rows)
        if len(rows) != replicas:
            total = rows.sum(axis=0)
            rows = np.stack([total, *[np.zeros_like(total)] * (replicas - 1)])
        if self.strategy is None:
            for variable, value in _cut(self.model.metrics_variables, rows[0]):
                variable.assign(value.reshape(variable.shape).astype(variable.dtype))
            return
        import tensorflow as tf

        rows = tf.constant(rows)

        def mine():
            row = rows[tf.distribute.get_replica_context().replica_id_in_sync_group]
            for variable, value in _cut(self.model.metrics_variables, row):
                value = tf.cast(tf.reshape(value, variable.shape), variable.dtype)
                variable.value.assign(value)

        tf.function(lambda: self.strategy.run(mine), autograph=False)()


def _cut(variables, row):
    """Pairs (variable, its numbers)."""
    at = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        yield variable, row[at : at + size]
        at += size
