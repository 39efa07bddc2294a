"""Teacher, student and knowledge are checked against each other, before the first step."""

import keras
from keras import layers

from zoo.objectives.probabilities import SIGMOID, SOFTMAX, ends, kinds_of
from zoo.objectives.soft_outputs import named
from zoo.objectives.taps import shapes
from zoo.objectives.wrapping import input_structure, shipped


def check_is_model(role, model):
    """Raise ValueError for what is no Keras model."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"The {role} is a Keras model; received {model!r}.")


def check_gives_logits(student):
    """Raise ValueError for a student that is no Keras model, or gives probabilities."""
    check_is_model("student", student)
    try:
        examples = symbolic_inputs(student)
    except ValueError:  # it is not built: its layers may show what it gives
        examples = None
    check_kinds("student", student, kinds_of(student, examples))


def check_kinds(role, student, kinds):
    """Raise ValueError if the outputs of a model that gives logits are of these other kinds."""
    for kind in kinds:
        if kind in (SOFTMAX, SIGMOID):
            raise ValueError(
                f"The {role} {student.name!r} gives probabilities, of a {kind}. A {role} gives "
                f"logits. {_way_to_logits(role, shipped(student))} Then compile it with a loss of "
                "from_logits=True."
            )


def _way_to_logits(role, student):
    """Return a sentence about how this model gives logits; its code calls the model by its role."""
    name = role if role.isidentifier() else "model"
    own = [each for each in getattr(student, "layers", ()) if each in ends(student)]
    if own and getattr(own[0], "activation", None) is not None:
        return (
            f"Take the activation away: {name}.get_layer({own[0].name!r}).activation = "
            "keras.activations.linear."
        )
    if own and isinstance(own[0], layers.Softmax):
        if isinstance(student, keras.Sequential):
            return f"Take its last layer away: {name}.pop()."
        return (
            f"End before its last layer: keras.Model({name}.inputs, "
            f"{name}.get_layer({own[0].name!r}).input)."
        )
    return "Leave the softmax or sigmoid out where it is made: return what goes into it."


def check_no_shared_weights(student, teacher):
    """Raise ValueError if teacher and student share a variable."""
    shared = {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    if student is teacher or shared:
        raise ValueError(
            f"The teacher {teacher.name!r} and the student share weights: it would teach itself. "
            "Give the student, or the teacher, weights of its own: keras.models.clone_model."
        )


def check_fit(student, teachers, knowledge, outputs, temperature):
    """Raise ValueError if a teacher or a knowledge does not fit the student.

    Runs one symbolic step, which also builds the connectors of the knowledge.

    Arguments:
        student: the student with taps, a `Watched`.
        teachers: the `Teachers`.
        knowledge, temperature: those of the `Distiller`.
        outputs: the `SoftOutputs`; None if no soft targets and no agreement compare the classes.
    """
    examples = symbolic_inputs(student.model)
    student_output, student_features = shapes(student, examples)
    student_features = {**student_features, "output": student_output}
    for teacher in teachers.watched:
        _check_inputs(teacher.model, examples)
        try:
            teacher_output, teacher_features = shapes(teacher, examples)
        except ValueError as error:
            raise ValueError(
                f"The teacher {teacher.model.name!r} does not take the student's examples, of "
                f"shape {_shapes_of(examples)}: {_why_refused(teacher.model, examples, error)}"
            ) from error
        if outputs is not None:
            pairs = outputs.pairs(teacher_output, student_output, teacher.model)
            _check_classes(pairs, outputs.class_map)
        teacher_features = {**teacher_features, "output": teacher_output}
    check_one_temperature(teachers, knowledge, temperature)
    for lesson in knowledge:
        lesson(
            [student_features[layer] for layer in lesson.student_layers],
            [teacher_features[layer] for layer in lesson.teacher_layers],
        )


def check_one_temperature(teachers, knowledge, temperature):
    """Raise ValueError for an ensemble, and a knowledge of another temperature."""
    for lesson in knowledge:
        own_temperature = getattr(lesson, "temperature", temperature)
        if len(teachers.models) > 1 and own_temperature != temperature:
            raise ValueError(
                f"The soft targets of an ensemble have one temperature, here {temperature}; "
                f"{type(lesson).__name__} has {own_temperature}. Give both the same."
            )


def _check_inputs(teacher, examples):
    """Raise ValueError if teacher or student take a dictionary, and the other does not take it."""
    if not getattr(shipped(teacher), "inputs", None):
        return
    taken = input_structure(teacher)
    if isinstance(taken, dict):
        fits = isinstance(examples, dict) and set(named(taken)) == set(named(examples))
    elif isinstance(examples, dict):  # Keras then finds the inputs of the teacher by their names
        fits = {tensor.name for tensor in keras.tree.flatten(taken)} <= set(examples)
    else:
        fits = True
    if not fits:
        raise ValueError(
            f"The teacher {teacher.name!r} takes {_inputs_of(taken)}, and the student "
            f"{_inputs_of(examples)}. Both receive the same examples. Give the inputs of both the "
            "same names, or put a model that takes the student's in front of the teacher: "
            "keras.Model(inputs, teacher(what it takes, made of the inputs))."
        )


def _inputs_of(tensors):
    """Return words about the structure of some inputs."""
    if isinstance(tensors, dict):
        return f"a dictionary of the inputs {', '.join(sorted(named(tensors)))}"
    flat = keras.tree.flatten(tensors)
    names = ", ".join(tensor.name for tensor in flat)
    return f"one input, {names}, and no dictionary" if len(flat) == 1 else f"a list of {names}"


def _check_classes(pairs, class_map):
    """Raise ValueError if the classes of a student's and a teacher's output do not fit."""
    if class_map is None:
        if any(teacher.shape[1:] != student.shape[1:] for _, teacher, student in pairs):
            teachers, students = ([pair[side] for pair in pairs] for side in (1, 2))
            raise ValueError(
                f"The student gives logits of shape {_shapes_of_all(students)}, the teacher "
                f"{_shapes_of_all(teachers)}. If their classes differ, give class_map="
                "{class of the student: class of the teacher} for the classes that are the same. "
                "With soft_weight=0 only the knowledge compares them."
            )
        return
    for _, teacher, student in pairs:
        for student_class, teacher_class in class_map.items():
            known = (
                0 <= student_class < student.shape[-1] and 0 <= teacher_class < teacher.shape[-1]
            )
            if not known:
                raise ValueError(
                    f"class_map has {student_class}: {teacher_class}; the student has the classes "
                    f"0 to {student.shape[-1] - 1}, the teacher 0 to {teacher.shape[-1] - 1}."
                )
    least = max(2 if activation == "softmax" else 1 for activation, _, _ in pairs)
    if len(class_map) < least:
        raise ValueError(f"class_map needs two classes or more; received {class_map}.")


def _shapes_of_all(tensors):
    """Return the shape of the only tensor, or those of all."""
    found = [tensor.shape for tensor in tensors]
    return found[0] if len(found) == 1 else found


def symbolic_inputs(model):
    """Return symbolic examples that the model takes, in the structure that it takes."""
    model = shipped(model)
    if getattr(model, "inputs", None):
        # The model's own inputs would keep a reference to the teacher that is called with them.
        return keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype, name=tensor.name),
            input_structure(model),
        )
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is None:
        raise ValueError(
            f"The student {model.name!r} is not built: call it on a batch of examples first."
        )
    return keras.tree.map_shape_structure(
        lambda sizes: keras.KerasTensor((None, *sizes[1:]), dtype="float32"), shape
    )


def _shapes_of(tensors):
    """Return the shapes of a structure of tensors."""
    return keras.tree.map_structure(lambda tensor: tensor.shape, tensors)


def _why_refused(teacher, examples, error):
    """Return what the teacher takes, if that is another shape; else the message of Keras."""
    if not getattr(shipped(teacher), "inputs", None):
        return error
    taken = input_structure(teacher)
    takes, given = keras.tree.flatten(taken), keras.tree.flatten(examples)
    if len(takes) > 1 or len(given) > 1:
        if _shapes_of(taken) == _shapes_of(examples):
            return error
        return (
            f"it takes {_shapes_of(taken)}. Put a model that takes what the student takes in front "
            "of it: keras.Model(inputs, teacher(what it takes, made of the inputs))."
        )
    wanted, given = takes[0].shape, given[0].shape
    if len(wanted) != len(given):
        return (
            f"it takes examples of shape {wanted}. Put a layer that reshapes them in front of it: "
            "keras.Sequential([keras.Input(...), keras.layers.Reshape(...), teacher])."
        )
    differing = [axis for axis in range(1, len(wanted)) if wanted[axis] not in (None, given[axis])]
    if not differing:
        return error
    text = f"it takes examples of shape {wanted}."
    if len(wanted) != 4:
        return f"{text} Put a layer that makes them in front of it, in a keras.Sequential."
    if wanted[-1] not in (None, given[-1]):
        return (
            f"{text} No resizing changes the number of channels. Give both images of {wanted[-1]} "
            "channels, or put a layer that makes them in front of it, in a keras.Sequential."
        )
    return (
        f"{text} Put a layer that resizes in front of it: keras.Sequential([keras.Input("
        f"{given[1:]}), keras.layers.Resizing({wanted[1]}, {wanted[2]}), teacher]). If the teacher "
        "is in a file, zoo.teachers.load(file, resize=True) does so."
    )
