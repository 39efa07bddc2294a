"""Layers of Network in Network (arXiv:1312.4400) and Deeply-Supervised Nets (arXiv:1409.5185)."""

import keras  # noqa: F401 (before our own: importing Keras registers them, see zoo/__init__.py)

from zoo.layers.applications import ApplicationPreprocessing
from zoo.layers.heads import CompanionHead, DecodingHead, GlobalAveragePoolingHead
from zoo.layers.image_classifier import ImageClassifier
from zoo.layers.initializers import Dirac
from zoo.layers.mlpconv import MLPConv
from zoo.layers.normalization import BatchNormalization
from zoo.layers.preprocessing import (
    GlobalContrastNormalization,
    LocalContrastNormalization,
    PatchWhitening,
    ZCAWhitening,
)

__all__ = [
    "ApplicationPreprocessing",
    "BatchNormalization",
    "CompanionHead",
    "DecodingHead",
    "Dirac",
    "GlobalAveragePoolingHead",
    "GlobalContrastNormalization",
    "ImageClassifier",
    "LocalContrastNormalization",
    "MLPConv",
    "PatchWhitening",
    "ZCAWhitening",
]
