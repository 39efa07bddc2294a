"""Network in Network, Deeply-Supervised Nets and distillation as Keras 3 models.

The names below are loaded when first touched, so that `import zoo` and `zoo --help` need not wait
for Keras. Keras knows our layers in whatever order both are imported.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

import wrapt

# The one place of the version: setup.cfg reads it here.
__version__ = "0.1.0"

# The public names, and the folder that each comes from.
_HOME = {
    "ApplicationPreprocessing": "layers",
    "BatchNormalization": "layers",
    "CompanionHead": "layers",
    "DecodingHead": "layers",
    "GlobalAveragePoolingHead": "layers",
    "GlobalContrastNormalization": "layers",
    "LocalContrastNormalization": "layers",
    "MLPConv": "layers",
    "PatchWhitening": "layers",
    "ZCAWhitening": "layers",
    "MulticlassSquaredHinge": "losses",
    "OneVsAllSquaredHinge": "losses",
    "SoftmaxCrossEntropy": "losses",
    "binary_soft_target_loss": "losses",
    "multiclass_squared_hinge": "losses",
    "one_vs_all_squared_hinge": "losses",
    "smoothed_softmax_cross_entropy": "losses",
    "soft_target_loss": "losses",
    "softmax_cross_entropy": "losses",
    "CompanionDecay": "optimizers",
    "InversePowerDecay": "optimizers",
    "LayerwiseSGD": "optimizers",
    "Muon": "optimizers",
    "DeeplySupervised": "objectives",
    "Distiller": "objectives",
    "MutualLearning": "objectives",
    "with_teacher_head": "objectives",
    "load_model": "saving",
    "mlp": "models",
    "nin": "models",
    "nin_dsn": "models",
    "preset": "models",
    "export_savedmodel": "serving.exporting",
    "ServedModel": "serving.served_model",
}
# Modules that are imported by a shorter name, or by the name that they had in an older zoo. Each
# is the same module under both names.
_ALIASES = {
    "cli": "commands.main",
    "deep_supervision": "objectives.deep_supervision",
    "distillation": "objectives.distillation",
    "distribute": "training.distribute",
    "gradients": "optimizers.metered",
    "knowledge": "objectives.knowledge",
    "numpy_data": "data.numpy_batches",
    "objective": "losses",
    "papers": "training.families.papers",
    "preprocessing": "layers.preprocessing",
    "presets": "models.presets",
    "pretrained": "models.pretrained",
    "specialists": "objectives.specialists",
    "streaming": "data.packs",
    "students": "training.families.students",
    "studies": "experiments.studies",
    "teachers": "training.teachers",
    "tuning": "experiments.tuning",
}
# The folders whose classes Keras must know before it reads a model.
_REGISTERING = ("layers", "losses", "optimizers", "objectives")
__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _ALIASES:
        return importlib.import_module(f"zoo.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME, *_ALIASES})


class _Aliases(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `_ALIASES`, and those in them, for an import statement."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if self._home(name) else None

    def create_module(self, spec):
        module = importlib.import_module(self._home(spec.name))
        spec.loader_state = module.__spec__  # the import of an alias must not change it
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state

    def _home(self, name):
        package, _, inside = name.partition(".")
        alias, dot, rest = inside.partition(".")
        return (
            f"zoo.{_ALIASES[alias]}{dot}{rest}" if package == "zoo" and alias in _ALIASES else None
        )


sys.meta_path.insert(0, _Aliases())  # first, or a folder's modules would be loaded twice


def _register(keras):
    """Have Keras know our classes, now that it is imported: a saved model may be read next."""
    for folder in _REGISTERING:
        importlib.import_module(f"zoo.{folder}")


wrapt.register_post_import_hook(_register, "keras")
