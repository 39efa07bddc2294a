"""Load the trained weights of an export, a run or a `.keras` file into a net that they fit.

    saved_models/NAME/VERSION/assets.extra/{model.keras, card.json, labels.txt}

`model.keras` is the trained Keras model, with its companions if it has any. The files of an export
are compared with their checksums and its card first. A run and a `.keras` file have none.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import keras

from zoo import exports
from zoo.precision import in_float32
from zoo.runs import Run
from zoo.saving import load_model, shipped, supervised

_HEADS = ("class_maps", "logits")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, the contents of its card, and where it came from.

    Without an export the card is empty. `version` is the folder of a version or a run, or a file.
    """

    model: keras.Model
    card: dict
    version: Path
    labels: list[str] | None = None
    """The names of the classes, in the order of the logits; None if they are not known."""

    @property
    def trunk(self):
        """The model without its companions."""
        return shipped(self.model)

    def preprocessing(self):
        """Return new layers like the preprocessing of the trained net.

        Their statistics, such as a whitening matrix, are weights, which `give` copies. A layer that
        was trained in 16 bits has Keras' global policy now, as the other layers of a new net.
        """
        copies = []
        for layer in _preprocessing(self.trunk):
            config = layer.get_config()
            if layer.dtype_policy.name != "float32":
                config["dtype"] = keras.config.dtype_policy().name
            copies.append(type(layer).from_config(config))
        return copies

    def fitted(self, input_shape, classes, *, keep_head=False):
        """Return a copy of the trained net for other images and classes, with the trained weights.

        The copy has no companions. Its layers are those of the trained net, so it may be any net
        whose last layers are a `GlobalAveragePoolingHead`: a `nin`, or a backbone.

        Arguments:
            input_shape: (height, width, channels). The channels are those of the trained net.
            classes: the number of classes.
            keep_head: also copy the weights of the head; the classes must be the same.

        Raises:
            ValueError: if the net has no layer "class_maps" or other channels, or if a layer is
                bound to the size of its images.
        """
        trunk = self.trunk
        if not all(name in (layer.name for layer in trunk.layers) for name in _HEADS):
            raise ValueError(
                f"{self.version} has no layers 'class_maps' and 'logits', so its head cannot be "
                "replaced. Give the weights of a nin, or of a run of the recipe finetune."
            )
        trained_shape = trunk.input_shape[1:]
        if input_shape[-1] != trained_shape[-1]:
            raise ValueError(
                f"{self.version} takes images with {trained_shape[-1]} channels; the images have "
                f"{input_shape[-1]}. Give --channels {trained_shape[-1]}, or other weights."
            )
        config = trunk.get_config()
        for layer in config["layers"]:
            layer.pop("build_config", None)  # it has the size of the images
            if layer["class_name"] == "InputLayer":
                layer["config"]["batch_shape"] = (None, *input_shape)
            if layer["config"]["name"] == "class_maps":
                layer["config"]["filters"] = classes
        model = type(trunk).from_config(config)
        if keras.config.dtype_policy().name == "float32":
            model = in_float32(model)
        return self.give(model, with_head=keep_head)

    def give(self, model, *, with_head=None):
        """Copy the trained weights into `model`, a `nin` or `nin_dsn`, and return `model`.

        If `model` has another number of classes, its heads, also those of companions, keep their
        own weights.

        Arguments:
            model: a net of the same layers.
            with_head: whether the heads receive weights, too. None decides by the number of
                classes.

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
        if with_head is None:
            with_head = shipped(model).output_shape == self.trunk.output_shape
        if with_head:
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
        weights: the name of a data set, such as "mnist", which stands for mnist_nin_dsn; the name
            of a trained model of the zoo, such as "mnist_student"; the path of an export, of a
            version in it, of a run folder or of a `.keras` file; or a `Trained`, which is returned.
        with_companions: True requires a model that was trained with companions.

    Raises:
        ValueError: if there are no such weights (the message names the nearest), if a file of an
            export has changed since, if the model differs from its card, or if it has no companions
            where they are required.
    """
    if isinstance(weights, Trained):
        return weights
    path = exports.resolve(weights)
    in_a_run = path.is_dir() and Run(path).has_model
    trained = _of_run(Run(path)) if in_a_run else _of_file_or_export(path)
    if with_companions and trained.trunk is trained.model:
        raise ValueError(f"{trained.version} was trained without companions; load it with zoo.nin.")
    return trained


def _of_run(run):
    """Return what a run has trained, with its companions if it has any."""
    with_companions = run.with_companions_file.is_file()
    model = load_model(run.folder, with_companions=with_companions)
    return Trained(model, {}, run.folder, run.label_names if run.is_finished else None)


def _of_file_or_export(path):
    """Return what a `.keras` file or the newest version of an export holds."""
    if path.is_file():
        return Trained(load_model(path), {}, path)
    version, card = read_card(path)
    labels = exports.labels(version)
    trained = Trained(load_model(version / exports.MODEL), card, version, labels)
    _check_card(trained)
    return trained


def _check_card(trained):
    """Refuse a model that is not the one of its card."""
    card = trained.card
    in_export = {
        "labels": trained.labels,
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
                f"{trained.version} has the {fact} {value}; its card says {in_card[fact]}. Export "
                "the model again."
            )


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
    """Return the folder of the version of an export that `load` reads.

    Raises:
        ValueError: if there are no such weights.
    """
    folder = exports.resolve(weights)
    if folder.is_dir() and (version := exports.newest(folder)) is not None:
        return version
    raise ValueError(f"{folder} is neither a run with a model nor an export with its Keras model.")
