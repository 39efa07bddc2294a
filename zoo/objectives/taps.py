"""Taps take the outputs of named layers in a pass that is made anyway."""

import contextlib
import threading

from keras import layers

from zoo.text import did_you_mean


class Watched:
    """A model, and the layers whose outputs are taken in the pass that is made anyway."""

    def __init__(self, model, layers):
        self.model = model
        self.taps = {name: Tap(layer) for name, layer in layers.items()}

    def __call__(self, examples, training):
        with contextlib.ExitStack() as open_taps:
            for tap in self.taps.values():
                open_taps.enter_context(tap)
            answer = self.model(examples, training=training)
            return answer, {layer: tap.taken() for layer, tap in self.taps.items()}


class Tap:
    """Takes what a layer gives, wherever it stands: nested models and subclasses have no graph."""

    def __init__(self, layer):
        self.layer = layer
        self.lock, self.open = threading.Lock(), 0  # replicas are threads that take turns
        self.last = threading.local()

    def __enter__(self):
        with self.lock:
            if not self.open:
                self.run = self.layer.call
                self.layer.call = self._call
            self.open += 1
        self.last.output = None

    def __exit__(self, *error):
        with self.lock:
            self.open -= 1
            if not self.open:
                del self.layer.call  # and the method of the class shows again

    def _call(self, *arguments, **keywords):
        self.last.output = self.run(*arguments, **keywords)
        return self.last.output

    def taken(self):
        if self.last.output is None:
            raise ValueError(f"The layer {self.layer.name!r} did not run when its model did.")
        return self.last.output


class _Symbolic(layers.Layer):
    """A pass without numbers, for the shapes."""

    def __init__(self, watched):
        super().__init__(autocast=False)
        self.watched = watched

    def call(self, examples):
        return self.watched(examples, training=False)


def shapes(watched, examples):
    """KerasTensors of a model's output and of the layers watched; adds no node to its graph."""
    return _Symbolic(watched)(examples)


def find(model, name):
    """The layer of that name; "backbone/conv3" is one of a model within."""
    first, _, rest = name.partition("/")
    names = {layer.name: layer for layer in getattr(model, "layers", ())}
    if first not in names:
        hint = did_you_mean(first, names, f"It has {', '.join(names)}.")
        raise ValueError(f"Model {model.name!r} has no layer {first!r}. {hint}")
    return find(names[first], rest) if rest else names[first]
