"""Look at one image with a model: its answer, and what explains the answer. For `zoo demo`."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import data, exports, measures
from zoo.commands import evaluating, models
from zoo.commands.hindsight import Hindsight, Mistake
from zoo.commands.predicting import Classifier, load
from zoo.data.readers import is_at_hand
from zoo.errors import ZooError
from zoo.fingerprint import fingerprint
from zoo.precision import in_float32
from zoo.recipe import located
from zoo.report import confidence_maps
from zoo.runs import Run
from zoo.saving import load_model
from zoo.terminal import say
from zoo.text import one_line, percent
from zoo.training import teachers

_SIDE = 336  # pixels of a confidence map on the page


@dataclass(frozen=True)
class Answer:
    """The answer of a model to an image, and what explains it.

    Attributes:
        pixels: the image as the model receives it, uint8 (h, w, c).
        probabilities: (classes,), those of `zoo predict`.
        maps: (map h, map w, classes); None for a model without class maps.
        exits: {layer: probabilities (classes,)} of the companions, lowest first, and of "output";
            {} for a model without companions.
        teachers: {name: probabilities (classes,)}.
        mistakes: the nearest mistakes of the test images.
    """

    pixels: np.ndarray
    probabilities: np.ndarray
    maps: np.ndarray | None
    exits: dict[str, np.ndarray]
    teachers: dict[str, np.ndarray]
    mistakes: list[Mistake]

    def overlay(self, index: int) -> np.ndarray:
        """Return the map of a class over the image, uint8 (h, w, 3). The answer must have maps."""
        height, width = self.pixels.shape[:2]
        scale = max(1, _SIDE // max(height, width))
        size = (scale * height, scale * width)
        return confidence_maps.overlay(self.pixels, self.maps, index, size)


class Looking:
    """A model, and all that its records and the data at hand say about its answers.

    Arguments:
        path: a model, as `zoo.commands.models.find` returns it.
        labels: a file with the names of the classes, for a `.keras` file.
        own_recipe: the file of the run's recipe, if it is one of your own.

    Attributes:
        names: the names of the classes.
        image_shape: (h, w, c) of the images that the model takes.
        data: the data set of the training; None if not known.
        examples: image files to begin with; there may be none.
        on_black: whether the images have a black ground, as MNIST's do: those of the test if they
            are at hand, else all grey ones.
        results: what was measured after the training; {} if not known.
        hindsight: the answers to the test images; None if these are not at hand.
        absent: a sentence for each part that could not be shown, with the reason.

    Raises:
        UsageError: if the model cannot classify images, or has another number of classes.
        ZooError: if it cannot be loaded.
    """

    def __init__(
        self, path: Path, labels: Path | None = None, own_recipe: Path | None = None
    ) -> None:
        self._classifier = Classifier(path, labels, own_recipe)
        self.names = self._classifier.names
        self.absent: list[str] = []
        self._model = self._classifier.model or self._model_of_export(path)
        if self._model is not None:
            self.image_shape = tuple(self._model.input_shape[1:])
        else:
            self.image_shape = self._classifier.served.image_shape
        fields, _ = models.of_training(path)
        self._resizing: Any = fields.get("resize", "squash")
        self.data: str | None = fields.get("data")
        self.results, taught_by = _records(path)
        self._maps = None
        if self._model is not None:
            self._maps = confidence_maps.maps_of(self._model, len(self.names))
        self._exits = self._exits_of(path, own_recipe)
        self._teachers = self._teachers_of(path, fields, taught_by)
        self.hindsight = self._hindsight_of(path, labels)
        self.examples = _examples(path)
        self.on_black = self._has_black_ground()
        self._lock = threading.Lock()  # a page asks from several threads

    @property
    def has_maps(self) -> bool:
        """True if the model has class maps."""
        return self._maps is not None

    def answer(self, file: Path) -> Answer:
        """Look at an image file.

        Raises:
            DataError: if it is no image, or one that `zoo predict` refuses.
        """
        with self._lock:
            (row,) = self._classifier.rows([file])
            if isinstance(row, Exception):
                raise row
            pixels = data.read_image(file, self.image_shape, self._resizing)
            batch = pixels[np.newaxis].astype("float32")
            return Answer(
                pixels,
                np.asarray(row, "float64"),
                _call(self._maps, batch)[0] if self.has_maps else None,
                {depth: row[0] for depth, row in self._exits(batch).items()},
                {
                    name: measures.softmax(_call(teacher, batch)[0])
                    for name, teacher in self._teachers.items()
                },
                self.hindsight.nearest_mistakes(_call(self._model, batch)[0])
                if self.hindsight
                else [],
            )

    def trust(self, probability: float) -> list[str]:
        """Say in sentences how far an answer of this probability can be trusted."""
        sentences, results = [], self.results
        if {"accuracy", "examples"} <= results.keys():
            of = f"{results['examples']:,} {results.get('evaluated_on', 'test')} images"
            sentences.append(f"The model got {percent(results['accuracy'])} of {of} right.")
        if results.get("calibration_error") is not None:
            error = percent(results["calibration_error"])
            sentences.append(
                f"Its probabilities differ from how often it is right by {error} on average "
                "(expected calibration error)."
            )
        if self.hindsight is not None:
            sentences.append(self.hindsight.right_near(probability))
        if sentences:
            source = f"images like those of {self.data}" if self.data else "images like those"
            sentences.append(f"This holds for {source}. On others it can be sure and wrong.")
        return sentences

    def _model_of_export(self, path: Path) -> keras.Model | None:
        if exports.newest(path) is None:
            self.absent.append("Confidence maps and mistakes: the export has no Keras model.")
            return None
        return in_float32(load(path))  # as the export computes

    def _exits_of(self, path: Path, own_recipe: Path | None) -> Any:
        """Return the function that gives {depth: probabilities (batch, classes)} of pixels."""
        served = self._classifier.served
        if served is not None:
            version = exports.newest(path, (exports.PROGRAM,))
            order = exports.card(version).get("exits", []) if version else []

            def by_export(batch):
                answers = served.exits(batch)
                return {depth: answers[depth] for depth in sorted(answers, key=_rank(order))}

            return by_export
        if not Run(path).with_companions_file.is_file():
            return lambda batch: {}
        full = load_model(path, with_companions=True, own_recipe=own_recipe)
        exits = full.exits_model()
        layers = (*full.companions, "output")

        def by_keras(batch):
            logits = exits(batch, training=False)
            return {layer: measures.softmax(_numpy(logits[layer])) for layer in layers}

        return by_keras

    def _teachers_of(self, path: Path, fields: dict[str, Any], taught_by: Any) -> dict[str, Any]:
        """Return {name: model} of the teachers that the records name and that are found."""
        named = fields.get("teachers") or [fields.get("teacher")]
        named = [str(name) for name in named if name]
        if not named or not fields.get("soft_weight", 1):
            return {}
        begun_in = Run(path).record.get("begun_in") if Run(path).is_finished else None
        prints = taught_by if taught_by and len(taught_by) == len(named) else [None] * len(named)
        found = {}
        for name, expected in zip(named, prints, strict=True):
            try:
                teacher = teachers.load(located(name, begun_in) if begun_in else name)
                self._check_teacher(teacher, expected)
            except (ZooError, OSError, ValueError) as error:
                self.absent.append(f"The teacher {name}: {one_line(error)}")
            else:
                found[name] = teacher
        return found

    def _check_teacher(self, teacher: keras.Model, expected: str | None) -> None:
        shapes = tuple(teacher.input_shape[1:]), teacher.output_shape[-1]
        own = self.image_shape, len(self.names)
        if shapes != own:
            raise ValueError(f"It takes and gives {shapes}, and the student {own}.")
        if expected not in (None, fingerprint(teacher)):
            raise ValueError("Its fingerprint is not that of the one that taught.")

    def _hindsight_of(self, path: Path, labels: Path | None) -> Hindsight | None:
        reason = self._reason_without_test_images()
        if reason is None:
            try:
                images = evaluating.test_images(path, self._model, None, labels)
                say(f"Asking the model about the test images of {images.name} ...")
                return Hindsight(self._model, images)
            except (ZooError, OSError, MemoryError) as error:
                reason = one_line(error)
        if self._model is not None:
            self.absent.append(f"The nearest mistakes: {reason}")
        return None

    def _has_black_ground(self) -> bool:
        if self.hindsight is None:
            return self.image_shape[-1] == 1
        edges = self.hindsight.images.images[:100][:, [0, -1]]
        return bool(np.median(edges) < 128)

    def _reason_without_test_images(self) -> str | None:
        if self._model is None:
            return ""
        if self.data is None:
            return "The model does not say what it was trained on."
        if not is_at_hand(self.data):
            return f"The data {self.data} are not on this machine."
        return None


def _records(path: Path) -> tuple[dict[str, Any], Any]:
    """Return what was measured after the training, and the fingerprints of the teachers."""
    if not path.is_dir():
        return {}, None
    if Run(path).is_finished:
        results = Run(path).results
        return results, results.get("teacher")
    version = exports.newest(path, (exports.CARD,))
    card = exports.card(version) if version else {}
    results = card.get("results") or {}
    if calibration := card.get("calibration"):  # the results are those before it
        errors = calibration.get("measured_on", {}).get("calibration_error", {})
        results |= {"calibration_error": errors.get("after")}
    return results, (card.get("training") or {}).get("teacher")


def _examples(path: Path) -> list[Path]:
    """Return the example images of a run or an export."""
    if Run(path).is_finished:
        folder = Run(path).examples
    else:
        version = exports.newest(path, (exports.CARD,)) if path.is_dir() else None
        folder = (version or path) / exports.EXAMPLES
    return sorted(folder.glob("*.png"))[:8]


def _rank(order: Sequence[str]) -> Any:
    return lambda depth: order.index(depth) if depth in order else len(order)


def _call(model: Any, batch: np.ndarray) -> np.ndarray:
    return _numpy(model(batch, training=False))


def _numpy(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float32")
