"""Deeply-Supervised Nets (arXiv:1409.5185): hidden layers that learn from the labels themselves."""

import contextlib
import functools
import math
import threading

import keras
from keras import layers, ops

from zoo.losses import (
    Mean,
    SoftTargets,
    check_temperature,
    loss_object,
    replicas,
    sum_over_replicas,
)
from zoo.text import did_you_mean


@keras.saving.register_keras_serializable("zoo")
class DeeplySupervised(keras.Model):
    """A model whose hidden layers have companion objectives: local classifiers of the same labels.

    Images -> the output logits of `model`. `fit` minimizes equation 3 of Deeply-Supervised Nets,

        L + sum over the companions m of companion_weight_m x [||w_m||^2 + l_m - threshold_m]_+

    plus the regularization of `model`: L is the compiled loss of the output, l_m the companion's
    loss of the same labels, and ||w_m||^2 the regularizers of its head. Once a companion's bracket
    is at or below zero, over the whole batch, it is switched off and has no gradient. One label an
    example serves all heads. `evaluate` measures the objective that `fit` minimizes; `predict` and
    calls compute the output alone. `.trunk` is `model`, to ship: an ordinary model that shares the
    trained weights.

    The logs have each head's loss (`output_loss`, `<layer>_loss`) and, where there are such,
    `<layer>_gate` (the share of batches in which the bracket was above zero),
    `<layer>_soft_target_error` and `<layer>_decoding_error`; metrics look at the output.

    With decoders, images without labels may stand beside labelled ones: a label that is negative or
    NaN (one-hot: no entry of 0 or more), or `y=None`, is no label. Such an image counts for
    decoders and soft targets; for the losses of labels, for metrics that are means and for
    `weighted_metrics` its weight is zero. Others, such as F1, belong in `weighted_metrics`.

    Arguments:
        model: a functional Keras model with one output, the logits (batch, classes).
        companions: {name of a layer of `model`: layer that maps its output to scores}, such as
            `{"mlpconv1": CompanionHead(10)}`; may be empty beside `decoders`.
        companion_weight: a non-negative number; or a
            `keras.optimizers.schedules.LearningRateSchedule` of the number of steps trained,
            which is kept with the model's weights; or {layer name: either}.
        companion_loss: a Keras loss of the companions; None for the compiled one.
        threshold: the value at and below which a companion is switched off; a number, or
            {layer name: number}, or None for no switch. The paper calls it gamma.
        soft_weight: in 0..1: the share of a companion's loss that soft targets take, those of the
            output at this step: (1 - soft_weight) l_m + soft_weight `soft_target_loss`. Zhang et
            al., Be Your Own Teacher, arXiv:1905.08094. The output learns nothing from them.
        temperature: of the soft targets, above 0.
        decoders: {name of a layer: `DecodingHead`}: companions that need no labels.
        decoder_weight: of every decoder's error, as `companion_weight`.

    Raises:
        ValueError: for a model that is not functional, a layer name it does not have (the nearest
            is suggested), a head whose scores do not fit the output, or a weight, threshold,
            soft_weight or temperature that is out of range, not finite, or given for no companion.
    """

    def __init__(
        self,
        model,
        companions,
        *,
        companion_weight=0.3,
        companion_loss=None,
        threshold=None,
        soft_weight=0.0,
        temperature=3.0,
        decoders=None,
        decoder_weight=1.0,
        name=None,
        **kwargs,
    ):
        # A functional model takes its examples as they come: so does this one of the same trunk.
        super().__init__(name=name, autocast=False, **kwargs)
        decoders = decoders or {}
        if not companions and not decoders:
            raise ValueError("DeeplySupervised received neither companions nor decoders.")
        if not 0 <= soft_weight <= 1:
            raise ValueError(f"soft_weight is a share in 0..1; received {soft_weight}.")
        check_temperature(temperature)
        weights = _by_layer("companion_weight", companion_weight, companions)
        decoder_weights = _by_layer("decoder_weight", decoder_weight, decoders)
        thresholds = _thresholds(threshold, companions)
        hidden = {layer: _output_of(model, layer) for layer in (*companions, *decoders)}
        targets = [_decoded(model, decoder) for decoder in decoders.values()]
        self.trunk = model
        self.companions = dict(companions)
        self.companion_weight = weights
        self.companion_loss = None if companion_loss is None else keras.losses.get(companion_loss)
        self.threshold = thresholds
        self.soft_weight, self.temperature = soft_weight, temperature
        self.decoders = dict(decoders)
        self.decoder_weight = decoder_weights

        scores = [head(hidden[layer]) for layer, head in self.companions.items()]
        for layer, score in zip(companions, scores, strict=True):
            if score.shape != model.output_shape:
                raise ValueError(
                    f"The companion of {layer!r} gives scores of shape {score.shape}; the model "
                    f"gives {model.output_shape}. All heads learn the same labels."
                )
        errors = [
            decoder([hidden[layer], target])
            for (layer, decoder), target in zip(self.decoders.items(), targets, strict=True)
        ]
        # One pass through the trunk for all heads. Partials, because a model of its own would have
        # Keras save and list the layers twice.
        self._all_heads = functools.partial(
            keras.Model(model.inputs, [model.output, scores, errors])
        )
        self._exits = functools.partial(keras.Model(model.inputs, [model.output, *scores]))
        self._with_companions = threading.local()
        # Likewise kept from Keras, for which it would be one more layer of the model.
        self._mask = functools.partial(_Mask(name="mask", dtype="float32"))

        def trackers(names):
            return {name: keras.metrics.Mean(name=name) for name in names}

        self._logs = trackers(f"{layer}_loss" for layer in ("output", *companions))
        self._logs |= trackers(f"{layer}_gate" for layer in thresholds)
        self._logs |= trackers(f"{layer}_soft_target_error" for layer in companions if soft_weight)
        self._logs |= trackers(f"{layer}_decoding_error" for layer in decoders)
        self.steps = None
        if any(callable(weight) for weight in (*weights.values(), *decoder_weights.values())):
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
        output, scores, errors = self._all_heads(inputs, training=training)
        return {"output": output, "companions": scores, "errors": errors}

    def shipped_model(self):
        """The plain model that ships: `trunk`."""
        return self.trunk

    def supervised_model(self):
        """This model."""
        return self

    def exits(self, images, batch_size=256):
        """The logits of every depth: {layer: (n, classes) array, ..., "output": (n, classes)}.

        (n, height, width, channels) images, 0..255; layers in the order of `companions`. An early
        exit saves the layers above it: Teerapittayanon et al., BranchyNet, arXiv:1709.01686.
        """
        model = self._exits.func
        output, *scores = keras.tree.flatten(
            model.predict(images, batch_size=batch_size, verbose=0)
        )
        return {**dict(zip(self.companions, scores, strict=True)), "output": output}

    @property
    def losses(self):
        """Those of the trunk; a head's regularizers stand in its companion's bracket."""
        # On JAX those of the pass, which Keras hands over.
        decoding = (loss for decoder in self.decoders.values() for loss in decoder.losses)
        return self._losses_override or [*self.trunk.losses, *decoding]

    # Keras has these two once a backend, with different arguments; all call the model and then
    # `compute_loss` and `compute_metrics`, which take what `call` gives meanwhile.
    def train_step(self, *args, **kwargs):
        with self.with_companions():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with self.with_companions():
            return super().test_step(*args, **kwargs)

    @contextlib.contextmanager
    def with_companions(self):
        """While active, `call` returns output, companions' scores and decoders' errors."""
        self._with_companions.wanted = True
        try:
            yield
        finally:
            self._with_companions.wanted = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        def stock(y, output, sample_weight):
            return super(DeeplySupervised, self).compute_loss(x, y, output, sample_weight, training)

        if not isinstance(y_pred, dict):
            return stock(y, y_pred, sample_weight)
        objective = self.objective(self.loss, stock, y, y_pred, sample_weight)
        return objective + self.decoding(y_pred, sample_weight)

    def objective(self, compiled_loss, stock, y, y_pred, sample_weight):
        """Equation 3, for whatever model trains this one.

        `compiled_loss` is what that model was compiled with, `stock(y, output, sample_weight)` its
        objective of the output alone, regularizers included, and `y_pred` what `call` gives.
        """
        output = y_pred["output"]
        examples = ops.cast(ops.shape(output)[0], "float32")
        y, label_weight, labelled = self._labels(y, output, sample_weight)
        objective = stock(y, output, label_weight)
        output_loss = loss_object(compiled_loss)
        loss = output_loss(y, output, sample_weight=label_weight)
        self._log("output_loss", loss, examples, labelled)
        companion_loss = loss_object(self.companion_loss or compiled_loss)
        soft_loss = SoftTargets(self.temperature)
        for layer, scores in zip(self.companions, y_pred["companions"], strict=True):
            loss = companion_loss(y, scores, sample_weight=label_weight)
            self._log(f"{layer}_loss", loss, examples, labelled)
            if self.soft_weight:
                soft = soft_loss(output, scores, sample_weight=sample_weight)
                self._log(f"{layer}_soft_target_error", soft, examples)
                loss = (1 - self.soft_weight) * loss + self.soft_weight * soft
            bracket = self._bracket(layer, loss, examples)
            objective = objective + self.weight_now(layer) * bracket
        return objective

    def decoding(self, y_pred, sample_weight):
        """The weighted errors of the decoders, which need no labels; `y_pred` as `objective`."""
        total = 0.0
        for layer, errors in zip(self.decoders, y_pred["errors"], strict=True):
            error = Mean()(errors, errors, sample_weight=sample_weight)
            self._log(f"{layer}_decoding_error", error, ops.cast(ops.shape(errors)[0], "float32"))
            total = total + self._weight_now(self.decoder_weight[layer]) * error
        return total

    def _log(self, name, loss, examples, counted=None):
        counted = examples if counted is None else counted
        # Keras has divided the loss by all examples and by the number of replicas.
        mean = ops.divide_no_nan(loss * examples * replicas(), counted)
        self._logs[name].update_state(mean, sample_weight=counted)

    def _bracket(self, layer, loss, examples):
        """[||w||^2 + l - threshold]_+ of equation 3; of several replicas, this one's share."""
        regularization = sum(ops.sum(each) for each in self.companions[layer].losses)
        value = loss + (regularization - self.threshold.get(layer, 0.0)) / replicas()
        if layer not in self.threshold:
            return value
        # The whole batch decides, not each replica about its own part, which may be a small one.
        on = sum_over_replicas(ops.stop_gradient(value) * examples) > 0
        self._logs[f"{layer}_gate"].update_state(ops.cast(on, "float32"))
        return ops.where(on, value, ops.zeros_like(value))

    def _labels(self, y, output, sample_weight):
        """(labels, weights of the examples in label losses, how many have a label; None for all)"""
        if not self.decoders:
            return y, sample_weight, None
        batch = ops.shape(output)[0]
        if y is None:
            y = ops.full((batch,), -1)
        y = ops.convert_to_tensor(y)
        known = ops.any(ops.reshape(y, (batch, -1)) >= 0, axis=-1)  # NaN >= 0 is False
        # What stands in for a missing label weighs nothing, but must be a class.
        y = ops.where(ops.reshape(known, (-1,) + (1,) * (len(y.shape) - 1)), y, ops.zeros_like(y))
        known = weight = ops.cast(known, "float32")
        if sample_weight is not None:
            weight = known * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return y, weight, ops.sum(known)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        output = y_pred["output"] if isinstance(y_pred, dict) else y_pred
        if isinstance(y_pred, dict):
            y, output, sample_weight = self.for_metrics(y, output, sample_weight)
        return super().compute_metrics(x, y, output, sample_weight)

    def for_metrics(self, y, output, sample_weight):
        """(labels, output, weights) of which images without labels are masked and weigh nothing."""
        if not self.decoders:
            return y, output, sample_weight
        y, known, _ = self._labels(y, output, None)
        output = self._mask([output, known > 0])
        if sample_weight is not None:
            known = known * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return y, output, known

    def weight_now(self, layer):
        """The weight of a companion at this step."""
        return self._weight_now(self.companion_weight[layer])

    @property
    def head_metrics(self):
        """The metrics of every head."""
        return list(self._logs.values())

    def _weight_now(self, weight):
        # `call` has counted the running step already: the first one uses the schedule's value at 0.
        return weight(ops.maximum(self.steps - 1, 0)) if callable(weight) else weight

    def get_config(self):
        serialize = keras.saving.serialize_keras_object

        def weights(by_layer):
            return {k: serialize(w) if callable(w) else w for k, w in by_layer.items()}

        return {
            "name": self.name,
            "model": serialize(self.trunk),
            "companions": {layer: serialize(head) for layer, head in self.companions.items()},
            "companion_weight": weights(self.companion_weight),
            "companion_loss": keras.losses.serialize(self.companion_loss)
            if self.companion_loss
            else None,
            "threshold": dict(self.threshold) or None,
            "soft_weight": self.soft_weight,
            "temperature": self.temperature,
            "decoders": {layer: serialize(decoder) for layer, decoder in self.decoders.items()},
            "decoder_weight": weights(self.decoder_weight),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(value):
            if not isinstance(value, dict):
                return value
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = dict(config)
        for key in ("companions", "companion_weight", "decoders", "decoder_weight"):
            config[key] = {layer: restore(value) for layer, value in config[key].items()}
        return cls(**{**config, "model": restore(config["model"])})


def _by_layer(what, weight, companions):
    weights = weight if isinstance(weight, dict) else dict.fromkeys(companions, weight)
    if set(weights) != set(companions):
        raise ValueError(
            f"{what} names the layers {', '.join(weights) or '(none)'}; there are companions of "
            f"{', '.join(companions) or '(none)'}."
        )
    for layer, each in weights.items():
        value = float(each(0)) if callable(each) else each
        if not (math.isfinite(value) and value >= 0):
            starting = "a schedule that starts at " if callable(each) else ""
            raise ValueError(
                f"The {what} of {layer!r} is {starting}{value}; it is a schedule or a number >= 0 "
                "(0 switches the companion off)."
            )
    return {layer: weights[layer] for layer in companions}


def _thresholds(threshold, companions):
    if threshold is None:
        return {}
    given = threshold if isinstance(threshold, dict) else dict.fromkeys(companions, threshold)
    for layer, value in given.items():
        if layer not in companions:
            raise ValueError(
                f"threshold names {layer!r}, which has no companion loss to switch off; there are "
                f"companions of {', '.join(companions) or '(none)'}."
            )
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"The threshold of {layer!r} is {value}; it is a number >= 0.")
    if not given:
        raise ValueError("threshold was given without a companion whose loss it could switch off.")
    return dict(given)


def _output_of(model, layer):
    if not hasattr(model, "inputs") or len(getattr(model, "outputs", None) or ()) != 1:
        raise ValueError(
            "DeeplySupervised wraps a built functional or sequential model with one output; "
            f"received {model!r}."
        )
    names = [candidate.name for candidate in model.layers]
    if layer not in names:
        hint = did_you_mean(layer, names, f"It has {', '.join(names)}.")
        raise ValueError(f"Model {model.name!r} has no layer {layer!r}. {hint}")
    return model.get_layer(layer).output


def _decoded(model, decoder):
    """Return the target of a decoder: a map of the model, or its input in 0..1."""
    if decoder.of is None:
        return ops.cast(model.inputs[0], "float32") / 255
    return _output_of(model, decoder.of)


class _Mask(layers.Layer):
    """Attach a Keras mask, which the metrics of Keras honour: [scores, mask] -> scores."""

    def call(self, inputs):
        return ops.copy(inputs[0])

    def compute_mask(self, inputs, previous_mask):
        return inputs[1]
