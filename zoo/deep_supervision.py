"""Deeply-Supervised Nets (arXiv:1409.5185): hidden layers that learn from the labels themselves."""

import contextlib
import difflib
import functools
import math
import threading

import keras
from keras import ops


@keras.saving.register_keras_serializable("zoo")
class DeeplySupervised(keras.Model):
    """A model whose hidden layers have companion objectives: local classifiers of the same labels.

    Images -> the output logits of `model`. The loss is the compiled one on the output, plus
    companion_weight x the same loss on each companion's scores, plus regularization: equation 3
    of Deeply-Supervised Nets without its threshold. One label an example serves all heads; the
    logs have each head's loss (`output_loss`, `<layer>_loss`); metrics look at the output.
    `evaluate` measures the objective that `fit` minimizes; `predict` and calls compute the output
    alone. `.trunk` is `model`, to ship: an ordinary model that shares the trained weights.

    Arguments:
        model: a functional Keras model with one output, the logits (batch, classes).
        companions: {name of a layer of `model`: layer that maps its output to scores}, such as
            `{"mlpconv1": CompanionHead(10)}`.
        companion_weight: a non-negative number; or a
            `keras.optimizers.schedules.LearningRateSchedule` of the number of steps trained,
            which is kept with the model's weights; or {layer name: either}.

    Raises:
        ValueError: for a model that is not functional, a layer name it does not have (the nearest
            is suggested), a head whose scores do not fit the output, or a weight that is negative,
            not finite, or missing.
    """

    def __init__(self, model, companions, *, companion_weight=0.3, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        weights = _weights_by_layer(companion_weight, companions)
        hidden = [_output_of(model, layer) for layer in companions]
        self.trunk = model
        self.companions = dict(companions)
        self.companion_weight = weights
        scores = [self.companions[layer](h) for layer, h in zip(companions, hidden, strict=True)]
        for layer, score in zip(companions, scores, strict=True):
            if score.shape != model.output_shape:
                raise ValueError(
                    f"The companion of {layer!r} gives scores of shape {score.shape}; the model "
                    f"gives {model.output_shape}. All heads learn the same labels."
                )
        # One pass through the trunk for all heads. A partial, because a model of its own would have
        # Keras save and list the layers twice.
        self._all_heads = functools.partial(keras.Model(model.inputs, [model.output, *scores]))
        self._with_companions = threading.local()
        self._head_losses = [
            keras.metrics.Mean(name=f"{layer}_loss") for layer in ("output", *companions)
        ]
        self.steps = None
        if any(callable(weight) for weight in weights.values()):
            self.steps = self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="int32",
                trainable=False,
                aggregation="only_first_replica",
                name="steps",
            )
        self.built = True

    def call(self, inputs, training=None):
        if not getattr(self._with_companions, "wanted", False):
            return self.trunk(inputs, training=training)
        if training and self.steps is not None:
            self.steps.assign(self.steps + 1)
        output, *scores = self._all_heads(inputs, training=training)
        return {"output": output, "companions": scores}

    # Keras has these two once a backend, with different arguments; all call the model and then
    # `compute_loss` and `compute_metrics`, which take what `call` gives meanwhile.
    def train_step(self, *args, **kwargs):
        with self._companions():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with self._companions():
            return super().test_step(*args, **kwargs)

    @contextlib.contextmanager
    def _companions(self):
        self._with_companions.wanted = True
        try:
            yield
        finally:
            self._with_companions.wanted = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        output, companions = y_pred["output"], y_pred["companions"]
        objective = super().compute_loss(x, y, output, sample_weight, training)
        head_loss = _loss_object(self.loss)
        heads = [
            head_loss(y, scores, sample_weight=sample_weight) for scores in (output, *companions)
        ]
        for loss, tracker in zip(heads, self._head_losses, strict=True):
            tracker.update_state(loss * _replicas(), sample_weight=ops.shape(output)[0])
        for layer, loss in zip(self.companions, heads[1:], strict=True):
            objective = objective + self._weight_now(layer) * loss
        return objective

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        output = y_pred["output"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, output, sample_weight)

    def _weight_now(self, layer):
        weight = self.companion_weight[layer]
        # `call` has counted the running step already: the first one uses the schedule's value at 0.
        return weight(ops.maximum(self.steps - 1, 0)) if callable(weight) else weight

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "model": serialize(self.trunk),
            "companions": {layer: serialize(head) for layer, head in self.companions.items()},
            "companion_weight": {
                layer: serialize(weight) if callable(weight) else weight
                for layer, weight in self.companion_weight.items()
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = dict(config)
        weights = config["companion_weight"].items()
        return cls(
            restore(config.pop("model")),
            {layer: restore(head) for layer, head in config.pop("companions").items()},
            companion_weight={
                layer: restore(weight) if isinstance(weight, dict) else weight
                for layer, weight in weights
            },
            name=config["name"],
        )


def _weights_by_layer(companion_weight, companions):
    given = isinstance(companion_weight, dict)
    weights = companion_weight if given else dict.fromkeys(companions, companion_weight)
    if set(weights) != set(companions):
        raise ValueError(
            f"companion_weight names the layers {', '.join(weights)}; companions names "
            f"{', '.join(companions)}."
        )
    for layer, weight in weights.items():
        if not callable(weight) and not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"The companion weight of {layer!r} is {weight}; it is a schedule or a number >= 0 "
                "(0 switches the companion off)."
            )
    return {layer: weights[layer] for layer in companions}


def _output_of(model, layer):
    if not hasattr(model, "inputs") or len(getattr(model, "outputs", None) or ()) != 1:
        raise ValueError(
            "DeeplySupervised wraps a built functional or sequential model with one output; "
            f"received {model!r}."
        )
    names = [candidate.name for candidate in model.layers]
    if layer not in names:
        nearest = difflib.get_close_matches(layer, names, 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f": it has {', '.join(names)}."
        raise ValueError(f"Model {model.name!r} has no layer {layer!r}{hint}")
    return model.get_layer(layer).output


def _loss_object(loss):
    """A `keras.losses.Loss`: those scale themselves under a distribution strategy."""
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise ValueError(f"Compile with one loss, for all heads alike; received loss={loss!r}.")
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else _FunctionLoss(loss)


class _FunctionLoss(keras.losses.Loss):
    def __init__(self, function):
        super().__init__(name=getattr(function, "__name__", "loss"))
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def _replicas():
    """What a Keras loss was divided by under a tf.distribute strategy, and a log must undo."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
