"""The class that every knowledge derives from."""

import math

import keras
from keras import layers, ops

from zoo.freezing import freeze_held_layers
from zoo.objectives import settings


class Knowledge(layers.Layer):
    """A lesson: layers of the student and the teacher, and a loss of their outputs.

    Arguments:
        student, teacher: the name of a layer, or a sequence of names. "output" is the model's
            output, the logits; "backbone/conv3" is a layer of the model "backbone" within.
        weight: a number, 0 or more, or a schedule of the step, as in `Distiller`. Losses differ in
            size by a factor of 10,000 and more, so each class names the weight that its authors
            use.

    Raises:
        ValueError: for a weight that is negative or not finite, or numbers of layers that differ;
            when the Distiller is made, for features that do not fit, or a layer of several outputs.
    """

    needs_labels = False

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        settings.check_weight(f"weight of {type(self).__name__}", weight)
        self.student_layers = names_of(student)
        self.teacher_layers = names_of(teacher)
        self.weight = weight
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"{type(self).__name__} pairs layers of the student with as many layers of the "
                f"teacher; received {', '.join(self.student_layers)} and "
                f"{', '.join(self.teacher_layers)}."
            )

    def __call__(self, student, teacher, **keywords):
        # Before Keras takes the shapes, which must be one for each layer.
        for names, features in ((self.student_layers, student), (self.teacher_layers, teacher)):
            for name, feature in zip(names, features, strict=True):
                if keras.tree.is_nested(feature):
                    raise ValueError(
                        f"{type(self).__name__} compares tensors, and {name!r} gives "
                        f"{len(keras.tree.flatten(feature))} of them. Name the layer that makes "
                        "one, and give each its own knowledge."
                    )
        return super().__call__(student, teacher, **keywords)

    def build(self, student_shape, teacher_shape):
        for names, shapes in zip(
            zip(self.student_layers, self.teacher_layers, strict=True),
            zip(student_shape, teacher_shape, strict=True),
            strict=True,
        ):
            self.connect(names, *map(tuple, shapes))
        freeze_held_layers(self)

    def connect(self, names, student, teacher):
        """Check the shapes of a pair of features, and make their connector, if they need one."""
        if student[1:] != teacher[1:]:
            self.refuse(names, student, teacher, "features of one shape")

    def call(self, student, teacher, labels=None):
        teacher = [ops.stop_gradient(ops.cast(features, "float32")) for features in teacher]
        student = [ops.cast(features, "float32") for features in student]
        return self.loss(student, teacher, labels)

    def loss(self, student, teacher, labels):
        """Return the sum over the pairs of features: two lists of features -> (batch,)."""
        return sum(self.of_pair(*pair) for pair in zip(student, teacher, strict=True))

    def compute_output_shape(self, student_shape, teacher_shape):
        return (student_shape[0][0],)

    def get_config(self):
        return {
            **super().get_config(),
            "student": list(self.student_layers),
            "teacher": list(self.teacher_layers),
            "weight": settings.setting_to_config(self.weight),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "weight": settings.setting_from_config(config.get("weight", 1.0))})

    def refuse(self, names, student, teacher, expected):
        """Raise ValueError: these two layers have these shapes, and others were expected."""
        raise ValueError(
            f"{type(self).__name__} received {names[0]!r} of the student, {student}, and "
            f"{names[1]!r} of the teacher, {teacher}; it expects {expected}."
        )


class OfMaps(Knowledge):
    """A knowledge of maps, (batch, h, w, c), of any sizes. Only the channels must be known."""

    same_channels = False

    def connect(self, names, student, teacher):
        if any(len(shape) != 4 or shape[-1] is None for shape in (student, teacher)):
            self.refuse(names, student, teacher, "two maps of known channels")
        if self.same_channels and student[-1] != teacher[-1]:
            self.refuse(names, student, teacher, "two maps with a channel for each class")


def check_weight(name, value):
    """Raise ValueError, with this name, for a weight that is negative or not finite."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"The {name} is {value}; it is a finite number >= 0.")


def names_of(names):
    """Return a tuple of names: those given, or the only one."""
    return (names,) if isinstance(names, str) else tuple(names)


def connector(number, name, width, student, **keywords):
    """Return a built layer that brings a student's features, of this shape, to a width."""
    name = f"{name}{number}"
    if len(student) == 4:
        layer = layers.Conv2D(
            width, 1, data_format="channels_last", name=name, dtype="float32", **keywords
        )
    else:
        layer = layers.Dense(width, name=name, dtype="float32", **keywords)
    layer.build(student)
    return layer


def check_size(name, value):
    """Raise ValueError, with this name, for a value that is not a whole number, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"The {name} is {value!r}; it is a whole number, 1 or more.")


def class_numbers(labels, classes):
    """Return the true classes as whole numbers, (batch,), and which examples have one.

    Labels are whole numbers, (batch,) or (batch, 1), or rows, (batch, classes). A number that is no
    class becomes 0, because `one_hot` would return zeros, or raise an error on PyTorch.
    """
    labels = ops.cast(ops.convert_to_tensor(labels), "float32")  # they may be bool or NaN
    if len(labels.shape) == 2:
        rows = labels.shape[-1] == classes and classes > 1
        labels = ops.argmax(labels, axis=-1) if rows else ops.squeeze(labels, -1)
    known = (labels >= 0) & (labels < classes)
    return ops.cast(ops.where(known, labels, ops.zeros_like(labels)), "int32"), known
