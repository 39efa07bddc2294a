"""A fingerprint tells one trained model from another."""

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


def fingerprint(model):
    """64 hexadecimal digits: the SHA-256 of a Keras model's architecture and weights.

    The same for two loads of one file, in one process or two, and in whatever precision it
    calculates; another for another value of any weight. Of a subclassed model without `get_config`,
    the class stands for the architecture.
    """
    model = in_float32(model)
    try:
        architecture = {
            "class": type(model).__name__,
            "config": _without_addresses(model.get_config()),
        }
        text = json.dumps(architecture, default=repr, sort_keys=True)
    except NotImplementedError:
        text = type(model).__name__
    # Keras numbers the names of layers over the life of a process: dense_7 here is dense there.
    digest = hashlib.sha256(re.sub(r"_\d+(?=[/_\"])", "", text).encode())
    # Not `variables`: a dropout layer draws from another state after each load.
    for variable in model.weights:
        value = np.asarray(variable)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _without_addresses(config):
    """A configuration in which a registered class is known by its registered name alone."""
    if isinstance(config, (list, tuple)):
        return [_without_addresses(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    config = {key: _without_addresses(value) for key, value in config.items()}
    package, separator, name = str(config.get("registered_name")).partition(">")
    if separator and "module" in config:
        config["module"] = _FIRST_ADDRESS.get(name, "zoo") if package == "zoo" else package
    return config
