"""The data of a distillation step: the targets, and the outputs of the student."""

import contextlib
from typing import NamedTuple

import keras

# TensorFlow's errors when one replica has no example of a batch and another has.
_EMPTY_PART = ("AddN must have", "input depth must be evenly divisible by filter depth")


class Targets(NamedTuple):
    """The labels of a step, together with the outputs of the teacher."""

    labels: object
    logits: list  # of each teacher, or those of the data: a tensor or a structure; empty if unused
    features: dict  # the outputs of the teacher's layers, by name


class Pass(NamedTuple):
    """The outputs of one pass through the student."""

    outputs: object  # the student's output, or the dictionary of a DeeplySupervised in a step
    features: dict  # the outputs of the student's layers, by name


def unpacked(data):
    """Return (x, y, sample_weight) of the data of a step.

    Raises:
        ValueError: for a tensor of which not even the number of dimensions is known.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    sample_weight = weights_of(sample_weight)
    parts = {"examples": x, "labels": y, "sample weights": sample_weight}
    for part, tensors in parts.items():
        shapes = [getattr(tensor, "shape", None) for tensor in keras.tree.flatten(tensors)]
        # Only a shape of TensorFlow has a rank, which may be None.
        if any(getattr(shape, "rank", 0) is None for shape in shapes):
            raise ValueError(
                f"The {part} come without a shape. Give tf.data.Dataset.from_generator an "
                "output_signature, such as tf.TensorSpec((None, 32, 32, 3), tf.float32) for images."
            )
    return x, y, sample_weight


def weights_of(sample_weight):
    """Return the weights of the examples. For arrays Keras repeats them for every entry of y."""
    if isinstance(sample_weight, dict) and "teacher_logits" in sample_weight:
        return sample_weight["teacher_logits"]
    return sample_weight


@contextlib.contextmanager
def explaining_replicas(model):
    """Say which batches Keras takes on several replicas, if TensorFlow fails on an empty part."""
    try:
        yield
    except Exception as error:
        replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
        if replicas == 1 or not any(words in str(error) for words in _EMPTY_PART):
            raise
        raise ValueError(
            f"Keras cannot evaluate these batches on {replicas} replicas. Each batch, the last one "
            f"too, needs a multiple of {replicas} examples; zoo.distribute.evaluate takes others."
        ) from error


def labels_of(y):
    """Return the labels alone of targets, or of data with soft targets; None without labels."""
    if isinstance(y, Targets):
        return y.labels
    return y.get("labels") if isinstance(y, dict) and "teacher_logits" in y else y


def output_of(outputs):
    """Return the output alone of what a DeeplySupervised returns in a step."""
    return outputs["output"] if isinstance(outputs, dict) and "companions" in outputs else outputs


def losses_of_examples(knowledge, targets, logits, student_pass):
    """Return the losses (batch,) of a knowledge.

    They come from the targets, the logits of the teacher or ensemble, and the student's pass.
    """
    if knowledge.needs_labels and targets.labels is None:
        raise ValueError(
            f"{type(knowledge).__name__} needs labels; received none. Train it on labelled data."
        )
    teacher_features = {**targets.features, "output": logits}
    student_features = {**student_pass.features, "output": output_of(student_pass.outputs)}
    missing = [layer for layer in knowledge.teacher_layers if layer not in teacher_features]
    if missing:
        raise ValueError(
            f"{type(knowledge).__name__} needs the outputs of the teacher's layers "
            f"{', '.join(missing)}. Cached soft targets do not have them: give the Distiller its "
            "teacher."
        )
    return knowledge(
        [student_features[layer] for layer in knowledge.student_layers],
        [teacher_features[layer] for layer in knowledge.teacher_layers],
        labels=targets.labels,
    )
