"""A recipe: the decisions of one training, as a record, and the few methods that carry them out."""

import ast
import dataclasses
import difflib
import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo import files

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


class RecipeError(ValueError):
    """A recipe that cannot be found, read, or carried out with the values given."""


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
            raise RecipeError(
                f"--{field.replace('_', '-')} is {expected}; received {getattr(self, field)}."
            )

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


def names():
    """{name: file} of all recipes, nearest folder first."""
    found = {}
    for folder in files.folders("recipes"):
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                found.setdefault(file.stem, file)
    return found


def find(name_or_file):
    """The file of a recipe given by name or by path; raises RecipeError with the nearest name."""
    path = Path(name_or_file)
    if path.suffix == ".py":
        if not path.is_file():
            raise RecipeError(f"There is no recipe file {str(path)!r}.")
        return path
    found = names()
    if name_or_file not in found:
        nearest = difflib.get_close_matches(name_or_file, found, 1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else "`zoo list` shows the recipes."
        raise RecipeError(f"There is no recipe {name_or_file!r}. {hint}")
    return found[name_or_file]


def title(file):
    """Line 1 of a recipe file, without running it."""
    docstring = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    return (docstring or "no first line").splitlines()[0]


def load(file):
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
