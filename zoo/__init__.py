"""Network in Network, Deeply-Supervised Nets and distillation as Keras 3 models.

The names below are loaded when first touched, so that `zoo --help` need not wait for TensorFlow.
"""

import importlib
import sys

_HOME = {
    "BatchNormalization": "layers",
    "CompanionHead": "layers",
    "DecodingHead": "layers",
    "GlobalAveragePoolingHead": "layers",
    "MLPConv": "layers",
    "GlobalContrastNormalization": "preprocessing",
    "LocalContrastNormalization": "preprocessing",
    "ZCAWhitening": "preprocessing",
    "DeeplySupervised": "deep_supervision",
    "Distiller": "distillation",
    "MulticlassSquaredHinge": "losses",
    "OneVsAllSquaredHinge": "losses",
    "SoftmaxCrossEntropy": "losses",
    "multiclass_squared_hinge": "losses",
    "one_vs_all_squared_hinge": "losses",
    "smoothed_softmax_cross_entropy": "losses",
    "soft_target_loss": "losses",
    "softmax_cross_entropy": "losses",
    "CompanionDecay": "optimizers",
    "InversePowerDecay": "optimizers",
    "LayerwiseSGD": "optimizers",
    "preset": "presets",
    "mlp": "models",
    "nin": "models",
    "nin_dsn": "models",
    "export_savedmodel": "serving.exporting",
    "ServedModel": "serving.served",
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
    for _module in (
        "layers",
        "losses",
        "optimizers",
        "gradients",
        "preprocessing",
        "deep_supervision",
        "knowledge",
        "distillation",
        "specialists",
    ):
        importlib.import_module(f"zoo.{_module}")
