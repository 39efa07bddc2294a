"""Functions that build Keras models, which take raw pixels 0..255 and return logits."""

from zoo.models.backbones import backbone
from zoo.models.deeply_supervised import nin_dsn
from zoo.models.network_in_network import nin
from zoo.models.perceptron import mlp
from zoo.models.presets import preset

__all__ = ["backbone", "mlp", "nin", "nin_dsn", "preset"]
