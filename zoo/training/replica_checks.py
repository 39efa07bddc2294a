"""Refuse settings that fail, or change the training, on several replicas."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras

from zoo.training.strategy import StrategyError

if TYPE_CHECKING:
    import tensorflow as tf

TOO_FEW_EXAMPLES = "a batch has fewer examples than there are replicas"


def check(model: keras.Model) -> None:
    """Refuse a compiled model whose training fails or changes on several replicas.

    Raises:
        StrategyError: if the optimizer, the losses or the layers do not suit; says what to change.
    """
    for optimizer in optimizers_of(model.optimizer):
        if optimizer.gradient_accumulation_steps:
            raise StrategyError(
                "gradient_accumulation_steps of a Keras optimizer does not work under a strategy "
                "(keras#20582); let --micro-batches divide each batch instead."
            )
        if optimizer.use_ema and optimizer.ema_overwrite_frequency:
            raise StrategyError(
                "ema_overwrite_frequency of a Keras optimizer does not work under a strategy; "
                "without it, the averages become the weights when the training ends."
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
            from_zoo = type(layer).__module__.partition(".")[0] == "zoo"
            if layer.renorm or not (from_zoo or layer.synchronized):
                raise StrategyError(
                    f"{layer.name!r} would normalize each replica's part of a batch separately: "
                    "make it a zoo.BatchNormalization without renorm."
                )


def _check_loss(loss):
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return  # a function has no reduction of its own: Keras and `objective` take the mean
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        raise StrategyError(
            f"The loss {loss.name!r} has the reduction {loss.reduction!r}; only the mean over the "
            'batch, "sum_over_batch_size", is the same however the batch is divided.'
        )


def check_gives_one_loss_an_example(
    loss: str | Callable | keras.losses.Loss, labels: Any, predictions: Any
) -> None:
    """Refuse a loss that gives one number for a batch: Keras does not divide it by the replicas.

    Arguments:
        loss: a loss, as `compile` takes it.
        labels: the labels of two examples or more.
        predictions: the predictions for them.

    Raises:
        StrategyError: if the loss gives one number.
    """
    loss = keras.losses.get(loss)
    values = (loss.call if isinstance(loss, keras.losses.Loss) else loss)(labels, predictions)
    if len(values.shape) == 0:
        raise StrategyError(
            f"The loss {getattr(loss, 'name', loss)!r} gives one number for a batch; under a "
            "strategy it must give one for each example."
        )


def least_examples(model: keras.Model, strategy: "tf.distribute.Strategy") -> int:
    """Return the smallest number of examples that a batch may have.

    On CPUs, TensorFlow's oneDNN convolution gives an empty batch the wrong channels, so each
    replica needs an example. Elsewhere a part may be empty.
    """
    if strategy.num_replicas_in_sync == 1:
        return 0
    on_cpu = all("CPU" in device for device in strategy.extended.worker_devices)
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    convolves = any(isinstance(layer, keras.layers.Conv2D) for layer in _layers_of(model))
    return strategy.num_replicas_in_sync if on_cpu and one_dnn and convolves else 0


@contextlib.contextmanager
def naming_small_batches(strategy: "tf.distribute.Strategy") -> Iterator[None]:
    """Raise a StrategyError for a batch that is too small, in the place of TensorFlow's error."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if TOO_FEW_EXAMPLES not in str(error):
            raise
        raise StrategyError(
            f"A batch has fewer examples than the {strategy.num_replicas_in_sync} replicas, and "
            "TensorFlow's oneDNN cannot convolve an empty part: give another batch size, or set "
            "TF_ENABLE_ONEDNN_OPTS=0."
        ) from error


def optimizers_of(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizer, and the one that it wraps if it scales losses."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer] if inner is None else [optimizer, inner]


def _layers_of(model):
    """Return all layers within a model once, also those in attributes, lists and dictionaries."""
    layers, seen, waiting = [], set(), [model, getattr(model, "layers", None)]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, keras.Layer):
            layers.append(item)
            waiting += [getattr(item, "layers", None), *vars(item).values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
    return layers
