"""The answers of a `DeeplySupervised` at every depth: those of its companions and its output."""

import functools

import keras
from keras import layers


class Exits:
    """The part of a `DeeplySupervised` that answers at every depth."""

    def exits(self, images, batch_size=256):
        """Return the logits of every head, by layer.

        (n, height, width, channels) images in 0..255 -> {layer: (n, classes) array, ...,
        "output": (n, classes) array}, the layers in the order of `companions`. An early exit saves
        the layers above it: Teerapittayanon et al., BranchyNet, arXiv:1709.01686.
        """
        if self._exits is None:
            # Keras would save the layers twice if it saw this model. It does not look into a
            # partial.
            self._exits = functools.partial(self.exits_model())
        logits = self._exits.func.predict(images, batch_size=batch_size, verbose=0)
        return {layer: logits[layer] for layer in (*self.companions, "output")}

    def exits_model(self):
        """Return a functional model of all exits: images -> {layer: logits, ..., "output": logits}.

        It shares its weights with this model.
        """
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), self.input
        )
        return keras.Model(inputs, _Exits(self._watched, self.companions)(inputs))


def scores_of(companions, hidden, training=None):
    """Return {layer: scores of its companion}."""
    return {layer: head(hidden[layer], training=training) for layer, head in companions.items()}


class _Exits(layers.Layer):
    """Images -> {layer: logits of its companion, ..., "output": logits}."""

    def __init__(self, watched, companions):
        super().__init__(autocast=False, name="exits")
        # Keras finds the weights in these two.
        self.trunk, self.companions = watched.model, dict(companions)
        self.watched = watched

    def call(self, images, training=None):
        output, hidden = self.watched(images, training)
        return {**scores_of(self.companions, hidden, training), "output": output}
