"""The class that every knowledge derives from."""

import math

from keras import layers, ops

from zoo.freezing import freeze_held_layers


class Knowledge(layers.Layer):
    """A lesson: layers of the student and the teacher, and a loss of their outputs.

    Arguments:
        student, teacher: the name of a layer, or a sequence of names. "output" is the model's
            output, the logits; "backbone/conv3" is a layer of the model "backbone" within.
        weight: a number, 0 or more.

    Raises:
        ValueError: for a weight that is negative or not finite, or numbers of layers that differ;
            when the Distiller is made, for features that do not fit.
    """

    needs_labels = False

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"The weight of {type(self).__name__} is {weight}; it is a finite number >= 0."
            )
        self.student_layers = names_of(student)
        self.teacher_layers = names_of(teacher)
        self.weight = weight
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"{type(self).__name__} pairs layers of the student with as many layers of the "
                f"teacher; received {', '.join(self.student_layers)} and "
                f"{', '.join(self.teacher_layers)}."
            )

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
            "weight": self.weight,
        }

    def refuse(self, names, student, teacher, expected):
        """Raise ValueError: these two layers have these shapes, and others were expected."""
        raise ValueError(
            f"{type(self).__name__} received {names[0]!r} of the student, {student}, and "
            f"{names[1]!r} of the teacher, {teacher}; it expects {expected}."
        )


def names_of(names):
    """Return a tuple of names: those given, or the only one."""
    return (names,) if isinstance(names, str) else tuple(names)


def are_maps(*shapes):
    """Whether all shapes are those of maps, (batch, h, w, c), of known sizes."""
    return all(len(shape) == 4 and None not in shape[1:] for shape in shapes)
