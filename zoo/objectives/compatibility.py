"""Teacher, student and knowledge are checked against each other, before the first step."""

import keras
from keras import layers

from zoo.objectives.taps import shapes
from zoo.objectives.wrapping import shipped


def check_gives_logits(role, model):
    """Raise ValueError for what is no Keras model, or gives probabilities."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"The {role} is a Keras model; received {model!r}.")
    for layer in _last_layers(model):
        activation = getattr(layer, "activation", None)
        squashes = activation in (keras.activations.softmax, keras.activations.sigmoid)
        if squashes or isinstance(layer, layers.Softmax):
            raise ValueError(
                f"The {role} {model.name!r} gives probabilities: its layer {layer.name!r} ends in "
                "a softmax or sigmoid. Distillation needs logits. Build a model of "
                "keras.applications with classifier_activation=None. For any other model, take the "
                "logarithm: keras.Model(model.inputs, keras.ops.log(model.output + 1e-30))."
            )


def check_no_shared_weights(student, teacher):
    """Raise ValueError if teacher and student share a variable."""
    shared = {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    if student is teacher or shared:
        raise ValueError(
            f"The teacher {teacher.name!r} and the student share weights: it would teach itself. "
            "Give the student, or the teacher, weights of its own: keras.models.clone_model."
        )


def check_fit(student, teachers, knowledge, class_map, temperature):
    """Raise ValueError if a teacher or a knowledge does not fit the student.

    Runs one symbolic step, which also builds the connectors of the knowledge.

    Arguments:
        student: the student with taps, a `Watched`.
        teachers: the `Teachers`.
        knowledge, class_map, temperature: those of the `Distiller`.
    """
    examples = symbolic_inputs(student.model)
    student_output, student_features = shapes(student, examples)
    student_features = {**student_features, "output": student_output}
    for teacher in teachers.watched:
        try:
            teacher_output, teacher_features = shapes(teacher, examples)
        except ValueError as error:
            raise ValueError(
                f"The teacher {teacher.model.name!r} does not take the student's examples, of "
                f"shape {_shapes_of(examples)}: {_why_refused(teacher.model, examples, error)}"
            ) from error
        _check_classes(student_output, teacher_output, class_map)
        teacher_features = {**teacher_features, "output": teacher_output}
    for lesson in knowledge:
        own_temperature = getattr(lesson, "temperature", temperature)
        if len(teachers.models) > 1 and own_temperature != temperature:
            raise ValueError(
                f"The soft targets of an ensemble have one temperature, here {temperature}; "
                f"{type(lesson).__name__} has {own_temperature}. Give both the same."
            )
        lesson(
            [student_features[layer] for layer in lesson.student_layers],
            [teacher_features[layer] for layer in lesson.teacher_layers],
        )


def _check_classes(student, teacher, class_map):
    """Raise ValueError if outputs or classes of student and teacher do not fit."""
    student_outputs, teacher_outputs = keras.tree.flatten(student), keras.tree.flatten(teacher)
    if len(student_outputs) != len(teacher_outputs):
        raise ValueError(
            f"The student has {len(student_outputs)} outputs and the teacher "
            f"{len(teacher_outputs)}. Each output of one learns from an output of the other, so "
            "the numbers must be equal."
        )
    pairs = list(zip(student_outputs, teacher_outputs, strict=True))
    if class_map is None:
        if any(one.shape[1:] != other.shape[1:] for one, other in pairs):
            raise ValueError(
                f"The student gives logits of shape {_shapes_of(student)}, the teacher "
                f"{_shapes_of(teacher)}. If their classes differ, give class_map="
                "{class of the student: class of the teacher} for the classes that are the same."
            )
        return
    for one, other in pairs:
        for student_class, teacher_class in class_map.items():
            known = 0 <= student_class < one.shape[-1] and 0 <= teacher_class < other.shape[-1]
            if not known:
                raise ValueError(
                    f"class_map has {student_class}: {teacher_class}; the student has the classes "
                    f"0 to {one.shape[-1] - 1}, the teacher 0 to {other.shape[-1] - 1}."
                )
    if len(class_map) < 2:
        raise ValueError(f"class_map needs two classes or more; received {class_map}.")


def symbolic_inputs(model):
    """Return symbolic examples that the model takes."""
    model = shipped(model)
    if getattr(model, "inputs", None):
        # The model's own inputs would keep a reference to the teacher that is called with them.
        inputs = [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in model.inputs]
        return inputs[0] if len(inputs) == 1 else inputs
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is None:
        raise ValueError(
            f"The student {model.name!r} is not built: call it on a batch of examples first."
        )
    return keras.KerasTensor((None, *shape[1:]), dtype="float32")


def _shapes_of(tensors):
    """Return the shapes of a structure of tensors."""
    return keras.tree.map_structure(lambda tensor: tensor.shape, tensors)


def _why_refused(teacher, examples, error):
    """Return one line if the teacher takes another shape; else the message of Keras."""
    expected = None
    if getattr(shipped(teacher), "inputs", None):
        expected = _shapes_of(symbolic_inputs(teacher))
    if expected is None or None in expected[1:] or expected == _shapes_of(examples):
        return error
    return (
        f"it takes examples of shape {expected}. Put a layer that converts them in front of it: "
        "keras.Sequential([keras.Input(...), keras.layers.Resizing(64, 64), teacher])."
    )


def _last_layers(model):
    """Return the layers that make the outputs, also within nested models."""
    model = shipped(model)
    if isinstance(model, keras.Sequential):
        last = model.layers[-1:]
    else:
        # An operation, such as keras.ops.log, may make an output. It is no layer.
        by_name = {layer.name: layer for layer in getattr(model, "layers", ())}
        outputs = getattr(model, "output_names", None) or ()
        last = [by_name[name] for name in outputs if name in by_name]
    inner = []
    for layer in last:
        inner += _last_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return inner
