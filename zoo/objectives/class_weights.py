"""Class weights become weights of the examples within a step, where all forms of data are alike."""

import contextlib

import keras
from keras import ops

from zoo.objectives.step_data import labels_of


class ClassWeights(keras.Model):
    """A model that takes `class_weight` with every form of data, also with some labels missing.

    Keras makes the weights outside of the step. There it takes neither generators nor soft targets,
    and looks for the class -1 in a `tf.data.Dataset`.
    """

    _class_weight = None

    def fit(self, *arguments, class_weight=None, **keywords):
        with self._weighing(class_weight):
            return super().fit(*arguments, **keywords)

    def train_on_batch(self, *arguments, class_weight=None, **keywords):
        with self._weighing(class_weight):
            return super().train_on_batch(*arguments, **keywords)

    @contextlib.contextmanager
    def _weighing(self, class_weight):
        """While active, a step weighs its examples by their classes."""
        if class_weight is None:
            yield
            return
        # A function that was traced before, or is traced here, has its own weights.
        self._class_weight, self.train_function = class_weight, None
        try:
            yield
        finally:
            self._class_weight = self.train_function = None

    def with_class_weights(self, x, y, sample_weight):
        """Return the data of a training step, with the weights of the classes."""
        if self._class_weight is None:
            return x, y, sample_weight
        if sample_weight is not None:
            raise ValueError(
                "Received both class_weight and sample_weight. Give one of them: multiply the "
                "weights of the examples by those of their classes."
            )
        return x, y, _weights(labels_of(y), self._class_weight)


def _weights(labels, class_weight):
    """Return the weights (batch,) of examples; 1 for a class without a weight, or no label."""
    if labels is None or isinstance(labels, (dict, list, tuple)):
        received = "none" if labels is None else f"{len(labels)} outputs with labels"
        raise ValueError(
            f"class_weight needs the labels of one output; received {received}. Leave it out, or "
            "give sample_weight."
        )
    labels = ops.cast(labels, "float32")
    known = labels >= 0  # NaN >= 0 is False
    if len(labels.shape) > 1:
        known = ops.any(known, axis=-1)
        labels = labels[..., 0] if labels.shape[-1] == 1 else ops.argmax(labels, axis=-1)
    # -1 stands for no label, and the class after the last for every class without a weight.
    last = max(class_weight, default=-1)
    weights = [class_weight.get(label, 1.0) for label in range(-1, last + 1)]
    labels = ops.cast(ops.round(ops.where(known, ops.cast(labels, "float32"), -1.0)), "int32")
    return ops.take(
        ops.convert_to_tensor([*weights, 1.0], "float32"), ops.clip(labels, -1, last + 1) + 1
    )
