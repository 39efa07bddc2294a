"""Training models wrap the model that ships, and perhaps one with companions.

A model that only trains another has two methods. `shipped_model()` returns the plain model that
ships. `supervised_model()` returns the `DeeplySupervised` within, or None. `DeeplySupervised` and
`Distiller` have both. Your own training model needs the first. They are methods, not properties,
because Keras saves every model that it finds in an attribute.
"""

import keras

from zoo.freezing import freeze_held_layers


def shipped(model):
    """Return the plain model that ships: the one that `model` trains, or `model` itself."""
    while hasattr(model, "shipped_model"):
        model = model.shipped_model()
    return model


def supervised(model):
    """Return the `DeeplySupervised` that is trained: `model`, or a Distiller's student, or None."""
    return model.supervised_model() if hasattr(model, "supervised_model") else None


def input_structure(model):
    """Return the symbolic input of the model that ships, or its inputs in the structure it takes.

    A structure is a list or a dictionary.
    """
    model = shipped(model)
    if len(model.inputs) > 1 or isinstance(getattr(model, "input", None), dict):
        return model.input
    return model.inputs[0]


class Wrapping:
    """Answers Keras' questions about a model with the model that ships: they compute the same.

    A class that derives from this and `keras.Model` has a `shipped_model()`. Layers, inputs,
    outputs, shapes and exports are those of that model.
    """

    @property
    def inputs(self):
        """The symbolic inputs, a list."""
        return shipped(self).inputs

    @property
    def outputs(self):
        """The symbolic outputs, a list."""
        return shipped(self).outputs

    @property
    def input(self):
        """The symbolic input; a list or a dictionary if there are several."""
        return input_structure(self)

    @property
    def output(self):
        """The symbolic output; a list if there are several."""
        return _one_or_all(self.outputs)

    @property
    def input_shape(self):
        """The shape of the input, with None for the batch; a list if there are several."""
        return shipped(self).input_shape

    @property
    def output_shape(self):
        """The shape of the output, with None for the batch; a list if there are several."""
        return shipped(self).output_shape

    @property
    def input_dtype(self):
        """The dtype of the inputs, which does not depend on the precision of the layers."""
        return self.inputs[0].dtype if hasattr(self, "inputs") else super().input_dtype

    def get_layer(self, name=None, index=None):
        """Return a layer of this model, or else of the model that ships, by its name."""
        own = index is not None or name in [layer.name for layer in self.layers]
        return super().get_layer(name, index) if own else shipped(self).get_layer(name)

    def export(self, *arguments, **keywords):
        """Export the model that ships; the arguments are those of `keras.Model.export`."""
        return shipped(self).export(*arguments, **keywords)

    def build_as_shipped(self):
        """Mark this model as built, on the shapes of the model that ships.

        TensorFlow takes the shapes of its signatures from those that Keras has built a model with.
        """
        freeze_held_layers(self)
        if hasattr(self, "inputs"):
            # Not `build`: after it a derived class could not add layers and metrics of its own.
            shapes = keras.tree.map_structure(lambda tensor: tensor.shape, input_structure(self))
            self.build_from_config({"input_shape": shapes})
        self.built = True

    def get_build_config(self):
        """Return None: the model is built when it is made."""

    def frozen_config(self):
        """Return the key that a configuration has if the whole model is frozen."""
        return {} if self.trainable else {"trainable": False}


def _one_or_all(tensors):
    return tensors[0] if len(tensors) == 1 else tensors
