"""A teacher's other lessons beside soft targets: responses, features and relations.

Each is a layer. A `Distiller` calls it with the outputs of named layers of student and teacher. It
returns one loss an example, (batch,), float32, whose mean over the batch is the value in the
papers. The Distiller multiplies it by its `weight`. The teacher gets no gradient. Connectors are
trained and saved with the Distiller, and are no part of the student.
"""

from zoo.objectives.knowledge.base import Knowledge
from zoo.objectives.knowledge.features import AttentionTransfer, Hint
from zoo.objectives.knowledge.relations import (
    Flow,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from zoo.objectives.knowledge.responses import DecoupledSoftTargets, LogitRegression

__all__ = [
    "AttentionTransfer",
    "DecoupledSoftTargets",
    "Flow",
    "Hint",
    "Knowledge",
    "LogitRegression",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityPreserving",
]
