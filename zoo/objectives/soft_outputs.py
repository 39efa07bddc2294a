"""The outputs that learn soft targets: which of teacher and student, and as what probabilities."""

import keras
from keras import ops

from zoo.losses import SoftTargets, binary_soft_target_loss, soft_target_loss
from zoo.objectives.teaching import ensemble_logits, two_or_more
from zoo.objectives.wrapping import shipped

_LOSSES = {"softmax": soft_target_loss, "sigmoid": binary_soft_target_loss}


class SoftOutputs:
    """The outputs of a student that learn from those of its teachers.

    Arguments:
        student: the student.
        activation: "softmax" or "sigmoid", of every output; or {name of an output: one of them}.
            Then only these learn, from the outputs of the same names.
        class_map: {class of the student: class of the teacher}, or None.

    Raises:
        ValueError: for another activation.
    """

    def __init__(self, student, activation, class_map):
        by_name = isinstance(activation, dict)
        for each in activation.values() if by_name else [activation]:
            if each not in _LOSSES:
                raise ValueError(
                    'activation is "softmax" for one class of several, "sigmoid" for independent '
                    'labels, or {name of an output: "softmax" or "sigmoid"}; received '
                    f"{activation!r}."
                )
        self.student, self.class_map = student, class_map
        self.activation = dict(activation) if by_name else activation

    def of(self, name):
        """Return the activation of an output; None if it learns no soft targets."""
        return self.activation.get(name) if isinstance(self.activation, dict) else self.activation

    def of_student(self, outputs):
        """Return {name: (activation, number of logits)} of the student's outputs."""
        outputs = named(outputs, self.student)
        return {name: (self.of(name), output.shape[-1]) for name, output in outputs.items()}

    def pairs(self, teacher_outputs, student_outputs, teacher=None):
        """Return a list of (activation, output of the teacher, output of the student).

        Arguments:
            teacher_outputs, student_outputs: structures of outputs.
            teacher: the teacher; None for outputs that came with the data.

        Raises:
            ValueError: for outputs that do not fit each other, or names that do not exist.
        """
        theirs, own = named(teacher_outputs, teacher), named(student_outputs, self.student)
        if isinstance(self.activation, dict):
            if (
                teacher is None
                and not isinstance(teacher_outputs, dict)
                and len(theirs) == len(own)
            ):
                theirs = dict(zip(own, theirs.values(), strict=True))
            if len(theirs) == len(self.activation) == 1:  # then its name does not matter
                theirs = dict(zip(self.activation, theirs.values(), strict=True))
            for role, outputs in (("student", own), ("teacher", theirs)):
                if missing := [name for name in self.activation if name not in outputs]:
                    raise ValueError(
                        f"activation names the outputs {', '.join(missing)}, which the {role} does "
                        f"not have; it has {', '.join(outputs)}."
                    )
            return [(kind, theirs[name], own[name]) for name, kind in self.activation.items()]
        keyed = isinstance(teacher_outputs, dict) and isinstance(student_outputs, dict)
        if len(own) != len(theirs) or (keyed and set(own) != set(theirs)):
            raise ValueError(
                f"The student has {_counted(own)} and the teacher {_counted(theirs)}. Each output "
                "of one learns from an output of the other, so they must be the same. If the "
                "teacher has only some of them, name these: "
                f"activation={dict.fromkeys(theirs, 'softmax')}."
            )
        pairs = zip(theirs.values(), own.values(), strict=True)
        return [(self.activation, *pair) for pair in pairs]

    def merged(self, members, teacher, weights, temperature):
        """Return the logits of an ensemble, from the outputs of its members.

        Arguments:
            members: the structures of outputs, one for each member.
            teacher: the first member.
            weights: those of the members, or None.
            temperature: the temperature at which probabilities are averaged.
        """
        if len(members) == 1:
            return members[0]
        names = keras.tree.pack_sequence_as(members[0], list(named(members[0], teacher)))
        return keras.tree.map_structure(
            lambda name, *logits: ensemble_logits(
                logits, temperature, weights=weights, activation=self.of(name) or "softmax"
            ),
            names,
            *members,
        )

    def loss(self, activation, temperature):
        """Return the loss of a pair of outputs."""
        return _MappedSoftTargets(activation, temperature, self.class_map)

    def compared(self, activation, teacher, student):
        """Return whether two outputs agree, 1 or 0, and their divergence, both by example.

        They agree in the most probable class, or in the labels that are more probable than not.
        """
        soft = self.loss(activation, 1.0)
        divergence = soft.call(teacher, student)
        teacher, student = soft.mapped(teacher, student)
        if activation == "softmax":
            same = ops.equal(ops.argmax(teacher, axis=-1), ops.argmax(student, axis=-1))
            return ops.cast(same, "float32"), divergence
        return ops.mean(ops.cast(ops.equal(teacher > 0, student > 0), "float32"), -1), divergence


class _MappedSoftTargets(SoftTargets):
    """`SoftTargets` of the classes or labels that student and teacher share.

    A single logit of a softmax is taken as the logit of the second of two classes.
    """

    def __init__(self, activation, temperature, class_map):
        super().__init__(temperature)
        self.activation, self.class_map = activation, class_map

    def call(self, y_true, y_pred):
        teacher, student = self.mapped(y_true, y_pred)
        return _LOSSES[self.activation](student, teacher, self.temperature)

    def mapped(self, teacher, student):
        """Return the logits of teacher and student for the classes that they share."""
        if self.activation == "softmax":
            teacher, student = two_or_more(teacher), two_or_more(student)
        if self.class_map is None:
            return teacher, student
        return (
            ops.take(teacher, list(self.class_map.values()), axis=-1),
            ops.take(student, list(self.class_map), axis=-1),
        )


def named(outputs, model=None):
    """Return {name: output}, in the order of `keras.tree.flatten`.

    The names are the keys of a dictionary, or those of the layers that make the outputs of a
    functional model, or numbers.
    """
    flat = keras.tree.flatten(outputs)
    if isinstance(outputs, dict):
        paths = (path for path, _ in keras.tree.flatten_with_path(outputs))
        names = ["/".join(map(str, path)) for path in paths]
    else:
        names = list(getattr(shipped(model), "output_names", None) or ())
    if len(set(names)) != len(flat):
        names = [str(number) for number in range(len(flat))]
    return dict(zip(names, flat, strict=True))


def _counted(outputs):
    return f"{len(outputs)} output{'s' if len(outputs) > 1 else ''}, {', '.join(outputs)},"
