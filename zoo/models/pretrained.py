"""Load the trained weights of an export, after checks of its files, into a net that they fit.

    saved_models/NAME/VERSION/assets.extra/{model.keras, card.json, labels.txt}

`model.keras` is the trained Keras model, with its companions if it has any.
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
    """A trained model, the contents of its card, and the folder of its version."""

    model: keras.Model
    card: dict
    version: Path

    @property
    def trunk(self):
        """The model without its companions."""
        return shipped(self.model)

    def preprocessing(self):
        """Return new layers like the preprocessing of the trained net.

        Their statistics, such as a whitening matrix, are weights, which `give` copies.
        """
        return [type(layer).from_config(layer.get_config()) for layer in _preprocessing(self.trunk)]

    def give(self, model):
        """Copy the trained weights into `model`, a `nin` or `nin_dsn`, and return `model`.

        If `model` has another number of classes, its heads, also those of companions, keep their
        own weights.

        Raises:
            ValueError: if the preprocessing differs, if only one of the nets has a layer, or if a
                layer differs in its shapes or, for the class maps, in its activation.
        """
        if preprocessing_of(model) != preprocessing_of(self.model):
            raise ValueError(
                f"The weights of {self.version} were trained with the preprocessing "
                f"{preprocessing_of(self.model)}; the net has {preprocessing_of(model)}. Leave "
                "preprocessing out."
            )
        ours, theirs = _by_name(model), _by_name(self.model)
        kept_heads = {*_HEADS, *(head.name for head in _companions(model))}
        if shipped(model).output_shape == self.trunk.output_shape:
            kept_heads = set()
        # A plain net has no use for the trained companions; all other trained layers must fit.
        for name in sorted((ours.keys() | _by_name(self.trunk).keys()) - kept_heads):
            _check_same(name, ours.get(name), theirs.get(name), self.version)
        for name in ours.keys() - kept_heads:
            for variable, value in zip(ours[name].weights, theirs[name].weights, strict=True):
                variable.assign(value)
        return model


def load(weights, *, with_companions=False):
    """Return the `Trained` model that `weights` names.

    Arguments:
        weights: the name of a data set, such as "mnist", which stands for
            saved_models/mnist_nin_dsn; the name of a folder in saved_models/, such as
            "mnist_student"; the path of such a folder or of a version in it; or a `Trained`, which
            is returned.
        with_companions: True requires a model that was trained with companions.

    Raises:
        ValueError: if there are no such weights (the message names the nearest), if a file has
            changed since the export, if the model differs from its card, or if it has no
            companions where they are required.
    """
    if isinstance(weights, Trained):
        return weights
    version, card = read_card(weights)
    labels = exports.labels(version)
    trained = Trained(load_model(version / exports.MODEL), card, version)
    if with_companions and trained.trunk is trained.model:
        raise ValueError(f"{version} was trained without companions; load it with zoo.nin.")
    in_export = {
        "labels": labels,
        "classes": trained.trunk.output_shape[-1],
        "image shape": list(trained.trunk.input_shape[1:]),
        "preprocessing": preprocessing_of(trained.model),
    }
    in_card = {
        "labels": card["labels"],
        "classes": len(card["labels"]),
        "image shape": card["input"]["shape"],
        "preprocessing": card["input"]["preprocessing"],
    }
    for fact, value in in_export.items():
        if value != in_card[fact]:
            raise ValueError(
                f"{version} has the {fact} {value}; its card says {in_card[fact]}. Export the "
                "model again."
            )
    return trained


def read_card(weights):
    """Return (folder of the version, its card) of `weights`, after a check of the checksums.

    Raises:
        ValueError: if there are no such weights, or if a file has changed since the export.
    """
    version = find(weights)
    exports.verify_weights(version)
    return version, exports.card(version)


def preprocessing_of(model):
    """Describe the layers between the pixels and the first convolution, as values of JSON.

    The description has no statistics, such as a whitening matrix: they are weights.
    """
    descriptions = []
    for layer in _preprocessing(shipped(model)):
        config = layer.get_config()
        # The name and the precision of a layer do not decide whether weights fit.
        config = {k: v for k, v in config.items() if k not in ("name", "dtype", "trainable")}
        config = json.loads(json.dumps(config, default=str))
        descriptions.append({"layer": type(layer).__name__, **config})
    return descriptions


def _preprocessing(trunk):
    """Return the layers in front of the first that learns."""
    layers = itertools.takewhile(lambda layer: not _learns(layer), trunk.layers)
    return [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]


def _learns(layer):
    """Return whether training changes the layer, or would if it were not frozen."""
    if layer.trainable or not layer.weights:
        return bool(layer.trainable_variables)
    thawed = type(layer).from_config({**layer.get_config(), "trainable": True})
    thawed.build_from_config(layer.get_build_config())
    return bool(thawed.trainable_variables)


def _by_name(model):
    """Return {name: layer} of all layers with weights, companions included."""
    layers = (*shipped(model).layers, *_companions(model))
    return {layer.name: layer for layer in layers if layer.weights}


def _companions(model):
    """Return the companion heads of a model, none if it is not deeply supervised."""
    deeply_supervised = supervised(model)
    return list(deeply_supervised.companions.values()) if deeply_supervised else []


def _check_same(name, layer, trained_layer, version):
    ours, theirs = _traits(layer), _traits(trained_layer)
    if ours == theirs:
        return
    pairs = itertools.zip_longest(ours, theirs, fillvalue="no such weight")
    trait, trained_trait = next(pair for pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"The layer {name!r} has {trait}; in {version} it has {trained_trait}. With weights, leave "
        "width out, keep the channels, and give the variant, head and final_relu that the weights "
        "were trained with."
    )


def _traits(layer):
    """Describe the traits of a layer that weights depend on; a missing layer has none."""
    if layer is None:
        return []
    traits = [f"a weight of the shape {tuple(weight.shape)}" for weight in layer.weights]
    if layer.name == "class_maps":  # `nin` has an argument for its activation
        traits.append(f"the activation {layer.get_config()['activation']}")
    return traits


def find(weights):
    """Return the folder of the version that `load` reads.

    Raises:
        ValueError: if there are no such weights.
    """
    known = exports.names()
    folder = known.get(f"{weights}_nin_dsn") or known.get(str(weights)) or Path(weights)
    if (version := exports.newest(folder)) is not None:
        return version
    hint = did_you_mean(weights, known, f"There are {', '.join(known) or 'none'}.")
    raise ValueError(f"There are no trained weights {str(weights)!r}. {hint}")
