"""Deeply-Supervised Nets (arXiv:1409.5185): hidden layers that learn from the labels themselves."""

import contextlib
import functools
import itertools
import threading

import keras
from keras import layers, ops

from zoo.losses import (
    Mean,
    SoftTargets,
    loss_object,
    replicas,
    sum_over_replicas,
)
from zoo.objectives.class_weights import ClassWeights
from zoo.objectives.compatibility import check_kinds, symbolic_inputs
from zoo.objectives.deep_supervision_settings import DeepSettings
from zoo.objectives.exits import Exits, scores_of
from zoo.objectives.head_arguments import (
    check_heads,
    check_log_names,
    check_scores,
    check_trunk,
    threshold_by_layer,
    weight_by_layer,
)
from zoo.objectives.probabilities import kinds_of
from zoo.objectives.settings import (
    now,
    setting_from_config,
    setting_to_config,
    step_counter,
)
from zoo.objectives.step_data import explaining_replicas, unpacked
from zoo.objectives.taps import Watched, find, shapes
from zoo.objectives.wrapping import Wrapping
from zoo.pixel_range import RawPixels


@keras.saving.register_keras_serializable("zoo")
class DeeplySupervised(RawPixels, Wrapping, ClassWeights, DeepSettings, Exits, keras.Model):
    """A model that also trains local classifiers, its companions, on hidden layers.

    Images -> the output logits of `model`. `fit` minimizes equation 3 of Deeply-Supervised Nets,

        L + sum over the companions m of companion_weight_m x [||w_m||^2 + l_m - threshold_m]_+

    plus the regularization of `model`. L is the compiled loss of the output, l_m is the companion's
    loss of the same labels, and ||w_m||^2 are the regularizers of its head. A companion whose
    bracket is at or below zero, over the whole batch, is switched off and has no gradient. All
    heads learn the same label of an example. `evaluate` measures the objective that `fit`
    minimizes; `predict` and calls compute the output alone. `.trunk` is `model`, an ordinary model
    to ship, which shares the trained weights.

    The logs have the loss of each head (`output_loss`, `<layer>_loss`). They have `<layer>_gate`
    (the share of batches in which the bracket was above zero), `<layer>_soft_target_error`,
    `synergy_loss` and `<layer>_decoding_error` if the arguments call for them. Metrics measure the
    output.

    With decoders, some or all images may have no label: a label that is negative or NaN (one-hot:
    no entry of 0 or more), or `y=None`, is no label. Such an image counts for decoders and soft
    targets. Its weight is zero in the losses of labels, in metrics that are means and in
    `weighted_metrics`. Metrics that are no means, such as F1, belong in `weighted_metrics`.

    Weights, thresholds, `soft_weight`, `temperature` and `synergy` may be assigned at any time, for
    example by a callback: `model.companion_weight["mlpconv1"] = 0.1`. The next step uses them.

    Arguments:
        model: a functional or sequential Keras model with one output, the logits (batch, classes).
        companions: {name of a layer of `model`: layer that maps its output to scores}, such as
            `{"mlpconv1": CompanionHead(10)}`; may be empty if there are `decoders`.
            "backbone/conv3" is a layer of the model "backbone" within. The logs call it
            "backbone.conv3", since Keras allows no slash in the name of a metric.
        companion_weight: a non-negative number; or a
            `keras.optimizers.schedules.LearningRateSchedule` of the number of steps trained,
            which is kept with the model's weights; or {layer name: number or schedule}.
        companion_loss: a Keras loss of the companions; None for the compiled loss.
        threshold: the value at and below which a companion is switched off; a number, or
            {layer name: number}, or None for no switch. The paper calls it gamma.
        soft_weight: the share, in 0..1, of soft targets in a companion's loss:
            (1 - soft_weight) l_m + soft_weight `soft_target_loss`. The output at this step gives
            the soft targets, and learns nothing from them. Zhang et al., Be Your Own Teacher,
            arXiv:1905.08094.
        temperature: the temperature of the soft targets, above 0.
        synergy: the weight, a number >= 0, of the sum of `soft_target_loss` over all ordered pairs
            of heads, of which the output is one: every head learns from every other, up and down.
            The head that gives the soft targets of a pair learns nothing from it. Sun et al.,
            Deeply-supervised Knowledge Synergy, arXiv:1906.00675, whose authors use
            `synergy=1, temperature=1, companion_weight=1` and heads of `form="conv"`.
        decoders: {name of a layer: `DecodingHead`}: companions that need no labels.
        decoder_weight: the weight of the decoders' errors; as `companion_weight`.

    Raises:
        ValueError: for a model that is neither functional nor sequential, or ends in a softmax or
            sigmoid; a layer name it does not have (the nearest is suggested), a head whose scores
            do not fit the output, or a weight, threshold, soft_weight or temperature that is out
            of range, not finite, or given for no companion. Before the first step, for a compiled
            loss that takes probabilities.
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
        synergy=0.0,
        decoders=None,
        decoder_weight=1.0,
        name=None,
        **kwargs,
    ):
        # Without autocast the trunk receives the examples unchanged, as it does on its own.
        super().__init__(name=name, autocast=False, **kwargs)
        decoders = decoders or {}
        if not companions and not decoders:
            raise ValueError(
                "DeeplySupervised received neither companions nor decoders. Give one or more."
            )
        check_heads("companions", companions)
        check_heads("decoders", decoders)
        weights = weight_by_layer("companion_weight", companion_weight, companions)
        decoder_weights = weight_by_layer("decoder_weight", decoder_weight, decoders)
        thresholds = threshold_by_layer(threshold, companions)
        check_trunk(model)
        check_kinds("trunk", model, kinds_of(model))
        targets = [decoder.of for decoder in decoders.values() if decoder.of is not None]
        watched = {layer: find(model, layer) for layer in (*companions, *decoders, *targets)}
        self.trunk = model
        self.companions = dict(companions)
        self.companion_weight = weights
        self.companion_loss = None if companion_loss is None else keras.losses.get(companion_loss)
        self.threshold = thresholds
        self.soft_weight, self.temperature = soft_weight, temperature
        self.synergy = synergy
        self.check_soft_targets()
        self.decoders = dict(decoders)
        self.decoder_weight = decoder_weights
        # Keras does not look into this plain object for layers of this model.
        self._watched = Watched(model, watched)
        self._connect_heads()
        self._exits = None
        self._with_companions = threading.local()
        # The partial keeps this layer, too, from Keras.
        self._mask = functools.partial(_Mask(name="mask", dtype="float32"))
        self._logs = self._make_metrics()
        self.steps = step_counter(self, self.scheduled())
        self.build_as_shipped()

    def _connect_heads(self):
        """Build the heads on symbolic outputs of their layers."""
        examples = symbolic_inputs(self.trunk)
        _, hidden = shapes(self._watched, examples)
        check_scores(self.trunk, scores_of(self.companions, hidden))
        self._errors(hidden, examples)

    def _errors(self, hidden, inputs, training=None):
        """Return the errors of the decoders."""
        images = ops.cast(keras.tree.flatten(inputs)[0], "float32") / 255
        if len(images.shape) < len(self.trunk.inputs[0].shape):
            images = ops.expand_dims(images, -1)  # Keras takes images without the one channel.
        return [
            decoder(
                [hidden[layer], images if decoder.of is None else hidden[decoder.of]],
                training=training,
            )
            for layer, decoder in self.decoders.items()
        ]

    def _make_metrics(self):
        """Return {name in the logs: metric} of every head."""
        names = [f"{layer}_loss" for layer in ("output", *self.companions)]
        names += [f"{layer}_gate" for layer in self.threshold]
        if self.soft_weight:
            names += [f"{layer}_soft_target_error" for layer in self.companions]
        if self.synergy:
            names.append("synergy_loss")
        names += [f"{layer}_decoding_error" for layer in self.decoders]
        logged = [name.replace("/", ".") for name in names]
        check_log_names(logged)
        return {
            name: keras.metrics.Mean(in_logs, "float32")
            for name, in_logs in zip(names, logged, strict=True)
        }

    def call(self, inputs, training=None):
        if not getattr(self._with_companions, "active", False):
            return self.trunk(inputs, training=training)
        if training and self.steps is not None:
            self.steps.assign(self.steps + 1)
        output, hidden = self._watched(inputs, training)
        scores = scores_of(self.companions, hidden, training)
        errors = self._errors(hidden, inputs, training)
        return {"output": output, "companions": list(scores.values()), "errors": errors}

    def shipped_model(self):
        """Return the plain model that ships: `trunk`."""
        return self.trunk

    def supervised_model(self):
        """Return this model."""
        return self

    @property
    def losses(self):
        """The losses of trunk and decoders; a companion's regularizers are in its bracket."""
        # On JAX, Keras sets `_losses_override` to the losses of the running pass.
        decoding = (loss for decoder in self.decoders.values() for loss in decoder.losses)
        return self._losses_override or [*self.trunk.losses, *decoding]

    # The arguments of these two differ between the backends of Keras, but the data come last. On
    # each backend they call the model, and pass what it returns to `compute_loss` and
    # `compute_metrics`.
    def train_step(self, *arguments):
        *state, data = arguments
        data = self.with_class_weights(*unpacked(data))
        with self.with_companions():
            return super().train_step(*state, data)

    def test_step(self, *arguments):
        *state, data = arguments
        with self.with_companions():
            return super().test_step(*state, unpacked(data))

    def evaluate(self, *arguments, **keywords):
        with explaining_replicas(self):
            return super().evaluate(*arguments, **keywords)

    @contextlib.contextmanager
    def with_companions(self):
        """While active, `call` returns the output, companions' scores and decoders' errors."""
        self._with_companions.active = True
        try:
            yield
        finally:
            self._with_companions.active = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        def output_objective(y, output, sample_weight):
            return super(DeeplySupervised, self).compute_loss(x, y, output, sample_weight, training)

        if y is None and not self.decoders:
            raise ValueError(
                "DeeplySupervised without decoders learns from labels; received none. Give fit "
                "labels, or the model decoders."
            )
        if not isinstance(y_pred, dict):
            return output_objective(y, y_pred, sample_weight)
        if training:
            self.check_compiled(y_pred["output"])
        objective = self.objective(self.loss, output_objective, y, y_pred, sample_weight)
        return objective + self.decoding(y_pred, sample_weight)

    def objective(self, compiled_loss, output_objective, y, y_pred, sample_weight):
        """Return equation 3 for the model that trains this one: itself, or a `Distiller`.

        That model was compiled with `compiled_loss`. `output_objective(y, output, sample_weight)`
        computes its objective of the output alone, with the regularizers. `y_pred` is what `call`
        returns under `with_companions`.
        """
        output = y_pred["output"]
        examples = ops.cast(ops.shape(output)[0], "float32")
        y, label_weight, labelled = self._labels(y, output, sample_weight)
        # Losses of Keras have the type `keras.config.floatx()`.
        objective = ops.cast(output_objective(y, output, label_weight), "float32")
        output_loss = loss_object(compiled_loss)
        loss = ops.cast(output_loss(y, output, sample_weight=label_weight), "float32")
        self._log("output_loss", loss, examples, labelled)
        companion_loss = loss_object(self.companion_loss or compiled_loss)
        soft_loss = SoftTargets(self.temperature)
        for layer, scores in zip(self.companions, y_pred["companions"], strict=True):
            loss = ops.cast(companion_loss(y, scores, sample_weight=label_weight), "float32")
            self._log(f"{layer}_loss", loss, examples, labelled)
            if self.soft_weight:
                soft = soft_loss(output, scores, sample_weight=sample_weight)
                self._log(f"{layer}_soft_target_error", soft, examples)
                loss = (1 - self.soft_weight) * loss + self.soft_weight * soft
            bracket = self._bracket(layer, loss, examples)
            objective = objective + self.weight_now(layer) * bracket
        if self.synergy:
            heads = [output, *y_pred["companions"]]
            pairs = itertools.permutations(heads, 2)
            loss = sum(soft_loss(*pair, sample_weight=sample_weight) for pair in pairs)
            self._log("synergy_loss", loss, examples)
            objective = objective + self.synergy * loss
        return objective

    def decoding(self, y_pred, sample_weight):
        """Return the sum of the decoders' weighted errors; `y_pred` is as in `objective`."""
        total = 0.0
        for layer, errors in zip(self.decoders, y_pred["errors"], strict=True):
            error = Mean()(errors, errors, sample_weight=sample_weight)
            self._log(f"{layer}_decoding_error", error, ops.cast(ops.shape(errors)[0], "float32"))
            total = total + now(self.decoder_weight[layer], self.steps) * error
        return total

    def _log(self, name, loss, examples, counted=None):
        counted = examples if counted is None else counted
        # Keras has divided the loss by the number of all examples and of replicas.
        mean = ops.divide_no_nan(loss * examples * replicas(), counted)
        self._logs[name].update_state(mean, sample_weight=counted)

    def _bracket(self, layer, loss, examples):
        """Return this replica's share of [||w||^2 + l - threshold]_+ of equation 3."""
        regularization = sum(ops.sum(penalty) for penalty in self.companions[layer].losses)
        value = loss + (regularization - self.threshold.get(layer, 0.0)) / replicas()
        if layer not in self.threshold:
            return value
        # The mean over the whole batch decides. A replica's part of it may be small.
        on = sum_over_replicas(ops.stop_gradient(value) * examples) > 0
        self._logs[f"{layer}_gate"].update_state(ops.cast(on, "float32"))
        return ops.where(on, value, ops.zeros_like(value))

    def _labels(self, y, output, sample_weight):
        """Return labels, weights of the examples in label losses, and the number of labels.

        That number is None if every example has a label.
        """
        if not self.decoders:
            return y, sample_weight, None
        batch = ops.shape(output)[0]
        if y is None:
            y = ops.full((batch,), -1)
        y = ops.convert_to_tensor(y)
        if keras.backend.standardize_dtype(y.dtype) == "bool":
            y = ops.cast(y, "float32")
        known = ops.any(ops.reshape(y, (batch, -1)) >= 0, axis=-1)  # NaN >= 0 is False
        # A missing label becomes class 0: its weight is zero, but losses need a class.
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
        """Return labels, output and weights in which an image without a label does not count."""
        if not self.decoders:
            return y, output, sample_weight
        y, known, _ = self._labels(y, output, None)
        output = self._mask([output, known > 0])
        if sample_weight is not None:
            known = known * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return y, output, known

    def weight_now(self, layer):
        """Return the weight of a companion at this step."""
        return now(self.companion_weight[layer], self.steps)

    @property
    def head_metrics(self):
        """The metrics of every head."""
        return list(self._logs.values())

    def get_config(self):
        serialize = keras.saving.serialize_keras_object

        def weights(by_layer):
            return {layer: setting_to_config(weight) for layer, weight in by_layer.items()}

        return {
            "name": self.name,
            **self.frozen_config(),
            "model": serialize(self.trunk),
            "companions": {layer: serialize(head) for layer, head in self.companions.items()},
            "companion_weight": weights(self.companion_weight),
            "companion_loss": keras.losses.serialize(self.companion_loss)
            if self.companion_loss
            else None,
            "threshold": dict(self.threshold) or None,
            "soft_weight": self.soft_weight,
            "temperature": self.temperature,
            # Older models lack it, and keep their configuration and fingerprint.
            **({"synergy": self.synergy} if self.synergy else {}),
            "decoders": {layer: serialize(decoder) for layer, decoder in self.decoders.items()},
            "decoder_weight": weights(self.decoder_weight),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(value):
            return setting_from_config(value, custom_objects)

        config = dict(config)
        for key in ("companions", "companion_weight", "decoders", "decoder_weight"):
            config[key] = {layer: restore(value) for layer, value in config[key].items()}
        return cls(**{**config, "model": restore(config["model"])})


class _Mask(layers.Layer):
    """Attach a mask that the metrics of Keras respect: [scores, mask] -> scores."""

    def call(self, inputs):
        return ops.copy(inputs[0])

    def compute_mask(self, inputs, previous_mask):
        return inputs[1]
