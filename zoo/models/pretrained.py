"""Trained weights, out of exports that are what their card says, into nets that they fit.

    saved_models/NAME/VERSION/assets.extra/{model.keras, card.json, labels.txt}

`model.keras` is the trained Keras model, with its companions if it has such.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import keras

from zoo import exports
from zoo.saving import load_model, shipped, supervised
from zoo.text import did_you_mean

_HEADS = ("class_maps", "logits")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what its card says: `model`, `card`, and the `version`'s folder."""

    model: keras.Model
    card: dict
    version: Path

    @property
    def trunk(self):
        """The plain model that ships."""
        return shipped(self.model)

    def preprocessing(self):
        """New layers like those in front of the trained net; their statistics are weights."""
        return [type(each).from_config(each.get_config()) for each in _before(self.trunk)]

    def give(self, model):
        """Put the trained weights into `model`, a `nin` or `nin_dsn`, and return it.

        Its heads, the companions' too, keep their own where it has another number of classes.

        Raises:
            ValueError: for other preprocessing, or a layer that only one of the nets has or that
                has another shape or, for the class maps, another activation.
        """
        if preprocessing_of(model) != preprocessing_of(self.model):
            raise ValueError(
                f"The weights of {self.version} were trained behind {preprocessing_of(self.model)};"
                f" the net has {preprocessing_of(model)}. Leave preprocessing out."
            )
        ours, theirs = _by_name(model), _by_name(self.model)
        heads = set(_HEADS) | {head.name for head in _companions(model)}
        if shipped(model).output_shape == self.trunk.output_shape:
            heads = set()
        # A plain net may leave the companions behind, but nothing that its answers come from.
        for name in sorted((ours.keys() | _by_name(self.trunk).keys()) - heads):
            told = _told(ours.get(name)), _told(theirs.get(name))
            if told[0] != told[1]:
                pairs = itertools.zip_longest(*told, fillvalue="nothing there")
                one, other = next(pair for pair in pairs if pair[0] != pair[1])
                raise ValueError(
                    f"The layer {name!r} has {one}; in {self.version} it has {other}. With weights "
                    "leave width out, keep the channels, and give the variant, head and final_relu "
                    "that these were trained with."
                )
        for name in ours.keys() - heads:
            for variable, value in zip(ours[name].weights, theirs[name].weights, strict=True):
                variable.assign(value)
        return model


def load(weights, *, with_companions=False):
    """The `Trained` model that `weights` names.

    `weights` is the name of a data set, such as "mnist", for saved_models/mnist_nin_dsn, of which
    a `nin` takes the trunk; the name of a folder in saved_models/, such as "mnist_student"; or the
    path of such a folder or of a version. What was loaded before is returned as it is.

    Raises:
        ValueError: for weights that are not there (the nearest are named), files that are not
            those that were exported, a model that is not what its card says, or one without the
            companions asked for.
    """
    if isinstance(weights, Trained):
        return weights
    version, card = read_card(weights)
    labels = exports.labels(version)
    trained = Trained(load_model(version / exports.MODEL), card, version)
    if with_companions and trained.trunk is trained.model:
        raise ValueError(f"{version} was trained without companions; nin(weights=...) takes it.")
    found = {
        "labels": labels,
        "classes": trained.trunk.output_shape[-1],
        "image shape": list(trained.trunk.input_shape[1:]),
        "preprocessing": preprocessing_of(trained.model),
    }
    told = {
        "labels": card["labels"],
        "classes": len(card["labels"]),
        "image shape": card["input"]["shape"],
        "preprocessing": card["input"]["preprocessing"],
    }
    for what, value in found.items():
        if value != told[what]:
            raise ValueError(f"{version} has the {what} {value}; its card says {told[what]}.")
    return trained


def read_card(weights):
    """(version, its card) of what `weights` names, after a look at the checksums.

    Raises:
        ValueError: for weights that are not there, or files that are not those exported.
    """
    version = find(weights)
    exports.verify_weights(version)
    return version, exports.card(version)


def preprocessing_of(model):
    """The layers between the pixels and the first convolution, as JSON has them.

    Their statistics, such as a whitening matrix, are weights and not in it.
    """
    told = []
    for layer in _before(shipped(model)):
        config = layer.get_config()
        # What they are called, and how precisely they calculate, is no matter.
        kept = {k: v for k, v in config.items() if k not in ("name", "dtype", "trainable")}
        told.append({"layer": type(layer).__name__, **json.loads(json.dumps(kept, default=str))})
    return told


def _before(trunk):
    """The layers in front of the first that is trained."""
    found = []
    for layer in trunk.layers:
        if layer.trainable_variables:
            break
        if not isinstance(layer, keras.layers.InputLayer):
            found.append(layer)
    return found


def _by_name(model):
    """{name: layer} of the layers that have weights, those of the companions too."""
    layers = (*shipped(model).layers, *_companions(model))
    return {layer.name: layer for layer in layers if layer.weights}


def _companions(model):
    """The heads of a model that is deeply supervised; of another none."""
    within = supervised(model)
    return list(within.companions.values()) if within else []


def _told(layer):
    """Describe a layer by what another layer of its name must share with it."""
    if layer is None:
        return []
    told = [f"a weight of the shape {tuple(each.shape)}" for each in layer.weights]
    if layer.name == "class_maps":  # whose ReLU is an argument of `nin`
        told.append(f"the activation {layer.get_config()['activation']}")
    return told


def find(weights):
    """The version that `load` reads: of a data set, a name or a path; raises ValueError."""
    known = exports.names()
    folder = known.get(f"{weights}_nin_dsn") or known.get(str(weights)) or Path(weights)
    if (version := exports.newest(folder)) is not None:
        return version
    hint = did_you_mean(weights, known, f"There are {', '.join(known) or 'none'}.")
    raise ValueError(f"There are no trained weights {str(weights)!r}. {hint}")
