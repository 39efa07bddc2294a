"""`fit` under a `tf.distribute` strategy, with the numbers of one device.

What the weights become does not depend on the number of replicas. Keras' own `fit` sees to that
where the batches divide evenly and nothing looks at the whole gradient; `fit` here does for parts
of any size, none included, for clipping, micro-batches and loss scaling, and for several machines,
which Keras 3 says it does not support (keras#20585).
"""

import contextlib
import threading

import keras
import numpy as np

from zoo.objectives import supervised
from zoo.training.agreement import Ballot, workers_watched
from zoo.training.replica_checks import check, optimizers_of
from zoo.training.strategy import StrategyError


def fit(
    model,
    strategy,
    batches,
    *,
    validation=None,
    initial_epoch=0,
    epochs=1,
    steps_per_epoch=None,
    micro_batches=1,
    callbacks=(),
    ballot=None,
):
    """`model.fit(batches, ...)` under a strategy; returns its `keras.callbacks.History`.

    For a plain model, a `DeeplySupervised` and a `Distiller`, made and compiled in the strategy's
    scope; with None, on one device. Weights and logs of epochs are those of one device, to
    rounding, if every layer treats an example by itself, or is a `zoo.BatchNormalization`; what
    compares the examples of a batch, such as relations in `zoo.knowledge`, sees those of one
    replica. Dropout draws other masks on each, after `decorrelate`.

    Arguments:
        batches, validation: a `tf.data.Dataset` of (x, y) or (x, y, sample_weight), whole batches:
            each replica takes its part, of sizes that differ by one at most. Every worker reads all
            of it, in the same order.
        steps_per_epoch: of batches without end; None for all batches, anew each epoch.
        micro_batches: each part is divided in so many, one after another, and their gradients are
            added up before the one update: less memory at a time for the same batch.
        callbacks: of Keras. `on_train_batch_end` gets the mean of the replicas' logs.
        ballot: a `Ballot`.

    Raises:
        StrategyError: as `check`.
        WorkerLost: when another worker stopped.
    """
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    check(model)
    if micro_batches < 1:
        raise StrategyError(f"micro_batches is a number of 1 or more; received {micro_batches}.")
    train, ballot = _Training(model, strategy, micro_batches), ballot or Ballot()
    endless = steps_per_epoch is not None
    steps_per_epoch = steps_per_epoch or count_batches(batches)
    callbacks = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=epochs, steps=steps_per_epoch
    )
    test = None if validation is None else _Testing(model, strategy, validation)
    model.stop_training = False
    logs = {}
    with strategy.scope(), train.optimizer_aside(), workers_watched():
        _build_metrics(model, batches)
        stream = iter(_divided(strategy, batches))
        callbacks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            if not endless and epoch > initial_epoch:
                stream = iter(_divided(strategy, batches))
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step, logs in train.steps(stream, steps_per_epoch, ballot, callbacks):
                callbacks.on_train_batch_end(step, logs)
                if model.stop_training:
                    break
            logs = _results(model)
            if test:
                logs |= {f"val_{key}": value for key, value in test().items()}
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        train.optimizer.finalize_variable_values(model.trainable_variables)
        callbacks.on_train_end(logs)
    return model.history


def evaluate(model, strategy, batches):
    """`model.evaluate(batches, return_dict=True)` under a strategy."""
    with strategy.scope(), workers_watched():
        _build_metrics(model, batches)
        return _Testing(model, strategy, batches)()


class _Training:
    """Steps on all replicas at once: equal weights however a batch is divided."""

    def __init__(self, model, strategy, micro_batches):
        self.model, self.strategy, self.micro_batches = model, strategy, micro_batches
        self.optimizer = model.optimizer
        self.names = ()
        # Replicas are threads that take turns.
        self.here = threading.local()

    @contextlib.contextmanager
    def optimizer_aside(self):
        """Meanwhile `train_step` of the model, whichever it is, finds this object as optimizer."""
        import tensorflow as tf

        clips = {
            (each, name): getattr(each, name)
            for each in optimizers_of(self.optimizer)
            for name in ("clipnorm", "global_clipnorm", "clipvalue")
            if getattr(each, name) is not None
        }
        self.clips = {name: value for (_, name), value in clips.items()}
        scales = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        # Both ask something of the whole gradient, where Keras asks it of a replica's share.
        self.whole = bool(self.clips) or scales
        self.model.optimizer = _Aside(self)
        for each, name in clips:
            setattr(each, name, None)
        self.step = tf.function(self._step, autograph=False)
        try:
            yield
        finally:
            self.model.optimizer = self.optimizer
            for (each, name), value in clips.items():
                setattr(each, name, value)

    def steps(self, stream, count, ballot, callbacks):
        """Pairs (number within the epoch, logs)."""
        import tensorflow as tf

        for step in range(count):
            callbacks.on_train_batch_begin(step)
            heard = self.step(stream, tf.one_hot(ballot.wish, 64)).numpy()
            logs, wishes = np.split(heard, [len(self.names)])
            ballot.agreed = int(np.flatnonzero(wishes).max())
            yield step, dict(zip(self.names, logs.tolist(), strict=True))

    def _step(self, stream, wish):
        import tensorflow as tf

        heard = self.strategy.run(self._replica_step, args=(next(stream), wish))
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, heard, axis=None)

    def _replica_step(self, batch, wish):
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        total = replica.all_reduce(tf.distribute.ReduceOp.SUM, _examples(batch))
        self.here.gradients = None
        within = supervised(self.model)
        counter = within.steps if within else None  # of a schedule
        for part in range(self.micro_batches):
            # Every n-th example, and so the same micro-batches however many replicas there are.
            micro = keras.tree.map_structure(lambda t, k=part: t[k :: self.micro_batches], batch)
            if part and counter is not None:
                counter.assign(counter - 1)
            # Keras takes the mean over a replica's examples and divides by the replicas.
            self.here.share = _examples(micro) * replica.num_replicas_in_sync / total
            self.here.last = part == self.micro_batches - 1
            logs = self.model.train_step(micro)
        self.names = list(logs)
        logs = tf.stack([tf.cast(value, tf.float32) for value in logs.values()])
        return tf.concat([logs, wish], axis=0)

    def apply(self, gradients, variables):
        """Add a micro-batch's gradients up; after the last one, update."""
        import tensorflow as tf

        if self.micro_batches > 1 or self.whole:
            gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        if self.here.gradients is not None:
            pairs = zip(self.here.gradients, gradients, strict=True)
            gradients = [a if b is None else b if a is None else a + b for a, b in pairs]
        self.here.gradients = gradients
        if not self.here.last:
            return
        if self.whole:
            gradients = self._clipped(gradients)
        self.optimizer.apply(gradients, variables)

    def _clipped(self, gradients):
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        there = [g for g in gradients if g is not None]
        there = replica.all_reduce(tf.distribute.ReduceOp.SUM, there)
        scale = self.optimizer.scale_loss(tf.ones(()))  # the optimizer takes it out afterwards
        if limit := self.clips.get("clipnorm"):
            there = [tf.clip_by_norm(g, limit * scale) for g in there]
        elif limit := self.clips.get("global_clipnorm"):
            there, _ = tf.clip_by_global_norm(there, limit * scale)
        elif limit := self.clips.get("clipvalue"):
            there = [tf.clip_by_value(g, -limit * scale, limit * scale) for g in there]
        # The optimizer adds up over the replicas, which by now have the same.
        there = iter([g / replica.num_replicas_in_sync for g in there])
        return [None if g is None else next(there) for g in gradients]


class _Aside:
    """In an optimizer's place in `train_step`: weighs a replica's loss by its part of the batch."""

    def __init__(self, training):
        self.training = training

    def scale_loss(self, loss):
        training = self.training
        return training.optimizer.scale_loss(loss * keras.ops.cast(training.here.share, loss.dtype))

    def apply_gradients(self, pairs):
        self.training.apply(*zip(*pairs, strict=True))

    def __getattr__(self, name):  # what callbacks ask: iterations, learning_rate
        return getattr(self.training.optimizer, name)

    def __setattr__(self, name, value):
        if name == "training":
            super().__setattr__(name, value)
        else:
            setattr(self.training.optimizer, name, value)


class _Testing:
    """An evaluation that can be made again."""

    def __init__(self, model, strategy, batches):
        import tensorflow as tf

        self.model = model
        self.batches, self.count = _divided(strategy, batches), count_batches(batches)
        self.step = tf.function(
            lambda stream: strategy.run(self._replica_step, args=(next(stream),)), autograph=False
        )

    def _replica_step(self, batch):
        self.model.test_step(batch)

    def __call__(self):
        # As many as there are: a step that finds no batch has already counted itself in parts.
        stream = iter(self.batches)
        comparing = getattr(self.model, "evaluation", contextlib.nullcontext)
        with comparing():
            self.model.reset_metrics()
            for _ in range(self.count):
                self.step(stream)
            return _results(self.model)


def count_batches(batches):
    count = int(batches.cardinality())
    if count < 1:
        raise StrategyError(
            "Under a strategy the number of batches must be known: give steps_per_epoch, or the "
            f"dataset its tf.data.experimental.assert_cardinality; it is {count}."
        )
    return count


def _examples(batch):
    """How many, as a float."""
    import tensorflow as tf

    return tf.cast(tf.shape(keras.tree.flatten(batch)[0])[0], tf.float32)


def _divided(strategy, batches):
    """Every batch in as many parts as there are replicas, each worker its own; none is left out."""
    import tensorflow as tf

    def parts(context):
        replicas = context.num_replicas_in_sync
        mine = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * mine

        def divide(*batch):
            batch = batch[0] if len(batch) == 1 else batch
            count = tf.shape(keras.tree.flatten(batch)[0], out_type=tf.int64)[0]

            def part(number):
                low, high = number * count // replicas, (number + 1) * count // replicas
                return keras.tree.map_structure(lambda tensor: tensor[low:high], batch)

            return tf.data.Dataset.range(first, first + mine).map(part)

        return batches.flat_map(divide).prefetch(mine)

    return strategy.distribute_datasets_from_function(parts)


def _build_metrics(model, batches):
    """Keras makes the compiled metrics when they first see a batch: here, within the scope."""
    (batch,) = batches.take(1)
    batch = keras.tree.map_structure(lambda tensor: tensor[:2], batch)
    state = [(variable, keras.ops.convert_to_tensor(variable)) for variable in model.variables]
    with keras.StatelessScope(state):  # nothing is counted
        model.test_step(batch)


def _results(model):
    """The metrics over all replicas and workers, each of which asks."""
    return {name: float(np.asarray(value)) for name, value in model.get_metrics_result().items()}
