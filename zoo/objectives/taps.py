"""Taps take the outputs of named layers in a pass that is made anyway."""

import contextlib
import threading

from keras import layers

from zoo.text import did_you_mean


class NoOutputError(ValueError):
    """A watched layer has no output."""


class Watched:
    """A model with taps on some layers: examples -> (its output, {layer: output})."""

    def __init__(self, model, layers):
        self.model = model
        self.taps = {name: Tap(layer) for name, layer in layers.items()}

    def __call__(self, examples, training):
        with contextlib.ExitStack() as open_taps:
            for tap in self.taps.values():
                open_taps.enter_context(tap)
            output = self.model(examples, training=training)
            return output, {layer: tap.taken() for layer, tap in self.taps.items()}


class Tap:
    """Keeps the output of a layer while open.

    It replaces the `call` of the layer, because nested and subclassed models have no common graph
    from which the output could be read.
    """

    def __init__(self, layer):
        self.layer = layer
        # The replicas of a distribution strategy are threads, and several may be open at once.
        self.lock, self.open = threading.Lock(), 0
        self.last = threading.local()

    def __enter__(self):
        with self.lock:
            if not self.open:
                # A tap of a Distiller may be open on the layer already.
                self.below = vars(self.layer).get("call")
                self.run = self.layer.call
                self.layer.call = self._call
            self.open += 1
        self.last.output = None

    def __exit__(self, *error):
        with self.lock:
            self.open -= 1
            if self.open:
                return
            if self.below is None:
                del self.layer.call  # The method of the class is visible again.
            else:
                self.layer.call = self.below

    def _call(self, *arguments, **keywords):
        self.last.output = self.run(*arguments, **keywords)
        return self.last.output

    def taken(self):
        """Return the output of the last call of the layer."""
        if self.last.output is None:
            raise NoOutputError(
                f"The layer {self.layer.name!r} did not run when its model did, so it has no "
                "output to learn from. Name a layer that runs in every pass."
            )
        return self.last.output


class _Symbolic(layers.Layer):
    """Runs a watched model on symbolic tensors, which have shapes and no values."""

    def __init__(self, watched):
        super().__init__(autocast=False)
        self.watched = watched

    def call(self, examples):
        return self.watched(examples, training=False)


def shapes(watched, examples):
    """Return symbolic outputs of the model and of its watched layers.

    The model's graph gets no new node.
    """
    try:
        return _Symbolic(watched)(examples)
    except NoOutputError:  # Keras has added lines of its own.
        for tap in watched.taps.values():
            tap.taken()
        raise


def find(model, name):
    """Return the layer of this name; "backbone/conv3" is a layer of the model "backbone" within."""
    first, _, rest = name.partition("/")
    names = {layer.name: layer for layer in getattr(model, "layers", ())}
    if first not in names:
        hint = did_you_mean(first, names, f"It has {', '.join(names) or 'none'}.")
        raise ValueError(f"Model {model.name!r} has no layer {first!r}. {hint}")
    return find(names[first], rest) if rest else names[first]
