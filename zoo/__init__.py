"""Network in Network, Deeply-Supervised Nets and distillation as Keras 3 models.

The names below are loaded when first touched, so that `zoo --help` need not wait for TensorFlow.
"""

import importlib
import sys

_HOME = {
    "BatchNormalization": "layers",
    "CompanionHead": "layers",
    "GlobalAveragePoolingHead": "layers",
    "MLPConv": "layers",
    "GlobalContrastNormalization": "preprocessing",
    "LocalContrastNormalization": "preprocessing",
    "ZCAWhitening": "preprocessing",
    "DeeplySupervised": "deep_supervision",
    "nin": "models",
    "nin_dsn": "models",
    "export_savedmodel": "serving",
    "ServedModel": "serving",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME})


if "keras" in sys.modules:
    # Whoever uses Keras may go on to load a saved model, which needs our layers registered.
    for _module in ("layers", "preprocessing", "deep_supervision"):
        importlib.import_module(f"zoo.{_module}")
