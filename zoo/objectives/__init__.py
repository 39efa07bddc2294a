"""Training objectives beyond a plain loss: companion objectives and distillation."""

import keras  # noqa: F401 (before our own: importing Keras registers them, see zoo/__init__.py)

from zoo.objectives import knowledge, specialists
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.distillation import Distiller
from zoo.objectives.mutual import MutualLearning
from zoo.objectives.teacher_head import with_teacher_head
from zoo.objectives.teaching import ensemble_logits
from zoo.objectives.wrapping import shipped, supervised

__all__ = [
    "DeeplySupervised",
    "Distiller",
    "MutualLearning",
    "ensemble_logits",
    "knowledge",
    "shipped",
    "specialists",
    "supervised",
    "with_teacher_head",
]
