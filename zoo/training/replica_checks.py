"""Refuse what would train otherwise, or not at all, on several replicas."""

import keras

from zoo.training.strategy import StrategyError


def check(model):
    """Refuse a compiled model that would train otherwise, or not at all, on several replicas.

    Raises:
        StrategyError: with what to change.
    """
    optimizer = model.optimizer
    for each in optimizers_of(optimizer):
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


def optimizers_of(optimizer):
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
