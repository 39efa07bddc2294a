"""Measure the cost of a distilled step, with cached and live soft targets, against Keras' own.

`python benchmarks/distillation.py [--turns 9]`. A NIN of full width teaches one of half the width,
for 32x32x3. The cases take turns in one process, as in step.py. The ratios are of CPU seconds. The
goals: a step with cached soft targets takes at most 1.05 times the student's own step; a step with
a live teacher takes at most 1.05 times the student's step plus the teacher's inference; with one
feature loss, keras.distillation takes at least 1.3 times as long as ours.
"""

import statistics
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table
from step import ratios, take_turns

import zoo
from zoo.objectives import knowledge


@dataclass(frozen=True)
class Settings:
    precision: str = "mixed_bfloat16"
    batch_size: int = 128
    steps: int = 4
    """Number of steps in one turn."""
    turns: int = 7
    width: float = 0.5
    """Factor on the widths of the student."""


LAYER = "mlpconv2"


def main(settings):
    keras.config.set_dtype_policy(settings.precision)
    rng = np.random.default_rng(0)
    count = settings.batch_size * settings.steps
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, count)
    teacher = zoo.nin()

    def batches(y):
        data = tf.data.Dataset.from_tensor_slices((images, y))
        return data.batch(settings.batch_size).cache().prefetch(2)

    def student():
        return zoo.nin(width=settings.width)

    def fit(model, data):
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        if isinstance(model, keras.distillation.Distiller):
            model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        else:
            model.compile(optimizer, zoo.SoftmaxCrossEntropy())
        return lambda: model.fit(data, verbose=0)

    plain = batches(labels)
    logits = teacher.predict(images, verbose=0)
    cached = batches({"labels": labels, "teacher_logits": logits})
    feature = keras.distillation.FeatureDistillation(
        loss="mse", teacher_layer_name=LAYER, student_layer_name=LAYER
    )
    # Teacher and student have one width here: the loss of Keras has no connector.
    wide_student = zoo.nin()
    seconds = take_turns(
        {
            "student alone": fit(student(), plain),
            "teacher's inference": lambda: teacher.predict(
                images, batch_size=settings.batch_size, verbose=0
            ),
            "zoo, cached soft targets": fit(zoo.Distiller(student=student()), cached),
            "zoo, live teacher": fit(zoo.Distiller(student=student(), teacher=teacher), plain),
            "zoo, one hint": fit(
                zoo.Distiller(
                    student=zoo.nin(),
                    teacher=teacher,
                    soft_weight=0.0,
                    knowledge=[knowledge.Hint(LAYER, LAYER)],
                ),
                plain,
            ),
            "keras, one feature loss": fit(
                keras.distillation.Distiller(
                    teacher=keras.models.clone_model(teacher),
                    student=wide_student,
                    distillation_losses=[feature],
                    distillation_loss_weights=[1.0],
                ),
                plain,
            ),
        },
        settings.turns,
    )
    both = [
        a + b for a, b in zip(seconds["student alone"], seconds["teacher's inference"], strict=True)
    ]
    table = Table("step", "CPU ms an image", box=None)
    for name, times in seconds.items():
        table.add_row(name, f"{1000 * statistics.median(times) / count:.2f}")
    compared = Table("compared", "median of turns", "goal", box=None)
    for ratio_name, case, others, goal in (
        ("cached / student alone", "zoo, cached soft targets", seconds["student alone"], "<= 1.05"),
        ("live / (student + teacher's inference)", "zoo, live teacher", both, "<= 1.05"),
        ("keras / zoo, one feature", "keras, one feature loss", seconds["zoo, one hint"], ">= 1.3"),
    ):
        ratio = statistics.median(ratios(seconds[case], others))
        compared.add_row(ratio_name, f"{ratio:.2f}", goal)
    Console().print(f"NIN for 32x32x3, {settings}")
    Console().print(table)
    Console().print(compared)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
