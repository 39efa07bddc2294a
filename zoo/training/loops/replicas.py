"""Train under a `tf.distribute` strategy, with the same numbers as one device.

The trained weights do not depend on the number of replicas. Keras' own `fit` ensures this only if
the batches divide evenly and nothing uses the whole gradient. `fit` here ensures it for parts of
any size, also empty ones, for clipping, micro-batches and loss scaling, and for several machines,
which Keras 3 says it does not support (keras#20585).
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from zoo.objectives import supervised
from zoo.objectives.settings import LiveSettings, following
from zoo.training.agreement import Ballot, workers_watched
from zoo.training.replica_checks import (
    TOO_FEW_EXAMPLES,
    check,
    least_examples,
    naming_small_batches,
    optimizers_of,
)
from zoo.training.strategy import StrategyError

if TYPE_CHECKING:
    import tensorflow as tf


def fit(
    model: keras.Model,
    strategy: "tf.distribute.Strategy | None",
    batches: "tf.data.Dataset",
    *,
    validation: "tf.data.Dataset | None" = None,
    initial_epoch: int = 0,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    micro_batches: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    ballot: Ballot | None = None,
    sharded: bool = False,
) -> keras.callbacks.History:
    """Train as `model.fit(batches, ...)` does, under a strategy.

    The weights and the logs of the epochs equal those of one device, up to rounding, if every layer
    treats each example independently, or is a `zoo.BatchNormalization`. Losses that compare the
    examples of a batch, such as the relations in `zoo.knowledge`, see the examples of one replica.
    After `decorrelate`, dropout draws different masks on each replica.

    Arguments:
        model: a plain model, a `DeeplySupervised` or a `Distiller`, made and compiled in the
            strategy's scope.
        strategy: a strategy; None for one device.
        batches: a dataset of (x, y) or (x, y, sample_weight). It has whole batches, which are
            divided among the replicas in parts whose sizes differ by one at most. Every worker
            reads all of it, in the same order.
        validation: a dataset of whole batches, to evaluate on after each epoch.
        initial_epoch: number of the epoch to begin with, from 0.
        epochs: number of the last epoch, from 1.
        steps_per_epoch: number of batches in an epoch, if `batches` is endless. None: an epoch has
            all batches, and each epoch starts again.
        micro_batches: number of parts that a replica's part is divided into. They run one after
            another, and their gradients are summed before the one update. This needs less memory
            for the same batch.
        callbacks: Keras callbacks. `on_train_batch_end` gets the mean of the replicas' logs.
        ballot: lets workers agree when to save or stop.
        sharded: True if the `batches` of each worker are its part alone, so that no worker makes
            images for another. The parts have equal sizes and are in the order of the workers, as
            `ImageData.training_batches` gives them for a `shard`.

    Returns:
        The `keras.callbacks.History`.

    Raises:
        StrategyError: if the model does not suit, see `check`, or `micro_batches` is below 1.
        WorkerLost: if another worker stopped.
    """
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    check(model)
    if micro_batches < 1:
        raise StrategyError(f"micro_batches is a number of 1 or more; received {micro_batches}.")
    training, ballot = _Training(model, strategy, micro_batches), ballot or Ballot()
    endless = steps_per_epoch is not None
    steps_per_epoch = steps_per_epoch or count_batches(batches)
    callback_list = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=epochs, steps=steps_per_epoch
    )
    evaluation = None if validation is None else _Evaluation(model, strategy, validation)
    model.stop_training = False
    logs = {}
    least = least_examples(model, strategy)
    with (
        strategy.scope(),
        training.optimizer_replaced(),
        workers_watched(),
        naming_small_batches(strategy),
    ):
        _build_metrics(model, batches)
        stream = iter(divided(strategy, batches, least, sharded))
        callback_list.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            if not endless and epoch > initial_epoch:
                stream = iter(divided(strategy, batches, least, sharded))
            model.reset_metrics()
            callback_list.on_epoch_begin(epoch)
            for step, logs in training.steps(stream, steps_per_epoch, ballot, callback_list):
                callback_list.on_train_batch_end(step, logs)
                if model.stop_training:
                    break
            logs = _results(model)
            if evaluation:
                logs |= {f"val_{key}": value for key, value in evaluation.run().items()}
            callback_list.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        training.optimizer.finalize_variable_values(model.trainable_variables)
        callback_list.on_train_end(logs)
    return model.history


def evaluate(
    model: keras.Model, strategy: "tf.distribute.Strategy", batches: "tf.data.Dataset"
) -> dict[str, float]:
    """Return what `model.evaluate(batches, return_dict=True)` returns, under a strategy.

    Arguments:
        model: a model that was made and compiled in the strategy's scope.
        strategy: the strategy.
        batches: a dataset of whole batches, as `fit` takes them.

    Raises:
        StrategyError: if the number of batches is not known, or if a batch has fewer examples than
            there are replicas where TensorFlow cannot convolve an empty part.
        WorkerLost: if another worker stopped.
    """
    with strategy.scope(), workers_watched(), naming_small_batches(strategy):
        _build_metrics(model, batches)
        return _Evaluation(model, strategy, batches).run()


class _Training:
    """Run steps on all replicas, with equal weights however a batch is divided."""

    def __init__(self, model, strategy, micro_batches):
        self.model, self.strategy, self.micro_batches = model, strategy, micro_batches
        self.optimizer = model.optimizer
        self.names = ()
        # The replicas are threads that take turns.
        self.replica = threading.local()

    @contextlib.contextmanager
    def optimizer_replaced(self):
        """While active, the model's `train_step` passes its gradients to `apply`.

        Clipping by the optimizer is off, since `apply` does it.
        """
        import tensorflow as tf

        clips = {
            (optimizer, name): getattr(optimizer, name)
            for optimizer in optimizers_of(self.optimizer)
            for name in ("clipnorm", "global_clipnorm", "clipvalue")
            if getattr(optimizer, name) is not None
        }
        self.clips = {name: value for (_, name), value in clips.items()}
        scales = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        # Clipping and loss scaling need the whole gradient. Keras looks at a replica's share of it.
        self.needs_whole_gradient = bool(self.clips) or scales
        self.model.optimizer = _OptimizerProxy(self)
        for optimizer, name in clips:
            setattr(optimizer, name, None)
        self.step = following(self.model, lambda: tf.function(self._step, autograph=False))
        try:
            yield
        finally:
            self.model.optimizer = self.optimizer
            for (optimizer, name), value in clips.items():
                setattr(optimizer, name, value)

    def steps(self, stream, count, ballot, callbacks):
        """Run `count` steps; yield (number within the epoch, logs) after each."""
        import tensorflow as tf

        for step in range(count):
            callbacks.on_train_batch_begin(step)
            means = self.step(stream, tf.one_hot(ballot.wish, 64)).numpy()
            logs, wishes = np.split(means, [len(self.names)])
            ballot.agreed = int(np.flatnonzero(wishes).max())
            yield step, dict(zip(self.names, logs.tolist(), strict=True))

    def _step(self, stream, wish):
        import tensorflow as tf

        numbers = self.strategy.run(self._replica_step, args=(next(stream), wish))
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, numbers, axis=None)

    def _replica_step(self, batch, wish):
        """Train on a replica's part of a batch; return its logs and its worker's wish, one-hot."""
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, _examples(batch))
        self.replica.gradients = None
        # Schedules of the weights count steps; micro-batches must not count more.
        own = {id(model): model for model in (self.model, supervised(self.model))}
        counters = [each.steps for each in own.values() if isinstance(each, LiveSettings)]
        for part in range(self.micro_batches):
            # Taking every n-th example gives the same micro-batches for any number of replicas.
            micro = keras.tree.map_structure(lambda t, k=part: t[k :: self.micro_batches], batch)
            for counter in counters if part else ():
                if counter is not None:
                    counter.assign(counter - 1)
            # Keras takes the mean over a replica's examples and divides by the replicas.
            self.replica.share = _examples(micro) * context.num_replicas_in_sync / total
            self.replica.is_last = part == self.micro_batches - 1
            logs = self.model.train_step(micro)
        self.names = list(logs)
        logs = tf.stack([tf.cast(value, tf.float32) for value in logs.values()])
        return tf.concat([logs, wish], axis=0)

    def apply(self, gradients, variables):
        """Sum the gradients of the micro-batches; after the last one, update the variables."""
        import tensorflow as tf

        if self.micro_batches > 1 or self.needs_whole_gradient:
            gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        if self.replica.gradients is not None:
            pairs = zip(self.replica.gradients, gradients, strict=True)
            gradients = [a if b is None else b if a is None else a + b for a, b in pairs]
        self.replica.gradients = gradients
        if not self.replica.is_last:
            return
        if self.needs_whole_gradient:
            gradients = self._clipped(gradients)
        self.optimizer.apply(gradients, variables)

    def _clipped(self, gradients):
        """Sum the gradients over the replicas, clip them, and divide by the replicas again."""
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        present = [g for g in gradients if g is not None]
        present = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
        scale = self.optimizer.scale_loss(tf.ones(()))  # the optimizer divides by it afterwards
        if limit := self.clips.get("clipnorm"):
            present = [tf.clip_by_norm(g, limit * scale) for g in present]
        elif limit := self.clips.get("global_clipnorm"):
            present, _ = tf.clip_by_global_norm(present, limit * scale)
        elif limit := self.clips.get("clipvalue"):
            present = [tf.clip_by_value(g, -limit * scale, limit * scale) for g in present]
        # The optimizer sums over the replicas, which now have equal gradients.
        clipped = iter([g / context.num_replicas_in_sync for g in present])
        return [None if g is None else next(clipped) for g in gradients]


class _OptimizerProxy:
    """Stands for the optimizer in `train_step`; weights a replica's loss by its share of a batch.

    It passes the gradients to `_Training.apply`, and everything else to the optimizer.
    """

    def __init__(self, training):
        self.training = training

    def scale_loss(self, loss):
        share = keras.ops.cast(self.training.replica.share, loss.dtype)
        return self.training.optimizer.scale_loss(loss * share)

    def apply_gradients(self, pairs):
        self.training.apply(*zip(*pairs, strict=True))

    def __getattr__(self, name):  # callbacks read iterations and learning_rate
        return getattr(self.training.optimizer, name)

    def __setattr__(self, name, value):
        if name == "training":
            super().__setattr__(name, value)
        else:
            setattr(self.training.optimizer, name, value)


class _Evaluation:
    """An evaluation of the model on all replicas, which can run again and again."""

    def __init__(self, model, strategy, batches):
        import tensorflow as tf

        self.model = model
        self.batches = divided(strategy, batches, least_examples(model, strategy))
        self.count = count_batches(batches)
        self.step = tf.function(
            lambda stream: strategy.run(self._replica_step, args=(next(stream),)), autograph=False
        )

    def _replica_step(self, batch):
        self.model.test_step(batch)

    def run(self):
        """Return {metric: value} over all batches."""
        stream = iter(self.batches)
        # In this context a `Distiller` compares the student with the teacher.
        comparison = getattr(self.model, "evaluation", contextlib.nullcontext)
        with comparison():
            self.model.reset_metrics()
            # Stopping at the stream's end would be too late: a step without a batch has already
            # counted on some replicas.
            for _ in range(self.count):
                self.step(stream)
            return _results(self.model)


def count_batches(batches: "tf.data.Dataset") -> int:
    """Return the number of batches.

    Raises:
        StrategyError: if the number is not known or below 1.
    """
    count = int(batches.cardinality())
    if count < 1:
        raise StrategyError(
            "Under a strategy the number of batches must be known: give steps_per_epoch, or the "
            f"dataset its tf.data.experimental.assert_cardinality; it is {count}."
        )
    return count


def _examples(batch):
    """Return the number of examples in a batch, as a float32 tensor."""
    import tensorflow as tf

    return tf.cast(tf.shape(keras.tree.flatten(batch)[0])[0], tf.float32)


def divided(
    strategy: "tf.distribute.Strategy",
    batches: "tf.data.Dataset",
    least: int,
    sharded: bool = False,
) -> "tf.distribute.DistributedDataset":
    """Divide every batch into one part for each replica. Each worker gets its replicas' parts.

    A batch of fewer than `least` examples is an error. If `sharded`, a worker's batches are those
    of its replicas alone.
    """
    import tensorflow as tf

    def parts(context):
        replicas = context.num_replicas_in_sync
        own = replicas // context.num_input_pipelines
        first = 0 if sharded else context.input_pipeline_id * own
        among = own if sharded else replicas

        def divide(*batch):
            batch = batch[0] if len(batch) == 1 else batch
            count = tf.shape(keras.tree.flatten(batch)[0], out_type=tf.int64)[0]
            total = count * (replicas // among)
            tf.debugging.assert_greater_equal(total, tf.cast(least, total.dtype), TOO_FEW_EXAMPLES)

            def part(number):
                low, high = number * count // among, (number + 1) * count // among
                return keras.tree.map_structure(lambda tensor: tensor[low:high], batch)

            return tf.data.Dataset.range(first, first + own).map(part)

        return batches.flat_map(divide).prefetch(own)

    return strategy.distribute_datasets_from_function(parts)


def _build_metrics(model, batches):
    """Have Keras make the compiled metrics in the scope: it makes them at the first batch."""
    (batch,) = batches.take(1)
    batch = keras.tree.map_structure(lambda tensor: tensor[:2], batch)
    state = [(variable, keras.ops.convert_to_tensor(variable)) for variable in model.variables]
    with keras.StatelessScope(state):  # so that nothing is counted
        model.test_step(batch)


def _results(model):
    """Return the metrics over all replicas. With several workers, each must call this."""
    return {name: float(np.asarray(value)) for name, value in model.get_metrics_result().items()}
