"""A recipe: the decisions of one training, as a record, and the few methods that carry them out."""

import ast
import contextlib
import dataclasses
import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zoo import files
from zoo.errors import ZooError
from zoo.text import did_you_mean, flag

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


class RecipeError(ZooError, ValueError):
    """A recipe that cannot be found, read, or carried out with the values given."""

    exit_code = 2


class Plan(NamedTuple):
    """What is trained, and with what: made once for a training."""

    model: Any
    """A built Keras model, raw pixels -> logits."""
    optimizer: Any
    """A `keras.optimizers.Optimizer`."""
    loss: Any
    """Of logits and whole-number labels; what `compile` takes."""
    callbacks: list
    """Keras callbacks. Their counters are saved with the training state; weights are not."""


@dataclass(frozen=True)
class Recipe:
    """Fields are what a person would vary: command-line flags, tuner ranges, lines in recipe.json.

    A recipe file defines a subclass named `Recipe`, overrides defaults, adds fields, and overrides
    the methods below where it decides otherwise. Line 1 of the file states the measured result.
    """

    data: str = "digits"
    """A TFDS name, "digits", a folder of class folders, or an .npz file."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize a folder's images to; needed where they differ."""
    stream: bool | None = None
    """Keep a folder's or data set's images on disk and not in memory; None: from 2 GiB on."""
    skip_corrupt: float = 0.0
    """The share of a folder's files that may be no images: they are left out, and named."""
    epochs: int = 30
    steps_per_epoch: int = 0
    """Steps between two evaluations; 0 for one pass over the training images."""
    batch_size: int = 128
    micro_batches: int = 1
    """Parts of a batch that follow one another before the one update: for less memory."""
    learning_rate: float = 0.1
    """The highest of the schedule."""
    weight_decay: float = 5e-4
    """Of the kernels, a step and unit of learning rate."""
    precision: Precision = "auto"
    """Of the arithmetic; the weights are float32. auto: mixed_bfloat16 on GPUs, which have had
    bfloat16 since Ampere, and on CPUs that have it; else float32."""
    seed: int = 0
    """Of the initial weights, the order, the augmentation and the dropout."""
    validation: float = 0.0
    """The share of the training images to hold out and be judged on; at 0 the test set judges."""

    def check(self):
        """Refuse values no training could use; raises RecipeError."""
        for field in ("epochs", "batch_size", "micro_batches", "learning_rate"):
            self._require(field, getattr(self, field) > 0, "a positive number")
        self._require("steps_per_epoch", self.steps_per_epoch >= 0, "0 or more")
        self._require("weight_decay", self.weight_decay >= 0, "0 or more")
        self._require("skip_corrupt", 0 <= self.skip_corrupt < 1, "a share in 0 <= share < 1")
        self._require("validation", 0 <= self.validation < 1, "a share in 0 <= share < 1")
        self._require("seed", 0 <= self.seed < 2**31, "a whole number from 0 to 2^31 - 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            self._require(
                field.name, not isinstance(value, float) or math.isfinite(value), "a finite number"
            )

    def _require(self, field, holds, expected):
        if not holds:
            raise RecipeError(f"{flag(field)} is {expected}; received {getattr(self, field)}.")

    def datasets(self):
        """(training images, images to be judged on), both `zoo.data.ImageData`."""
        from zoo.data import load

        how = {key: getattr(self, key) for key in ("image_size", "stream", "skip_corrupt")}
        training = load(self.data, "train", **how)
        if self.validation:
            return training.holdout(self.validation)
        return training, load(self.data, "test", **how)

    def augmentation(self):
        """The random changes of the training images, a `zoo.data.Augmentation`; none here."""
        from zoo.data import Augmentation

        return Augmentation()

    def training_batches(self, data, start_step):
        """The endless stream to train on, from a step on: (batch of images, their labels)."""
        return data.training_batches(
            self.batch_size,
            seed=self.seed,
            start_step=start_step,
            augmentation=self.augmentation(),
        )

    def plan(self, data, steps):
        """The `Plan` of a training on this `ImageData` of so many steps.

        It calls the four methods below. Override it where one decision makes several of them, as
        a preset does, and override the methods otherwise.
        """
        return Plan(
            self.model(data, steps), self.optimizer(steps), self.loss(), list(self.callbacks())
        )

    def model(self, data, steps):
        """A built Keras model, raw pixels -> logits, for this `ImageData` and so many steps."""
        raise RecipeError(f"{type(self).__module__} has no method `model`: what does it train?")

    def optimizer(self, steps):
        """SGD with Nesterov momentum, 5 % of the steps of warm-up and a cosine to zero."""
        from zoo.optimizers import warm_cosine_sgd

        return warm_cosine_sgd(steps, self.learning_rate, self.weight_decay)

    def loss(self):
        """Of logits and whole-number labels."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def callbacks(self):
        """Keras callbacks. Their counters are saved with the training state; weights are not."""
        return []

    def search(self, hp):
        """This recipe with other values in some fields, for `zoo tune` to try; here in none.

        `hp` is a `keras_tuner.HyperParameters`, and the names to draw are those of the fields:
        `return dataclasses.replace(self, dropout=hp.Float("dropout", 0, 0.5))`.
        """
        return self


def names() -> dict[str, Path]:
    """{name: file} of all recipes, nearest folder first."""
    found: dict[str, Path] = {}
    for folder in files.folders("recipes"):
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                found.setdefault(file.stem, file)
    return found


def find(name_or_file: Path | str) -> Path:
    """The file of a recipe given by name or by path; raises RecipeError with the nearest name."""
    path = Path(name_or_file)
    if path.suffix == ".py":
        if not path.is_file():
            raise RecipeError(f"There is no recipe file {str(path)!r}.")
        return path
    known = names()
    if name_or_file not in known:
        hint = did_you_mean(name_or_file, known, "`zoo list` shows the recipes.")
        raise RecipeError(f"There is no recipe {name_or_file!r}. {hint}")
    return known[str(name_or_file)]


def title(file: Path | str) -> str:
    """Line 1 of a recipe file, without running it."""
    docstring = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    return (docstring or "no first line").splitlines()[0]


def load(file: Path | str) -> type[Recipe]:
    """The `Recipe` class that a file defines. Runs the file: it is a program, like any other."""
    name = f"recipes.{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where tyro looks for the comments on the fields
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RecipeError(f"{file} could not be read: {type(error).__name__}: {error}") from error
    recipe = getattr(module, "Recipe", None)
    if not (isinstance(recipe, type) and issubclass(recipe, Recipe) and recipe is not Recipe):
        raise RecipeError(
            f"{file} defines no recipe; it needs a frozen dataclass `Recipe` derived from "
            "zoo.recipe.Recipe."
        )
    return recipe


def fields_from_json(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, as JSON has them, as the recipe takes them."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


def recorded(record: dict[str, Any], sha256: str | None, own_file: Path | None = None) -> Path:
    """The recipe file of a run, if it may run.

    A run folder may come from anywhere, so what it names is not run for that. A recipe that is
    found by its name is the zoo's or lies in your folder recipes/. A file of your own runs if you
    have trained with that very file on this machine, or give it as `own_file`; and only if it is
    the file that the run was trained with.

    Arguments:
        record: what recipe.json says of the recipe: its name and its file.
        sha256: of the file, as versions.json has it.
        own_file: the file that you want to run.

    Raises:
        RecipeError: if it may not run, is not there, or has changed; says what to do.
    """
    named, known = record["recipe"], names()
    file = Path(own_file or record.get("file", ""))
    by_name = known.get(named)
    if not own_file and by_name and (not file.is_file() or file.samefile(by_name)):
        return by_name
    if not file.is_file():
        raise RecipeError(
            f"The run's recipe {named!r} is not there: {file}. Give its file: --recipe FILE."
        )
    current = files.sha256(file)
    if sha256 is not None and current != sha256:
        raise RecipeError(
            f"{file} is not the recipe that the run was trained with: it has changed since. Give "
            "the file of that time: --recipe FILE."
        )
    if not own_file and not _approved(current).exists():
        raise RecipeError(
            f"The run was trained with a recipe file that was never used on this machine: {file}. "
            f"It is a program; read it, and run it if you trust it: --recipe {file}"
        )
    return file


def approve(file: Path | str) -> None:
    """Remember that the user trains with this very file; see `recorded`."""
    mark = _approved(files.sha256(file))
    with contextlib.suppress(OSError):  # a home that cannot be written: then --recipe is needed
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _approved(sha256: str) -> Path:
    return files.cache() / "recipes" / sha256
