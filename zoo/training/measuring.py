"""Measure a model over labelled images, and the teachers before a training."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from zoo.data import AS_THEY_ARE, Augmentation, ImageData
from zoo.data.packs import damage_told
from zoo.objectives import Distiller
from zoo.objectives.probabilities import kind_of_values, logits_from
from zoo.objectives.teaching import ensemble_logits, two_or_more
from zoo.text import percent
from zoo.training.families.students import TaughtRecipe

if TYPE_CHECKING:
    from zoo.training.session import Session

# Enough to tell a teacher from chance, in seconds.
_MOST_IMAGES = 1000
_BATCH = 64
_TURNS = 30
_ANSWERED = {
    "views": "The teachers answer on the moved and mirrored images that the student sees.",
    "images": "The teachers answer now, once on each training image as it is.",
}
_ANSWERED_ONCE = "The teachers answer now, once on each of the {} views of each training image."


def measure(model: keras.Model, images: ImageData) -> tuple[np.ndarray, float]:
    """Return a model's logits (n, classes) and its mean cross-entropy in nats, over n images."""
    with damage_told():
        logits = model.predict(images.batches(256), verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(images.labels, logits, from_logits=True)
    return logits, float(keras.ops.mean(losses))


def measure_teachers(session: "Session") -> None:
    """Say how good each teacher of a `Distiller` is, and warn of one that guesses.

    Each is measured once in a run, on up to 1,000 held-out images. If the test set is all that is
    evaluated on, they are training images: the test set judges students. A `TaughtRecipe` with an
    augmentation has its teachers measured on views, the changed images, too.
    """
    model, position = session.model, session.position
    if not isinstance(model, Distiller) or position["finished"] or "teachers" in position:
        return
    teachers = model.teacher if isinstance(model.teacher, list) else [model.teacher]
    names = list(getattr(session.recipe, "teachers", ()))
    if len(names) != len(teachers):
        names = [getattr(teacher, "name", None) for teacher in teachers]
    held_out = session.judged_on == "validation"
    images = _some(session.judging if held_out else session.training)
    of_student = session.recipe if isinstance(session.recipe, TaughtRecipe) else None
    changes = of_student.augmentation() if of_student else AS_THEY_ARE
    position["teachers"] = []
    for name, teacher in zip(names, teachers, strict=True):
        given = None if teacher is None else answers(teacher, images)
        # Knowledge of features may come from a teacher of other classes.
        other_classes = given is not None and given.shape[1] != images.classes
        if given is None or (other_classes and model.class_map is None):
            continue
        accuracy, examples, chance = _accuracy(given, images.labels, model.class_map)
        found = {
            "name": name,
            "accuracy": accuracy,
            "examples": examples,
            "images": session.judged_on if held_out else "training",
        }
        if changes != AS_THEY_ARE:
            on_views = answers_of([teacher], images, changes)
            found["views"], *_ = _accuracy(on_views, images.labels, model.class_map)
        position["teachers"].append(found)
        session.progress.say(f"teacher {name}: {_in_words(found)}")
        if accuracy < min(2 * chance, chance + 0.1 * (1 - chance)):
            session.warn(_near_chance(session, found, chance))
    if of_student and position["teachers"]:
        answered = of_student.teachers_answer_on(session.training)
        for found in position["teachers"]:
            found["answers_on"] = answered
        cached = answered == "views" and of_student.views
        said = _ANSWERED_ONCE.format(cached) if cached else _ANSWERED[answered]
        session.progress.say(said)


def _in_words(found: dict[str, Any]) -> str:
    accuracy, examples = percent(found["accuracy"], 1), f"{found['examples']:,}"
    on_views = f", {percent(found['views'], 1)} on views of them" if "views" in found else ""
    return f"accuracy {accuracy} on {examples} {found['images']} images{on_views}"


def _near_chance(session: "Session", found: dict[str, Any], chance: float) -> str:
    """Return a warning of a teacher whose accuracy is near chance."""
    asked = "--teacher-preprocessing NAME"
    if not hasattr(session.recipe, "teacher_preprocessing"):
        asked = "zoo.teachers.load(path, preprocessing=NAME)"
    return (
        f"The teacher {found['name']} has {_in_words(found)}; chance is {percent(chance, 0)}. Does "
        f"it expect other pixels than 0..255? Then {asked} prepares them. Or are its classes in "
        "another order than those of the data?"
    )


def _some(images: ImageData) -> ImageData:
    """Return the images, or as many as suffice, with the classes in proportion."""
    most = max(_MOST_IMAGES, images.classes)
    return images if images.examples <= most else images.subset(most)


def answers(
    model: keras.Model, images: ImageData, augmentation: Augmentation = AS_THEY_ARE, seed: int = 0
) -> np.ndarray | None:
    """Return a model's logits (n, classes) for n images; None if it gives something else.

    A model that gives probabilities has their logarithms as logits. With an augmentation, the
    images are changed at random, once each, as `seed` says.
    """
    call = _compiled(model, images.image_shape)
    with damage_told():
        outputs = [
            call(ops.convert_to_tensor(batch, "float32"))
            for batch in images.views(1, _BATCH, seed=seed, augmentation=augmentation)
        ]
    if any(isinstance(output, (dict, list, tuple)) for output in outputs):
        return None
    values = np.concatenate(
        [ops.convert_to_numpy(ops.cast(output, "float32")) for output in outputs]
    )
    if values.ndim != 2:
        return None
    return ops.convert_to_numpy(two_or_more(logits_from(kind_of_values(values), values)))


def answers_of(
    models: Sequence[keras.Model],
    images: ImageData,
    augmentation: Augmentation = AS_THEY_ARE,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return the logits (n, classes) of a model for n images, or those of an ensemble.

    The probabilities of an ensemble at the temperature are the mean of its members'. With an
    augmentation the images are changed at random, once each.

    Raises:
        ValueError: if a model gives something else than logits or probabilities of classes.
    """
    logits = []
    for model in models:
        given = answers(model, images, augmentation)
        if given is None:
            raise ValueError(f"The model {model.name!r} gives no logits (batch, classes).")
        logits.append(given)
    if len(logits) > 1:
        return np.asarray(ops.convert_to_numpy(ensemble_logits(logits, temperature)))
    return logits[0]


def milliseconds(
    models: Sequence[keras.Model], image_shape: tuple[int, int, int], batch: int = 1
) -> list[float]:
    """Return how long each model takes for a batch of images, compiled: the median of 30 turns."""
    calls = [_compiled(model, image_shape) for model in models]
    images = ops.convert_to_tensor(np.zeros((batch, *image_shape), "float32"))
    seconds = np.zeros((_TURNS + 3, len(calls)))
    for turn in seconds:
        for index, call in enumerate(calls):
            begun = time.perf_counter()
            ops.convert_to_numpy(keras.tree.flatten(call(images))[0])
            turn[index] = time.perf_counter() - begun
    return [1000 * float(median) for median in np.median(seconds[3:], axis=0)]


def _compiled(model: keras.Model, image_shape: tuple[int, int, int]) -> Callable[[Any], Any]:
    """Return a function of images; `model.predict` would leave its compiled one in the model."""

    def call(images: Any) -> Any:
        return model(images, training=False)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A concrete function: TensorFlow warns of several functions of one name as of retracing.
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        return tf.function(call).get_concrete_function(images)
    return call


def _accuracy(
    logits: np.ndarray, labels: np.ndarray, class_map: dict[int, int] | None
) -> tuple[float, int, float]:
    """Return the accuracy, the number of images, and the accuracy of the best constant answer.

    With a map of classes, these are the images of the mapped classes, and the answers among them.
    """
    if class_map is not None:
        mapped = np.isin(labels, list(class_map))
        logits, labels = logits[mapped][:, list(class_map.values())], labels[mapped]
        labels = np.searchsorted(sorted(class_map), labels)
        logits = logits[:, np.argsort(list(class_map))]
    if not len(labels):
        return 0.0, 0, 0.0
    right = float((logits.argmax(axis=1) == labels).mean())
    return right, len(labels), float(np.bincount(labels).max() / len(labels))
