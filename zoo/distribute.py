"""The same training on one device, many devices and many machines, under `tf.distribute`.

What the weights become does not depend on the number of replicas. Keras' own `fit` sees to that
where the batches divide evenly and nothing looks at the whole gradient; `fit` here does for parts
of any size, none included, for clipping, micro-batches and loss scaling, and for several machines,
which Keras 3 says it does not support (keras#20585).
"""

import contextlib
import json
import os
import threading

import keras
import numpy as np

KINDS = ("auto", "none", "mirrored", "multi")
_APART = 1000003  # between the seeds of two replicas; a prime


class StrategyError(ValueError):
    """A strategy that cannot be had here, or a training that would not be the same under it."""


class WorkerLost(RuntimeError):
    """Another worker stopped; the training goes on when all are started again."""


def make_strategy(kind="auto", replicas=0):
    """A `tf.distribute.Strategy`; None for the one device that Keras takes by itself.

    Call it before anything else that makes TensorFlow look at its devices.

    Arguments:
        kind: "multi": the workers that the environment's TF_CONFIG names, this process one of them;
            "mirrored": the GPUs of this machine; "none"; "auto": multi where TF_CONFIG has more
            than one worker, else mirrored where there is more than one GPU, else none.
        replicas: how many devices a mirrored strategy takes; 0 for all GPUs. On a machine without
            GPUs it divides the CPU into so many, which shows the numbers and saves no time.

    Raises:
        StrategyError: if there are no such devices, or TF_CONFIG cannot be used.
    """
    if kind not in KINDS:
        raise StrategyError(f"A strategy is one of {', '.join(KINDS)}; received {kind!r}.")
    if replicas and kind in ("none", "multi"):
        raise StrategyError(f"replicas are those of a mirrored strategy; received {kind!r}.")
    if keras.backend.backend() != "tensorflow":
        if kind not in ("auto", "none") or replicas:
            raise StrategyError(
                f"The strategy {kind!r} is TensorFlow's, and the Keras backend is "
                f"{keras.backend.backend()}: run it with KERAS_BACKEND=tensorflow."
            )
        return None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")  # physical: logical ones would start the runtime
    if kind == "auto":
        kind = "mirrored" if replicas or len(gpus) > 1 else "none"
        kind = "multi" if len(_workers()) > 1 else kind
    if kind == "multi":
        return _multi_worker(tf)
    return _mirrored(tf, gpus, replicas) if kind == "mirrored" else None


def _mirrored(tf, gpus, replicas):
    if not gpus and replicas < 2:
        raise StrategyError(
            "A mirrored strategy is of two devices or more, and this machine has no GPU. "
            "--replicas 2 divides its CPU in two, which trains no faster."
        )
    if gpus:
        if replicas > len(gpus):
            raise StrategyError(f"--replicas is {replicas}; this machine has {len(gpus)} GPUs.")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas or len(gpus))])
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        parts = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise StrategyError(
                f"TensorFlow has started, and can no longer divide the CPU in {replicas}: make the "
                f"strategy first ({error})."
            ) from error
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # Its rings would need a thread for each of the replicas, and abort another process' worth
        # of collectives when two strategies meet.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker(tf):
    workers = _workers()
    if len(workers) < 2:
        raise StrategyError(
            'Several workers are named by TF_CONFIG, {"cluster": {"worker": ["host0:port", '
            '"host1:port"]}, "task": {"type": "worker", "index": 0}}; it is '
            f"{os.environ.get('TF_CONFIG', 'not set')!s}."
        )
    task = _tf_config().get("task", {})
    if [task.get("type"), task.get("index")] not in [[kind, index] for kind, index in workers]:
        raise StrategyError(
            f"TF_CONFIG says that this process is {task}; it is one of "
            f"{', '.join(f'{kind} {index}' for kind, index in workers)}."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise StrategyError(
            "Several workers must find each other before TensorFlow is used for anything else: "
            f"import nothing in the recipe's file that computes ({error})."
        ) from error


def _tf_config():
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise StrategyError(f"TF_CONFIG is not JSON: {error}; it is {text!r}.") from error
    return config


def _workers():
    """(type, index) of the tasks that train, the chief first."""
    cluster = _tf_config().get("cluster", {})
    return [
        (kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, [])))
    ]


def is_chief(strategy):
    """Whether this process writes: of several workers one does."""
    if strategy is None or not _several_workers(strategy):
        return True
    task = _tf_config()["task"]
    return (task["type"], task["index"]) == _workers()[0]


def _several_workers(strategy):
    return strategy.cluster_resolver is not None and len(_workers()) > 1


def scope(strategy):
    """Where the model, and all that has variables, is made."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def described(strategy):
    """For the record: {"kind", "replicas"}."""
    if strategy is None:
        return {"kind": "none", "replicas": 1}
    kind = "multi" if _several_workers(strategy) else "mirrored"
    return {"kind": kind, "replicas": strategy.num_replicas_in_sync}


def check(model):
    """Refuse a compiled model that would train otherwise, or not at all, on several replicas.

    Raises:
        StrategyError: with what to change.
    """
    optimizer = model.optimizer
    for each in _optimizers(optimizer):
        if each.gradient_accumulation_steps:
            raise StrategyError(
                "gradient_accumulation_steps of a Keras optimizer does not work under a strategy "
                "(keras#20582); let --micro-batches divide each batch instead."
            )
        if each.use_ema and each.ema_overwrite_frequency:
            raise StrategyError(
                "ema_overwrite_frequency of a Keras optimizer does not work under a strategy; "
                "without it the averages become the weights when the training ends."
            )
    if model.jit_compile:
        raise StrategyError("jit_compile=True fails on two replicas; compile with False.")
    if model.steps_per_execution != 1:
        raise StrategyError(
            f"steps_per_execution={model.steps_per_execution} fails under a strategy; compile "
            "with 1."
        )
    for loss in keras.tree.flatten(model.loss):
        _check_loss(loss)
    for layer in _layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            ours = type(layer).__module__.partition(".")[0] == "zoo"
            if layer.renorm or not (ours or layer.synchronized):
                raise StrategyError(
                    f"{layer.name!r} would normalize each replica's part of a batch by itself: "
                    "make it a zoo.BatchNormalization without renorm."
                )


def _check_loss(loss):
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return  # a function, which has no reduction; Keras and `objective` give it the right one
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        raise StrategyError(
            f"The loss {loss.name!r} has the reduction {loss.reduction!r}; only the mean over the "
            'batch, "sum_over_batch_size", is the same however the batch is divided.'
        )


def check_gives_one_loss_an_example(loss, labels, predictions):
    """Refuse a loss that is one number a batch: Keras does not divide it by the replicas.

    `labels` and `predictions` are of two examples or more.

    Raises:
        StrategyError: if it is.
    """
    loss = keras.losses.get(loss)
    values = (loss.call if isinstance(loss, keras.losses.Loss) else loss)(labels, predictions)
    if len(values.shape) == 0:
        raise StrategyError(
            f"The loss {getattr(loss, 'name', loss)!r} gives one number for a batch; under a "
            "strategy it must give one for each example."
        )


def _optimizers(optimizer):
    """The optimizer, and the one that it wraps to scale losses."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer] if inner is None else [optimizer, inner]


def _layers_of(model):
    """All layers within, each once, whatever holds them."""
    found, seen, waiting = [], set(), [model, getattr(model, "layers", None)]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, keras.Layer):
            found.append(each)
            waiting += [getattr(each, "layers", None), *vars(each).values()]
        elif isinstance(each, (list, tuple)):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.values()
    return found


class Ballot:
    """What a worker wishes, and what all learn after the same step that some worker wished.

    `wish` is set here, a whole number in 0..63; `agreed` is the largest that any has.
    """

    def __init__(self):
        self.wish = self.agreed = 0


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
    steps_per_epoch = steps_per_epoch or _count(batches)
    callbacks = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=epochs, steps=steps_per_epoch
    )
    test = None if validation is None else _Testing(model, strategy, validation)
    model.stop_training = False
    logs = {}
    with strategy.scope(), train.optimizer_aside(), _workers_watched():
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
    with strategy.scope(), _workers_watched():
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
            for each in _optimizers(self.optimizer)
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
        supervised = getattr(self.model, "student", self.model)
        counter = getattr(supervised, "steps", None)  # of a DeeplySupervised with a schedule
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
        self.batches, self.count = _divided(strategy, batches), _count(batches)
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


def _count(batches):
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


@contextlib.contextmanager
def _workers_watched():
    """The errors of TensorFlow that mean that another process is gone, as one that says so."""
    import tensorflow as tf

    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    try:
        yield
    except (*lost, tf.errors.InternalError, tf.errors.DeadlineExceededError) as error:
        if len(_workers()) < 2:
            raise
        raise WorkerLost(
            "Another worker stopped or cannot be reached: start all workers again with the same "
            f"commands, and the training resumes. ({str(error).splitlines()[0][:200]})"
        ) from error


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


def check_same_everywhere(strategy, what, number):
    """Raise StrategyError unless all workers have the same number."""
    import tensorflow as tf

    def mine():
        return tf.constant([number], tf.int64)

    @tf.function(autograph=False)
    def everyone():
        return strategy.gather(strategy.run(mine), axis=0)

    with _workers_watched():
        numbers = set(everyone().numpy().tolist())
    if len(numbers) > 1:
        raise StrategyError(
            f"The workers are at different numbers of {what}: {sorted(numbers)}. They must see the "
            "same run folder: put --runs on storage that all share."
        )


def wait_for_all(strategy):
    """Until all workers are here."""
    if strategy is not None and _several_workers(strategy):
        check_same_everywhere(strategy, "end", 0)


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
        with _workers_watched():
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
