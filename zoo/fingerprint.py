"""The fingerprint of a model tells it from every other one."""

import hashlib
import json
import re

import numpy as np

from zoo.precision import in_float32

# The module of each class when fingerprints began. Keras writes a class's module into a model's
# configuration, and so it went into the hash. These addresses stand for the class for good, so that
# a class can move to another file and old fingerprints stay valid. A new class needs no entry.
_FIRST_ADDRESS = {
    **dict.fromkeys(("BatchNormalization", "MLPConv", "GlobalAveragePoolingHead"), "zoo.layers"),
    **dict.fromkeys(("CompanionHead", "DecodingHead"), "zoo.layers"),
    **dict.fromkeys(
        ("GlobalContrastNormalization", "ZCAWhitening", "LocalContrastNormalization"),
        "zoo.preprocessing",
    ),
    **dict.fromkeys(
        ("SoftmaxCrossEntropy", "OneVsAllSquaredHinge", "MulticlassSquaredHinge"), "zoo.losses"
    ),
    **dict.fromkeys(
        ("LayerwiseSGD", "InversePowerDecay", "CompanionDecay", "KernelDecaySGD"), "zoo.optimizers"
    ),
    **dict.fromkeys(("LogitRegression", "DecoupledSoftTargets", "Hint"), "zoo.knowledge"),
    **dict.fromkeys(("AttentionTransfer", "SimilarityPreserving", "Flow"), "zoo.knowledge"),
    **dict.fromkeys(("RelationalDistance", "RelationalAngle"), "zoo.knowledge"),
    "DeeplySupervised": "zoo.deep_supervision",
    "Distiller": "zoo.distillation",
    "Dustbin": "zoo.specialists",
    "MeteredSGD": "zoo.gradients",
}


# A class that is known as another one. `ImageClassifier` only adds a warning to Keras' own class,
# which made these models when fingerprints began.
_KNOWN_AS = {
    "ImageClassifier": {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
    }
}


def fingerprint(model):
    """Return the SHA-256 of a Keras model's architecture and weights, 64 hexadecimal digits.

    It is the same for every load of a file, in every process and precision. Any other weight gives
    another fingerprint. If a subclassed model has no `get_config`, the name of its class stands for
    the architecture.
    """
    model = in_float32(model)
    try:
        architecture = {
            "class": _KNOWN_AS.get(name := type(model).__name__, {}).get("class_name", name),
            "config": _without_addresses(model.get_config()),
        }
        text = json.dumps(architecture, default=repr, sort_keys=True)
    except NotImplementedError:
        text = type(model).__name__
    # Keras numbers the names of layers in a process: dense_7 in one may be dense in another.
    digest = hashlib.sha256(re.sub(r"_\d+(?=[/_\"])", "", text).encode())
    # Not `variables`: a dropout layer draws from another state after each load.
    for variable in model.weights:
        value = np.asarray(variable)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _without_addresses(config):
    """Return the configuration with the first address of each registered class."""
    if isinstance(config, (list, tuple)):
        return [_without_addresses(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    config = {key: _without_addresses(value) for key, value in config.items()}
    package, separator, name = str(config.get("registered_name")).partition(">")
    if package == "zoo" and name in _KNOWN_AS:
        return config | _KNOWN_AS[name]
    if separator and "module" in config:
        config["module"] = _FIRST_ADDRESS.get(name, "zoo") if package == "zoo" else package
    return config
