"""Optimizers and schedules of the papers' released code, and the one that the recipes use."""

import keras  # noqa: F401 (before our own: importing Keras registers them, see zoo/__init__.py)

from zoo.optimizers.layerwise import LayerwiseSGD
from zoo.optimizers.metered import GradientMeter, MeteredSGD
from zoo.optimizers.muon import Muon
from zoo.optimizers.schedules import CompanionDecay, InversePowerDecay
from zoo.optimizers.sgd import KernelDecaySGD, warm_cosine_sgd

__all__ = [
    "CompanionDecay",
    "GradientMeter",
    "InversePowerDecay",
    "KernelDecaySGD",
    "LayerwiseSGD",
    "MeteredSGD",
    "Muon",
    "warm_cosine_sgd",
]
