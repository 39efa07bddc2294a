"""A recipe: the settings of one training, and the files that recipes are read from."""

import ast
import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from zoo import files
from zoo.errors import ZooError
from zoo.text import did_you_mean, flag

if TYPE_CHECKING:
    import keras

    from zoo.data import Augmentation, ImageData

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


class RecipeError(ZooError, ValueError):
    """A recipe cannot be found, read, or carried out with the given values."""

    exit_code = 2


class Plan(NamedTuple):
    """The model, optimizer, loss and callbacks of one training."""

    model: Any
    """A built Keras model, raw pixels -> logits."""
    optimizer: Any
    """A `keras.optimizers.Optimizer`."""
    loss: Any
    """A loss of whole-number labels and logits, as `compile` takes it."""
    callbacks: list
    """Keras callbacks. Their counters are saved with the training state; their weights are not."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training: each field is a command-line flag and a line in recipe.json.

    A recipe file defines a subclass named `Recipe`. It changes defaults, adds fields, and overrides
    the methods below for the decisions that differ. Line 1 of the file states the measured result.
    """

    signed: ClassVar[Collection[str]] = ()
    """Names of the fields whose numbers may be negative. All others are 0 or more."""

    data: str = "digits"
    """Training data: a TFDS name, "digits", a folder of class folders, or an .npz file."""
    image_size: tuple[int, int] | int | None = None
    """Height and width to resize a folder's images to. Required if their sizes differ.
    One number stands for both."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """Way to another aspect ratio: stretch (squash), cut off two sides (crop), or add black (pad).
    Exports and `zoo predict` do the same."""
    channels: Literal[1, 3] | None = None
    """All images become grey (1) or RGB (3). None: RGB if one image of a folder has colours."""
    stream: bool | None = None
    """Read the images of a folder or data set from disk instead of memory. None: from 2 GiB on."""
    skip_corrupt: float = 0.0
    """Largest share of a folder's files that may be unreadable. They are left out and listed."""
    epochs: int = 30
    """Number of epochs. The model is evaluated after each."""
    steps_per_epoch: int = 0
    """Steps between two evaluations. 0: one pass over the training images."""
    batch_size: int = 128
    """Number of images in a batch."""
    micro_batches: int = 1
    """Divide each batch into this many parts, and run them one after another before one update.
    Saves memory."""
    learning_rate: float = 0.1
    """Peak learning rate of the schedule."""
    weight_decay: float = 5e-4
    """Weight decay of the kernels, per step and unit of learning rate."""
    precision: Precision = "auto"
    """Precision of the arithmetic. The weights are float32.
    auto: mixed_bfloat16 on GPUs and on CPUs with bfloat16 instructions; otherwise float32.
    GPUs have bfloat16 since Ampere."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, the augmentation and the dropout."""
    validation: float = 0.0
    """Share of the training images to hold out and evaluate on. 0: evaluate on the test set."""
    validation_group: str | None = None
    """Regular expression that finds an image's group in its path. --validation divides no group.
    "[^/]*_" finds rex_ in cat/rex_01.jpg."""
    validation_list: str | None = None
    """File with the images to hold out and evaluate on, one path a line.
    A path begins at the folder of the data."""
    class_weights: Literal["balanced"] | None = None
    """A class of few images counts as much in the training loss as one of many (balanced)."""

    def __post_init__(self) -> None:
        """Take one number as height and width."""
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))

    @property
    def judged_on(self) -> str:
        """The name of the images to evaluate on, "validation" or "test"."""
        return "validation" if self.validation or self.validation_list else "test"

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `zoo.data.load` that the fields give."""
        fields = ("image_size", "stream", "skip_corrupt", "channels")
        return {**{name: getattr(self, name) for name in fields}, "resizing": self.resize}

    def check(self) -> None:
        """Refuse values that no training can use.

        A number is finite, 0 or more unless the class names its field as `signed`, and at most that
        of an int32 or float32. A recipe that needs more of a field adds a check of its own.

        Raises:
            RecipeError: if a field is out of range; names its flag.
        """
        for field in ("epochs", "batch_size", "micro_batches", "learning_rate"):
            value = getattr(self, field)
            follows = field == "batch_size" and value == type(self).batch_size == 0
            self.require(field, value > 0 or follows, "a positive number")
        self.require("steps_per_epoch", self.steps_per_epoch >= 0, "0 or more")
        self.require("weight_decay", self.weight_decay >= 0, "0 or more")
        self.require("skip_corrupt", 0 <= self.skip_corrupt < 1, "a share in 0 <= share < 1")
        self.require("validation", 0 <= self.validation < 1, "a share in 0 <= share < 1")
        self.require(
            "validation_group",
            self.validation_group is None or self.validation,
            "for a --validation SHARE",
        )
        self.require(
            "validation_list",
            not self.validation_list or not self.validation,
            "given without --validation, since the list says what is held out",
        )
        self.require("seed", 0 <= self.seed < 2**31, "a whole number from 0 to 2^31 - 1")
        for setting in dataclasses.fields(self):
            self._check_numbers(setting.name)

    def _check_numbers(self, field: str) -> None:
        """Refuse a field with a number that no field of this kind has."""
        value = getattr(self, field)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)):
                most = 2**31 - 1 if isinstance(number, int) else 3.4e38  # as int32 and float32
                least = -most if field in self.signed else 0
                self.require(field, least <= number <= most, f"a number from {least} to {most}")

    def require(self, field: str, holds: Any, expected: str) -> None:
        """Refuse a field's value unless `holds` is true.

        Arguments:
            field: the field's name.
            holds: whether the value can be used.
            expected: a description of the values that can be used, for the message.

        Raises:
            RecipeError: if `holds` is false.
        """
        if not holds:
            raise RecipeError(f"{flag(field)} is {expected}; received {getattr(self, field)}.")

    def datasets(self) -> "tuple[ImageData, ImageData]":
        """Return the training images and the images to evaluate on."""
        from zoo.data import dividing, load

        training = load(self.data, "train", **self.reading)
        if self.validation_list:
            return dividing.hold_out_listed(training, self.data, self.validation_list)
        if self.validation_group:
            return dividing.hold_out_groups(training, self.validation, self.validation_group)
        if self.validation:
            return training.holdout(self.validation)
        return training, load(self.data, "test", **self.reading)

    def augmentation(self) -> "Augmentation":
        """Return the random changes of the training images; by default there are none."""
        from zoo.data import Augmentation

        return Augmentation()

    def training_batches(self, data: "ImageData", start_step: int) -> Any:
        """Return an endless stream of (images, labels), which begins at step `start_step`."""
        return data.training_batches(
            self.batch_size,
            seed=self.seed,
            start_step=start_step,
            augmentation=self.augmentation(),
        )

    def plan(self, data: "ImageData", steps: int) -> Plan:
        """Return the `Plan` of a training of `steps` steps on `data`.

        By default it calls the four methods below. Override those, or override this method if one
        decision makes several parts, as a preset does.
        """
        return Plan(
            self.model(data, steps), self.optimizer(steps), self.loss(), list(self.callbacks())
        )

    def model(self, data: "ImageData", steps: int) -> "keras.Model":
        """Return a built Keras model, raw pixels -> logits, for `data` and `steps` steps."""
        raise RecipeError(f"{type(self).__module__} has no method `model`: what does it train?")

    def optimizer(self, steps: int) -> "keras.optimizers.Optimizer":
        """Return SGD with Nesterov momentum, 5 % of the steps of warm-up and a cosine to zero."""
        from zoo.optimizers import warm_cosine_sgd

        return warm_cosine_sgd(steps, self.learning_rate, self.weight_decay)

    def loss(self) -> Any:
        """Return a loss of whole-number labels and logits; by default softmax cross-entropy."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def callbacks(self) -> "list[keras.callbacks.Callback]":
        """Return Keras callbacks; by default there are none.

        Their counters are saved with the training state; their weights are not.
        """
        return []

    def search(self, hp: Any) -> "Recipe":
        """Return this recipe with other values in some fields, for `zoo tune` to try.

        By default nothing is searched. Draw values under the names of the fields:
        `return dataclasses.replace(self, dropout=hp.Float("dropout", 0, 0.5))`.

        Arguments:
            hp: a `keras_tuner.HyperParameters`.
        """
        return self


def names() -> dict[str, Path]:
    """Return {name: file} of all recipes. The nearest folder comes first and wins a shared name."""
    known: dict[str, Path] = {}
    for folder in files.folders("recipes"):
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                known.setdefault(file.stem, file)
    return known


def find(name_or_file: Path | str) -> Path:
    """Return the file of a recipe that is given by name or by path.

    Raises:
        RecipeError: if there is no such recipe; suggests the nearest name.
    """
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
    """Return line 1 of a recipe file. The file does not run.

    Raises:
        RecipeError: if the file is no Python in UTF-8.
    """
    try:
        docstring = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{file} could not be read: {type(error).__name__}: {error}") from error
    return (docstring or "no first line").splitlines()[0]


def load(file: Path | str) -> type[Recipe]:
    """Run a recipe file and return its `Recipe` class. The file is a program, like any other.

    Raises:
        RecipeError: if the file fails, or defines no recipe.
    """
    name = f"recipes.{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{file} is no Python file; a recipe is a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # tyro reads the fields' help from there
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
    """Return a recipe's fields as its constructor takes them: the lists of JSON become tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def located(path: str, begun_in: Path | str) -> str:
    """Return the path of a run's data as it is from here: one that leads nowhere may be relative.

    Arguments:
        path: the path, or the name of a data set.
        begun_in: the folder that a relative path begins at.
    """
    there = Path(begun_in, path)
    if Path(path).expanduser().exists() or not there.exists():
        return path
    if os.sep not in path:
        from zoo.data.readers import data_sets

        if path in ("digits", *data_sets()):
            return path
    return str(there)


def file_of_run(record: dict[str, Any], sha256: str | None, own_file: Path | None = None) -> Path:
    """Return the recipe file of a run, if this process may run it.

    A run folder may come from anywhere, so a file does not run only because a run names it. A
    recipe that is found by its name may run: it is part of the zoo, or lies in your folder
    recipes/. A file of your own may run if you have trained with that very file on this machine, or
    if you give it as `own_file`. Either way it must be the file that the run was trained with.

    Arguments:
        record: the contents of the run's recipe.json, with the recipe's name and file.
        sha256: the file's SHA-256 in versions.json; None if there is none.
        own_file: the file that you want to run.

    Raises:
        RecipeError: if the file may not run, does not exist or has changed; says what to do.
    """
    name, known = record["recipe"], names()
    file = Path(own_file or record.get("file", ""))
    by_name = known.get(name)
    if not own_file and by_name and (not file.is_file() or file.samefile(by_name)):
        return by_name
    if not file.is_file():
        raise RecipeError(
            f"The run's recipe {name!r} is not there: {file}. Give its file: --recipe FILE."
        )
    current = files.sha256(file)
    if sha256 is not None and current != sha256:
        raise RecipeError(
            f"{file} is not the recipe that the run was trained with: it has changed since. Give "
            "the file of that time: --recipe FILE."
        )
    if not own_file and not _mark_of_approval(current).exists():
        raise RecipeError(
            f"The run was trained with a recipe file that was never used on this machine: {file}. "
            f"It is a program; read it, and run it if you trust it: --recipe {file}"
        )
    return file


def approve(file: Path | str) -> None:
    """Remember that the user trains with this very file, so that `file_of_run` returns it."""
    mark = _mark_of_approval(files.sha256(file))
    with contextlib.suppress(OSError):  # without a writable home, the user needs --recipe
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark_of_approval(sha256: str) -> Path:
    return files.cache() / "recipes" / sha256
