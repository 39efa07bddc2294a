"""From a teacher to a small model: train a student taught and alone, and compare the three."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy import stats

from zoo import measures, saving
from zoo.data import ImageData
from zoo.experiments import student_size
from zoo.precision import in_float32
from zoo.runs import Run, folder_of
from zoo.training import measuring, plan, teachers, train
from zoo.training.families.students import TaughtRecipe

# A student that the user gave no size has a tenth of the teacher's parameters, up to this width.
_WIDEST = 3.0
_IMAGES_TO_BUILD = 500


class Distilled(NamedTuple):
    """The folders of a distillation, and what was measured."""

    taught: Path
    """The run folder of the student that was taught."""
    alone: Path
    """The run folder of the student without a teacher."""
    comparison: dict[str, Any]
    """What `compare` returns."""


def distill(
    recipe: TaughtRecipe,
    file: Path | str,
    *,
    parameters: float | None = None,
    milliseconds: float | None = None,
    follow_teacher: bool = False,
    runs: Path | str = "runs",
    name: str,
    **options: Any,
) -> Distilled:
    """Train a student taught and alone, in two run folders, and compare both with the teacher.

    The same call resumes. A finished training is not repeated.

    Arguments:
        recipe: a recipe of students, with teachers.
        file: the recipe's file.
        parameters: the most parameters of the student; None for the recipe's width.
        milliseconds: the most time for one image, on this machine; None for the recipe's width.
        follow_teacher: True for a tenth of the teacher's parameters, at most those of width 3.
        runs: the folder of all runs.
        name: the name of the folder with both runs.
        options: further arguments of `zoo.training.train`.

    Raises:
        UsageError: if no student is so small or fast; and as `zoo.training.train`.
        TeacherError: if a teacher cannot be loaded, or does not suit the images.
    """
    recipe.check()
    begun = Run(folder_of(recipe, file, runs, f"{name}/taught"))
    _, training, judging = plan.checked_data(recipe)
    loaded = _teachers(recipe, training)
    # Enough images to build a student, which may take statistics of them.
    few = training.subset(min(training.examples, max(_IMAGES_TO_BUILD, training.classes)))

    def build(width):
        return dataclasses.replace(recipe, width=width).student(few, 1)

    width = recipe.width
    if begun.is_begun and (parameters or milliseconds or follow_teacher):
        # A width that was measured by the clock would be another one when the run resumes.
        width = begun.fields["width"]
    elif parameters:
        width = student_size.width_of_size(build, parameters)
    elif milliseconds:
        width = student_size.width_of_latency(build, milliseconds)
    elif follow_teacher:
        tenth = sum(model.count_params() for model in loaded) / 10
        width = min(student_size.width_of_size(build, tenth), _WIDEST)
    recipe = dataclasses.replace(recipe, width=width)
    alone = dataclasses.replace(recipe, teachers=(), soft_weight=0.0)
    both = [
        train(which, file, runs=runs, name=f"{name}/{part}", **options)
        for part, which in (("taught", recipe), ("alone", alone))
    ]
    keras.config.set_dtype_policy("float32")  # as exports calculate
    taught, untaught = both
    return Distilled(taught, untaught, compare(_teachers(recipe, training), both, judging))


def _teachers(recipe, training):
    return teachers.load_for(
        training,
        recipe.teachers,
        preprocessing=recipe.teacher_preprocessing,
        resize=recipe.teacher_resize,
    )


def compare(
    loaded: Sequence[keras.Model], both: Sequence[Path], images: ImageData
) -> dict[str, Any]:
    """Return the measurements of the teachers, the student alone and the student taught.

    Arguments:
        loaded: the teachers; several answer as the mean of their probabilities.
        both: the run folders, (taught, alone).
        images: the images to evaluate on.

    Returns:
        {"rows": one dictionary a model, "better": the name of the student with fewer errors,
        "only_taught", "only_alone": the images that only one of the students has right, "p": how
        probable such a difference is by chance, "confusions": see `_changed`}.
    """
    taught, alone = (in_float32(saving.load_model(folder)) for folder in both)
    models = {"teacher": list(loaded), "student alone": [alone], "student taught": [taught]}
    answers = {name: measuring.answers_of(some, images) for name, some in models.items()}
    costs = _costs(models, images)
    rows = [
        {"model": name, **quality(answers[name], images.labels), **costs[name]} for name in answers
    ]
    right = {name: logits.argmax(axis=1) == images.labels for name, logits in answers.items()}
    only_taught = int((right["student taught"] & ~right["student alone"]).sum())
    only_alone = int((right["student alone"] & ~right["student taught"]).sum())
    differing = only_taught + only_alone
    return {
        "evaluated_on": images.split,
        "examples": images.examples,
        "rows": rows,
        "better": "taught" if only_taught >= only_alone else "alone",
        "only_taught": only_taught,
        "only_alone": only_alone,
        "p": float(stats.binomtest(only_taught, differing).pvalue) if differing else 1.0,
        "confusions": _changed(answers, images),
    }


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracy of logits (n, classes), its 95 % interval, and the calibration error."""
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    low, high = measures.wilson_interval(accuracy, len(labels))
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "calibration_error": measures.calibration_error(logits, labels),
    }


def _costs(models, images):
    """Return {name: size and speed}, given {name: models}. Those of an ensemble answer in turns."""
    every = [model for some in models.values() for model in some]
    one, batch = (measuring.milliseconds(every, images.image_shape, n) for n in (1, 32))
    costs, begin = {}, 0
    for name, some in models.items():
        parameters, part = (
            sum(model.count_params() for model in some),
            slice(begin, begin + len(some)),
        )
        begin += len(some)
        costs[name] = {
            "parameters": parameters,
            "megabytes": 4 * parameters / 1e6,
            "milliseconds": sum(one[part]),
            "images_a_second": 32_000 / sum(batch[part]),
        }
    return costs


def _changed(answers, images, most=6):
    """Return the pairs of classes whose confusions the teacher changed most.

    Each is {"true", "answer", and the number of such mistakes of "teacher", "alone", "taught"}.
    """
    counts = {
        name: measures.confusion_counts(images.labels, logits.argmax(axis=1), images.classes)
        for name, logits in answers.items()
    }
    change = counts["student taught"] - counts["student alone"]
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:most]
    names = [str(name) for name in images.label_names]
    return [
        {
            "true": names[true],
            "answer": names[answer],
            "teacher": int(counts["teacher"][true, answer]),
            "alone": int(counts["student alone"][true, answer]),
            "taught": int(counts["student taught"][true, answer]),
        }
        for true, answer in zip(*np.unravel_index(order, change.shape), strict=True)
        if change[true, answer]
    ]


def in_words(comparison: dict[str, Any]) -> str:
    """Return what the difference of the two students says, in a sentence."""
    more, fewer = comparison["only_taught"], comparison["only_alone"]
    gained = more - fewer
    if not gained:
        return "Both students have as many images right."
    which = "more" if gained > 0 else "fewer"
    said = f"The taught student has {abs(gained):,} {which} of {comparison['examples']:,} right"
    chance = f"{comparison['p']:.2g}"
    if comparison["p"] < 0.05:
        return f"{said}: p = {chance}, so it is hardly chance for these two trainings."
    return f"{said}: p = {chance}, so it may be chance. More test images or seeds would tell."


def size(text: str) -> float:
    """Return a number of parameters that people write: "120k", "1.2M", "120000".

    Raises:
        ValueError: if it is no positive number.
    """
    factor = {"k": 1e3, "m": 1e6}.get(text[-1:].lower(), 1)
    number = float(text[:-1] if factor > 1 else text) * factor
    if not (number > 0 and math.isfinite(number)):
        raise ValueError("expected a positive number")
    return number
