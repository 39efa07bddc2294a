"""Teachers give soft targets: the logits of one model, or those of an ensemble."""

import keras
from keras import ops

from zoo.losses import SoftTargets
from zoo.objectives.taps import Watched, find
from zoo.objectives.wrapping import shipped


class MappedSoftTargets(SoftTargets):
    """`SoftTargets` of the classes that student and teacher share.

    A single logit is taken as the logit of the second of two classes.
    """

    def __init__(self, temperature, class_map):
        super().__init__(temperature)
        self.class_map = class_map

    def call(self, y_true, y_pred):
        return super().call(*self.mapped(y_true, y_pred))

    def mapped(self, teacher, student):
        """Return the logits of teacher and student for the classes that they share."""
        teacher, student = two_or_more(teacher), two_or_more(student)
        if self.class_map is None:
            return teacher, student
        return (
            ops.take(teacher, list(self.class_map.values()), axis=-1),
            ops.take(student, list(self.class_map), axis=-1),
        )


class Teachers:
    """One teacher or an ensemble. Examples -> (logits at a temperature, outputs of layers)."""

    def __init__(self, models, layers):
        if len(models) > 1 and layers:
            raise ValueError(
                f"Knowledge of the layers {', '.join(layers)} takes one teacher; received "
                f"{len(models)}. Only the outputs of an ensemble can be averaged."
            )
        self.models = models
        self.watched = [watch(model, layers) for model in models]

    def __call__(self, examples, temperature):
        answers = [watched(examples, training=False) for watched in self.watched]
        logits = [keras.tree.map_structure(detached, output) for output, _ in answers]
        if len(answers) == 1:
            features = answers[0][1]
            return logits[0], {layer: ops.stop_gradient(features[layer]) for layer in features}
        return keras.tree.map_structure(
            lambda *members: ensemble_logits(members, temperature), *logits
        ), {}


def ensemble_logits(logits, temperature):
    """Return logits whose softmax at the temperature is the mean of the members' softmaxes.

    A list of (batch, classes) -> (batch, classes), float32, of which the largest of an example is
    0. The cross-entropy with the mean of soft targets is the mean of the cross-entropies with each.
    The cross-entropy with averaged logits is not.
    """
    scaled = [two_or_more(ops.cast(z, "float32")) / temperature for z in logits]
    scaled = ops.stack([z - _log_mean_exp(z, axis=-1) for z in scaled])
    mean = temperature * ops.squeeze(_log_mean_exp(scaled, axis=0), 0)
    return mean - ops.max(mean, axis=-1, keepdims=True)


def _log_mean_exp(values, axis):
    """Return the logarithm of the mean of the exponentials, exact also for values near 0."""
    largest = ops.max(values, axis=axis, keepdims=True)
    less = ops.mean(ops.expm1(values - largest), axis=axis, keepdims=True)
    mean = ops.mean(ops.exp(values - largest), axis=axis, keepdims=True)
    return largest + ops.where(less > -0.5, ops.log1p(ops.maximum(less, -0.5)), ops.log(mean))


def layers_to_watch(knowledge, attribute):
    """Return the names of layers in this attribute of every knowledge, without repetition."""
    names = (layer for lesson in knowledge for layer in getattr(lesson, attribute))
    return [name for name in dict.fromkeys(names) if name != "output"]


def watch(model, names):
    """Return the model with taps on its layers of these names."""
    return Watched(model, {name: find(shipped(model), name) for name in names})


def detached(logits):
    """Return the logits in float32, without a gradient."""
    return ops.stop_gradient(ops.cast(logits, "float32"))


def two_or_more(logits):
    """Return two logits for one, since softmax([0, z]) is sigmoid(z)."""
    if logits.shape[-1] != 1:
        return logits
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
