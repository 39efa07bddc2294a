"""Teachers: what they say of examples, and whether they fit a student."""

import math

import keras
from keras import layers, ops

from zoo.losses import SoftTargets
from zoo.objectives.taps import Watched, find
from zoo.objectives.wrapping import shipped


class MappedSoftTargets(SoftTargets):
    """`SoftTargets` of the classes that student and teacher share.

    A single logit stands for the second of two classes.
    """

    def __init__(self, temperature, class_map):
        super().__init__(temperature)
        self.class_map = class_map

    def call(self, y_true, y_pred):
        return super().call(*self.mapped(y_true, y_pred))

    def mapped(self, teacher, student):
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
                f"{len(models)}, whose outputs alone can be averaged."
            )
        self.models = models
        self.watched = [watch(model, layers) for model in models]

    def __call__(self, examples, temperature):
        answers = [watched(examples, training=False) for watched in self.watched]
        logits = [keras.tree.map_structure(detached, answer) for answer, _ in answers]
        if len(answers) == 1:
            return logits[0], {k: ops.stop_gradient(v) for k, v in answers[0][1].items()}
        return keras.tree.map_structure(
            lambda *each: ensemble_logits(each, temperature), *logits
        ), {}


def ensemble_logits(logits, temperature):
    """The logits whose softmax at the temperature is the mean of the members' there.

    A list of (batch, classes) -> (batch, classes), float32. The cross-entropy with the mean of
    soft targets is the mean of the cross-entropies with each; that of averaged logits is not.
    """
    logs = [ops.log_softmax(two_or_more(ops.cast(z, "float32")) / temperature) for z in logits]
    return temperature * (ops.logsumexp(ops.stack(logs), axis=0) - math.log(len(logs)))


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


def symbolic_inputs(model):
    """Return symbolic examples that the model takes."""
    model = shipped(model)
    if getattr(model, "inputs", None):
        # Not the model's own, which would keep what is called with them, the teacher, for good.
        inputs = [keras.KerasTensor(each.shape, each.dtype) for each in model.inputs]
        return inputs[0] if len(inputs) == 1 else inputs
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is None:
        raise ValueError(
            f"The student {model.name!r} is not built: call it on a batch of examples first."
        )
    return keras.KerasTensor((None, *shape[1:]), dtype="float32")


def shapes_of(tensors):
    """Return the shapes of a structure of tensors."""
    return keras.tree.map_structure(lambda tensor: tensor.shape, tensors)


def why_refused(teacher, examples, error):
    """Return the reason in a line where it is another shape; else Keras' own message."""
    own = shapes_of(symbolic_inputs(teacher)) if getattr(shipped(teacher), "inputs", None) else None
    if own is None or None in own[1:] or own == shapes_of(examples):
        return error
    return (
        f"its own are of {own}. Put in front of it what makes its own of the student's: "
        "keras.Sequential([keras.Input(...), keras.layers.Resizing(64, 64), teacher])."
    )


def check_gives_logits(role, model):
    """Raise ValueError for what is no Keras model, or gives probabilities."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"The {role} is a Keras model; received {model!r}.")
    for layer in last_layers(model):
        activation = getattr(layer, "activation", None)
        squashes = activation in (keras.activations.softmax, keras.activations.sigmoid)
        if squashes or isinstance(layer, layers.Softmax):
            raise ValueError(
                f"The {role} {model.name!r} gives probabilities: its layer {layer.name!r} ends in "
                "a softmax or sigmoid. Distillation needs logits. Of keras.applications, "
                "classifier_activation=None makes them; of the probabilities p of a model, "
                "keras.Model(model.inputs, keras.ops.log(model.output + 1e-30)) does."
            )


def last_layers(model):
    """Return the layers that make the outputs, also within nested models."""
    model = shipped(model)
    if isinstance(model, keras.Sequential):
        last = model.layers[-1:]
    else:
        # An output may be that of an operation, such as keras.ops.log, which is no layer.
        named = {layer.name: layer for layer in getattr(model, "layers", ())}
        outputs = getattr(model, "output_names", None) or ()
        last = [named[name] for name in outputs if name in named]
    return [
        each
        for layer in last
        for each in (last_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]


def check_no_shared_weights(student, teacher):
    """Raise ValueError if teacher and student share a variable."""
    shared = {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    if student is teacher or shared:
        raise ValueError(
            f"The teacher {teacher.name!r} and the student share weights: it would teach itself. "
            "Give the student, or the teacher, weights of its own: keras.models.clone_model."
        )


def check_classes(student, teacher, class_map):
    """Raise ValueError if outputs or classes of student and teacher do not fit."""
    said, given = keras.tree.flatten(student), keras.tree.flatten(teacher)
    if len(said) != len(given):
        raise ValueError(
            f"The student has {len(said)} outputs and the teacher {len(given)}; they are paired."
        )
    if class_map is None:
        if any(a.shape[1:] != b.shape[1:] for a, b in zip(said, given, strict=True)):
            raise ValueError(
                f"The student gives logits of shape {shapes_of(student)}, the teacher "
                f"{shapes_of(teacher)}. Where their classes differ, "
                "class_map={class of the student: class of the teacher} says which are the same."
            )
        return
    for a, b in zip(said, given, strict=True):
        for one, other in class_map.items():
            if not (0 <= one < a.shape[-1] and 0 <= other < b.shape[-1]):
                raise ValueError(
                    f"class_map has {one}: {other}; the student has the classes 0 to "
                    f"{a.shape[-1] - 1}, the teacher 0 to {b.shape[-1] - 1}."
                )
    if len(class_map) < 2:
        raise ValueError(f"class_map is of two classes or more; received {class_map}.")
