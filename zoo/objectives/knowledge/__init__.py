"""A teacher's other lessons beside soft targets: responses, features and relations.

Each is a layer. A `Distiller` calls it with the outputs of named layers of student and teacher. It
returns one loss an example, (batch,), float32, whose mean over the batch is the value in the
papers, or in the code of their authors. The Distiller multiplies it by its `weight`. The teacher
gets no gradient. Connectors are trained and saved with the Distiller, and are no part of the
student.
"""

from zoo.objectives.knowledge.base import Knowledge
from zoo.objectives.knowledge.class_maps import ClassAttentionTransfer, ScaleDecoupledSoftTargets
from zoo.objectives.knowledge.features import (
    AttentionTransfer,
    Hint,
    MapRegression,
    NeuronSelectivityTransfer,
    ProjectedFeatures,
    VariationalInformation,
)
from zoo.objectives.knowledge.relations import (
    CorrelationCongruence,
    Flow,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from zoo.objectives.knowledge.responses import (
    DecoupledSoftTargets,
    LogitRegression,
    MultiLevelLogits,
    RelationalMatching,
    SoftTargets,
)
from zoo.objectives.knowledge.review import KnowledgeReview

__all__ = [
    "AttentionTransfer",
    "ClassAttentionTransfer",
    "CorrelationCongruence",
    "DecoupledSoftTargets",
    "Flow",
    "Hint",
    "Knowledge",
    "KnowledgeReview",
    "LogitRegression",
    "MapRegression",
    "MultiLevelLogits",
    "NeuronSelectivityTransfer",
    "ProbabilisticTransfer",
    "ProjectedFeatures",
    "RelationalAngle",
    "RelationalDistance",
    "RelationalMatching",
    "ScaleDecoupledSoftTargets",
    "SimilarityPreserving",
    "SoftTargets",
    "VariationalInformation",
]
