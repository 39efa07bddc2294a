"""What tells one trained model from another."""

import hashlib
import json
import re

import numpy as np

from zoo.arithmetic import in_float32


def fingerprint(model):
    """64 hexadecimal digits: the SHA-256 of a Keras model's architecture and weights.

    The same for two loads of one file, in one process or two, and in whatever precision it
    calculates; another for another value of any weight. Of a subclassed model without `get_config`,
    the class stands for the architecture.
    """
    model = in_float32(model)
    try:
        architecture = {"class": type(model).__name__, "config": model.get_config()}
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
