"""A small net on CIFAR-10, taught by one of twelve methods, or by itself: not measured."""

from dataclasses import dataclass
from typing import Literal

import zoo
from zoo import knowledge
from zoo.training.families.students import FastStudentRecipe, lessons

# The ends of the three stages of `nin(variant="fast")` and "small": maps of the same sizes in both.
STAGES = ["mlpconv2", "mlpconv4", "mlpconv6"]
MAPS = "class_maps"
OF_LOGITS = ("soft targets", "standardized", "decoupled", "dist")
# What `Distiller` takes, with the weights of docs/guides/methods.md.
OF_MAPS = {
    "class attention": lambda: {
        "knowledge": [knowledge.ClassAttentionTransfer(MAPS, MAPS, normalize=False, weight=15.0)]
    },
    "scales": lambda: {
        "label_weight": 0.1,
        "knowledge": [knowledge.ScaleDecoupledSoftTargets(MAPS, MAPS, weight=0.9)],
    },
    "hint": lambda: {"knowledge": [knowledge.Hint("mlpconv4", "mlpconv4", weight=100.0)]},
    "attention": lambda: {"knowledge": [knowledge.AttentionTransfer(STAGES, STAGES, weight=1e3)]},
    "similarity": lambda: {
        "knowledge": [knowledge.SimilarityPreserving("mlpconv6", "mlpconv6", weight=3e3)]
    },
    "flow": lambda: {"knowledge": [knowledge.Flow(STAGES, STAGES, weight=50.0)]},
    "relations": lambda: {
        "knowledge": [
            knowledge.RelationalDistance("logits", "logits", weight=25.0),
            knowledge.RelationalAngle("logits", "logits", weight=50.0),
        ]
    },
    "teacher's head": lambda: {
        "label_weight": 0.0,
        "knowledge": [knowledge.MapRegression("projector", "mlpconv6")],
    },
}
# What `DeeplySupervised` takes: the net has no teacher but itself.
BY_ITSELF = {
    "companions": {"companion_weight": 0.3},
    "pooled companions": {"companion_weight": 0.3},
    "its own teacher": {"soft_weight": 0.5, "temperature": 3.0},
    "synergy": {"companion_weight": 1.0, "synergy": 1.0, "temperature": 1.0},
}


@dataclass(frozen=True)
class Recipe(FastStudentRecipe):
    """Twelve ways to learn from a trained `nin(variant="fast")`, and five without a teacher."""

    data: str = "cifar10"
    epochs: int = 20
    batch_size: int = 500
    smoothing: float = 0.0
    """Share of each label that all classes have in common."""
    method: Literal[
        "alone",
        "soft targets",
        "standardized",
        "decoupled",
        "dist",
        "class attention",
        "scales",
        "hint",
        "attention",
        "similarity",
        "flow",
        "relations",
        "teacher's head",
        "companions",
        "pooled companions",
        "its own teacher",
        "synergy",
    ] = "soft targets"
    """alone, companions, pooled companions, its own teacher, synergy: no teacher.
    The others have a line each in docs/guides/methods.md."""
    soft_weight: float = 0.0
    """0 here, since each method has its own weights."""

    def check(self):
        super().check()
        taught = self.method in (*OF_LOGITS, *OF_MAPS)
        number = "one, for this method" if taught else "none, for this method"
        self.require("teachers", len(self.teachers) == taught, number)
        for name in ("soft_weight", "temperature", "views"):
            default = type(self).__dataclass_fields__[name].default
            self.require(name, getattr(self, name) == default, f"{default}: see --method")

    def model(self, data, steps):
        student = self.student(data, steps)
        if self.method in BY_ITSELF:
            form = "pool" if self.method.startswith("pooled") else "conv"
            heads = {tap: zoo.CompanionHead(data.classes, form) for tap in STAGES[:2]}
            return zoo.DeeplySupervised(student, heads, **BY_ITSELF[self.method])
        if self.method == "alone":
            return student
        (teacher,) = self._teachers(data)
        if self.method == "teacher's head":
            layers = {"student_layer": "mlpconv6", "teacher_layer": "mlpconv6"}
            student = zoo.with_teacher_head(student, teacher, **layers)
        weights = {"soft_weight": 0.9, **lessons(self.method)}
        if self.method in OF_MAPS:
            weights = {"soft_weight": 0.0, **OF_MAPS[self.method]()}
        return zoo.Distiller(student=student, teacher=teacher, **weights)
