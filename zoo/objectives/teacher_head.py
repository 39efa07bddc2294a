"""SimKD: a student that ends in the layers of its teacher."""

import keras
from keras import layers

from zoo.objectives.compatibility import check_kinds
from zoo.objectives.knowledge.base import check_size
from zoo.objectives.probabilities import kinds_of
from zoo.objectives.taps import find
from zoo.objectives.wrapping import input_structure, shipped


def with_teacher_head(
    student, teacher, *, student_layer, teacher_layer, factor=2, name="with_teacher_head"
):
    """Build a student that ends in a frozen copy of the teacher's last layers (SimKD).

    The model takes what the student takes, and gives what the teacher gives. It is an ordinary
    functional Keras model of three parts:

    * the student's own layers up to `student_layer`, whose maps are (batch, h, w, c);
    * the layer "projector": convolutions of 1 x 1, 3 x 3 and 1 x 1 without biases, with batch
      normalization and a ReLU after each, (batch, h, w, c) -> (batch, h', w', d), where the
      teacher's maps have d channels. The first two have d // factor filters. Maps that are larger
      than the teacher's are averaged down to their size first;
    * the layer "teacher_head": a copy of what follows `teacher_layer` in the teacher. It keeps the
      teacher's weights, it is not trainable, and it predicts without dropout.

    The projected maps learn the teacher's maps, and nothing else is learned:

        small = zoo.nin((32, 32, 3), 10, width=0.25)
        model = zoo.with_teacher_head(
            small, large, student_layer="mlpconv3", teacher_layer="mlpconv3"
        )
        lesson = zoo.knowledge.MapRegression("projector", "mlpconv3")
        distiller = zoo.Distiller(
            student=model, teacher=large, soft_weight=0, label_weight=0, knowledge=[lesson]
        )
        distiller.compile("sgd", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
        distiller.fit(images, labels)

    Chen et al., Knowledge Distillation with the Reused Teacher Classifier, arXiv:2203.14001,
    and the authors' code, with its factor of 2 and its weight of 1 on the maps alone.
    They take the maps before the last pooling. The projected maps are 0 or more, so a
    `teacher_layer` that ends in a ReLU can be matched. The new weights begin as Keras begins.

    The teacher is not changed. It may take images of another size: only its last layers are here,
    and they take maps of the projector's size. The Distiller gives both the same images, so put
    `keras.layers.Resizing` in front of such a teacher, as the Distiller says.

    Arguments:
        student, teacher: functional or sequential models that are built.
        student_layer, teacher_layer: names of layers that give maps of known sizes and channels.
        factor: how many times narrower than the teacher's maps the projector is in its middle, 1
            or more.
        name: the name of the model.

    Raises:
        ValueError: for a student or teacher of another kind; for a teacher that gives
            probabilities, since a student gives logits; for a layer that does not exist, runs
            more than once, or gives no such maps; for a teacher whose later layers take more than
            these maps, or do not take maps of the projector's size; for a factor that is not a
            whole number from 1 to d.
    """
    check_size("factor of with_teacher_head", factor)
    source = _maps("student", student, student_layer)
    target = _maps("teacher", teacher, teacher_layer)
    check_kinds("teacher", teacher, kinds_of(teacher))
    if factor > target.shape[-1]:
        raise ValueError(
            f"The factor of with_teacher_head is {factor}; {teacher_layer!r} has "
            f"{target.shape[-1]} channels, and the factor is no larger."
        )
    projected = _projector(source.shape, target.shape, factor)(source)
    head = _head(shipped(teacher), teacher_layer, projected.shape)
    logits = head(projected, training=False)
    return keras.Model(input_structure(shipped(student)), logits, name=name)


def _maps(role, model, name):
    """Return the symbolic output of a layer; raise ValueError if it gives no maps."""
    model = shipped(model)
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            f"with_teacher_head received the {role} {model!r}; it is a functional or sequential "
            "Keras model that is built, because other models do not show what follows a layer."
        )
    layer = find(model, name)
    if not any(layer is own for own in model.layers):
        raise ValueError(
            f"with_teacher_head received {name!r} of the {role}, a layer within a layer. Name a "
            f"layer of the {role} itself, or give the model {name.partition('/')[0]!r}."
        )
    try:
        maps = layer.output
    except AttributeError as error:  # several outputs, or none
        raise ValueError(
            f"with_teacher_head received {name!r} of the {role}, which runs more than once, or not "
            "as a layer of this model alone. Name a layer that runs once."
        ) from error
    shapes = [tuple(each.shape) for each in keras.tree.flatten(maps)]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        raise ValueError(
            f"with_teacher_head received {name!r} of the {role}, which gives {shapes}; it expects "
            "maps (batch, h, w, c) of known sizes and channels."
        )
    return maps


def _projector(student, teacher, factor):
    """Return the layers that make the teacher's maps of the student's; both are shapes."""
    size = tuple(map(min, student[1:3], teacher[1:3]))
    steps = [keras.Input(student[1:])]
    if size != tuple(student[1:3]):
        pool = layers.AdaptiveAveragePooling2D(size, "channels_last", name="pool")
        steps.append(pool)
    middle = teacher[-1] // factor
    for number, (width, window) in enumerate(((middle, 1), (middle, 3), (teacher[-1], 1)), 1):
        steps += [
            layers.Conv2D(
                width,
                window,
                padding="same",
                data_format="channels_last",
                use_bias=False,
                name=f"conv{number}",
            ),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{number}"),
            layers.ReLU(name=f"relu{number}"),
        ]
    return keras.Sequential(steps, name="projector")


def _head(teacher, layer, shape):
    """Return a frozen copy of the layers behind a layer; `shape` is that of the maps it gets."""
    whole = keras.models.clone_model(teacher)
    whole.set_weights(teacher.get_weights())
    outputs = whole.outputs[0] if len(whole.outputs) == 1 else whole.outputs
    # A model that begins within another adds calls to the layers. So the copy is taken apart.
    try:
        behind = keras.Model(whole.get_layer(layer).output, outputs, name="teacher_head")
    except ValueError as error:
        raise ValueError(
            f"The layers of the teacher {teacher.name!r} behind {layer!r} take more than its "
            "output. Name a layer through which everything goes, such as the last one before the "
            "pooling."
        ) from error
    maps = keras.Input(shape[1:], name="maps", dtype=behind.inputs[0].dtype)
    try:
        head = keras.models.clone_model(behind, input_tensors=maps)
        head.set_weights(behind.get_weights())
    except ValueError as error:
        raise ValueError(
            f"The layers of the teacher {teacher.name!r} behind {layer!r} do not take maps of "
            f"{shape[1]} x {shape[2]}, the smaller of the student's and the teacher's. Name a "
            "layer of the student that gives maps as large as the teacher's."
        ) from error
    head.trainable = False
    return head
