"""Teachers give soft targets: the logits of one model, or those of an ensemble."""

import math

import keras
from keras import ops

from zoo.objectives.probabilities import UNKNOWN, kinds_of, logits_from, say_what_is_taken
from zoo.objectives.taps import Watched, find
from zoo.objectives.wrapping import shipped


class Teachers:
    """One teacher or an ensemble. Examples -> (the logits of each, outputs of layers)."""

    def __init__(self, models, layers):
        if len(models) > 1 and layers:
            raise ValueError(
                f"Knowledge of the layers {', '.join(layers)} takes one teacher; received "
                f"{len(models)}. Only the outputs of an ensemble can be averaged."
            )
        self.models = models
        self.watched = [watch(model, layers) for model in models]
        self.kinds = [[UNKNOWN]] * len(models)

    def recognize(self, examples):
        """Find which teachers give probabilities, and warn of them.

        Arguments:
            examples: symbolic examples that all teachers take.
        """
        self.kinds = [kinds_of(model, examples) for model in self.models]
        for model, kinds in zip(self.models, self.kinds, strict=True):
            say_what_is_taken(f"The teacher {model.name!r}", kinds)

    def __call__(self, examples):
        answers = [watched(examples, training=False) for watched in self.watched]
        logits = [
            detached_logits(kinds, output)
            for kinds, (output, _) in zip(self.kinds, answers, strict=True)
        ]
        # An ensemble has no watched layers.
        return logits, {k: ops.stop_gradient(v) for k, v in answers[0][1].items()}


def ensemble_logits(logits, temperature, *, weights=None, activation="softmax"):
    """Return logits whose probabilities at the temperature are the mean of the members'.

    A list of (batch, classes) -> (batch, classes), float32, of which the largest of an example is
    0. With the activation "sigmoid", (batch, labels) -> (batch, labels), float32. The cross-entropy
    with the mean of soft targets is the mean of the cross-entropies with each. The cross-entropy
    with averaged logits is not. `weights` are those of the members in the mean, relative to one
    another; None for equal ones.

    Raises:
        ValueError: for weights that are not one finite number >= 0 for each member, or all 0.
    """
    if activation == "sigmoid":  # of each label the classes "has not" and "has"
        classes = [ops.expand_dims(z, -1) for z in logits]
        mean = ensemble_logits(classes, temperature, weights=weights)
        return mean[..., 1] - mean[..., 0]
    if weights is not None:
        weights = relative(weights, len(logits))
        logits = [z for z, weight in zip(logits, weights, strict=True) if weight]
        column = [weight for weight in weights if weight]
        weights = ops.reshape(
            ops.convert_to_tensor(column, "float32"), (-1, *[1] * len(logits[0].shape))
        )
    scaled = [two_or_more(ops.cast(z, "float32")) / temperature for z in logits]
    scaled = ops.stack([z - _log_mean_exp(z, axis=-1) for z in scaled])
    mean = temperature * ops.squeeze(_log_mean_exp(scaled, axis=0, weights=weights), 0)
    return mean - ops.max(mean, axis=-1, keepdims=True)


def relative(weights, count):
    """Return the weights of the members of an ensemble, divided by their sum."""
    weights = list(weights)
    finite = all(0 <= weight < math.inf for weight in weights)
    if len(weights) != count or not finite or not sum(weights):
        raise ValueError(
            f"An ensemble of {count} has {count} weights, finite numbers >= 0 that are not all 0; "
            f"received {weights}."
        )
    return [weight / sum(weights) for weight in weights]


def _log_mean_exp(values, axis, weights=None):
    """Return the logarithm of the mean of the exponentials, exact also for values near 0.

    `weights` are those of the values in the mean, of sum 1; None for equal ones.
    """

    def mean_of(exponentials):
        if weights is None:
            return ops.mean(exponentials, axis=axis, keepdims=True)
        return ops.sum(weights * exponentials, axis=axis, keepdims=True)

    largest = ops.max(values, axis=axis, keepdims=True)
    less, mean = mean_of(ops.expm1(values - largest)), mean_of(ops.exp(values - largest))
    return largest + ops.where(less > -0.5, ops.log1p(ops.maximum(less, -0.5)), ops.log(mean))


def layers_to_watch(knowledge, attribute):
    """Return the names of layers in this attribute of every knowledge, without repetition."""
    for lesson in knowledge:
        if not hasattr(lesson, attribute):
            raise ValueError(
                f"knowledge is a list of objects of zoo.knowledge; received {lesson!r}. Derive a "
                "class of your own from zoo.knowledge.Knowledge, and give an object of it."
            )
    names = (layer for lesson in knowledge for layer in getattr(lesson, attribute))
    return [name for name in dict.fromkeys(names) if name != "output"]


def watch(model, names):
    """Return the model with taps on its layers of these names."""
    return Watched(model, {name: find(shipped(model), name) for name in names})


def detached_logits(kinds, outputs):
    """Return the logits that outputs of these kinds stand for, in float32, without a gradient."""
    flat = keras.tree.flatten(outputs)
    kinds = kinds if len(kinds) == len(flat) else [UNKNOWN] * len(flat)
    logits = [logits_from(kind, values) for kind, values in zip(kinds, flat, strict=True)]
    return keras.tree.pack_sequence_as(
        outputs, [ops.stop_gradient(ops.cast(values, "float32")) for values in logits]
    )


def two_or_more(logits):
    """Return two logits for one, since softmax([0, z]) is sigmoid(z)."""
    if logits.shape[-1] != 1:
        return logits
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
