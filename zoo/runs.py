"""A run folder: its files, its name, and the lock on it.

runs/<recipe>/<name>/{recipe.json, versions.json, results.json, metrics.csv, checkpoints/,
model.keras, with_companions.keras, skipped.txt, examples/, figures/, report.html, tensorboard/}
"""

import contextlib
import csv
import dataclasses
import fcntl
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo import files
from zoo import recipe as recipes
from zoo.errors import UsageError
from zoo.recipe import Recipe, RecipeError
from zoo.text import flag


class Run:
    """The folder of one training. Only this class knows the names of the files in it."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.model_file = self.folder / "model.keras"
        self.with_companions_file = self.folder / "with_companions.keras"
        self.metrics_file = self.folder / "metrics.csv"
        self.skipped_file = self.folder / "skipped.txt"
        self.page = self.folder / "report.html"
        self.figures = self.folder / "figures"
        self.examples = self.folder / "examples"
        self.tensorboard = self.folder / "tensorboard"

    @classmethod
    def finished_at(cls, folder: Path | str) -> "Run":
        """Return the finished run in a folder.

        Raises:
            UsageError: if the folder has no run, or the run is not finished.
        """
        run = cls(folder)
        if not run.is_finished:
            missing = run._json("results")
            raise UsageError(f"{folder} is not a finished run: there is no {missing}.")
        return run

    @property
    def is_finished(self) -> bool:
        """True if the training reached its end. results.json is written last."""
        return self._json("results").is_file()

    @property
    def has_model(self) -> bool:
        """True if the folder has a trained model."""
        return self.model_file.is_file()

    @property
    def most_complete_file(self) -> Path:
        """The file of the model with its companions; without companions, the file that ships."""
        supervised = self.with_companions_file
        return supervised if supervised.is_file() else self.model_file

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """recipe.json: the recipe's name, file, title and fields."""
        return self._read("recipe")

    @functools.cached_property
    def versions(self) -> dict[str, Any]:
        """versions.json: the code, packages and hardware of the run."""
        return self._read("versions")

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """results.json: the measurements after the last epoch."""
        return self._read("results")

    @property
    def fields(self) -> dict[str, Any]:
        """The recipe's fields and their values."""
        return recipes.fields_from_json(self.record["fields"])

    @property
    def label_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return self.results["label_names"]

    @functools.cached_property
    def history(self) -> dict[str, Any]:
        """metrics.csv as {column: (epochs,) float64}; an empty cell is NaN."""
        import numpy as np

        with open(self.metrics_file, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
        return {
            column: np.array([float(row[column] or "nan") for row in rows])
            for column in reader.fieldnames or ()
        }

    @property
    def versions_before(self) -> dict[str, Any] | None:
        """versions.json as the last start of this run wrote it; None before the first."""
        return self._read("versions") if self._json("versions").exists() else None

    def recipe_class(self, own_file: Path | None = None) -> type[Recipe]:
        """Run the recipe file of this run and return its class.

        Arguments:
            own_file: the recipe file, if it is one of your own; see `zoo.recipe.file_of_run`.

        Raises:
            RecipeError: if the file may not run, does not exist or has changed.
        """
        versions = self.versions_before or {}
        return recipes.load(recipes.file_of_run(self.record, versions.get("recipe"), own_file))

    def recipe(self, own_file: Path | None = None) -> Recipe:
        """Return the recipe with the values of this run; see `recipe_class`."""
        return self.recipe_class(own_file)(**self.fields)

    def write_recipe(self, record: dict[str, Any]) -> None:
        """Write recipe.json; `record_of` makes the record."""
        self._write("recipe", record)

    def write_versions(self, versions: dict[str, Any]) -> None:
        """Write versions.json."""
        self._write("versions", versions)

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, which marks the run as finished."""
        self._write("results", results)

    def write_history(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write metrics.csv, one row an epoch. A cell that a row lacks stays empty."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with (
            files.whole(self.metrics_file) as partial,
            open(partial, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def write_skipped(self, names: Sequence[str]) -> None:
        """Write skipped.txt, the files of the data that could not be read, one a line."""
        self.skipped_file.write_text("\n".join(names) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out: they would overwrite our checkpoints.

        Raises:
            RecipeError: if another process trains in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecipeError(f"Another process is training in {self.folder}.") from None
            yield

    def refuse_another(self, record: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Refuse this folder if it was begun with other values.

        Arguments:
            record: the record of the run that is about to start.
            defaults: the recipe's fields and their defaults. A field that is newer than the folder
                had its default then.

        Raises:
            RecipeError: if a field differs; names both values.
        """
        if not self._json("recipe").exists():
            return
        begun, now = self._read("recipe")["fields"], record["fields"]
        begun = {**json.loads(json.dumps(defaults)), **begun}
        differing = sorted(key for key in {*begun, *now} if begun.get(key) != now.get(key))
        if differing:
            pairs = (f"{key}={begun.get(key)!r}, now {now.get(key)!r}" for key in differing)
            raise RecipeError(
                f"{self.folder} holds a run with {', '.join(pairs)}; choose another --name."
            )

    def _json(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any]:
        return json.loads(self._json(name).read_text(encoding="utf-8"))

    def _write(self, name: str, record: dict[str, Any]) -> None:
        files.write(self._json(name), json.dumps(record, indent=2) + "\n")
        vars(self).pop({"recipe": "record"}.get(name, name), None)


def folder_of(recipe: Recipe, file: Path | str, runs: Path | str, name: str | None) -> Path:
    """Return the folder of a run, runs/<recipe>/<name>.

    Arguments:
        recipe: the recipe with its values.
        file: the recipe's file.
        runs: the folder of all runs.
        name: the name of the run; None for `name_of(recipe)`.
    """
    return Path(runs) / Path(file).stem / (name or name_of(recipe))


def name_of(recipe: Recipe) -> str:
    """Return a run's name: the fields that differ from their defaults, as in "epochs=3,seed=1".

    It is "default" without such fields. Characters that do not suit a file name become "_". A long
    name is cut, and ends with a checksum.
    """
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    defaults = type(recipe)()
    changed = [f"{key}={value}" for key, value in values.items() if value != getattr(defaults, key)]
    text = ",".join(changed) or "default"
    name = "".join(
        character if character.isalnum() or character in "=,.-_" else "_" for character in text
    )
    if len(name) <= 200:  # file systems allow 255 bytes
        return name
    return f"{name[:190]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def flags_of(name: str) -> str:
    """Return the flags that make a run of this name, the reverse of `name_of`.

    Each flag has a space in front: "epochs=3,seed=1" -> " --epochs 3 --seed 1". A name that is not
    made of fields becomes " --name NAME".
    """
    if name == "default":
        return ""
    pairs = [part.partition("=") for part in name.split(",")]
    if not all(value for _, _, value in pairs):
        return f" --name {name}"
    return "".join(f" {flag(field)} {value}" for field, _, value in pairs)


def record_of(recipe: Recipe, file: Path | str) -> dict[str, Any]:
    """Return the contents of recipe.json: the recipe's name, file, title and fields."""
    return {
        "recipe": Path(file).stem,
        "file": str(Path(file).resolve()),
        "title": recipes.title(file),
        "fields": json.loads(json.dumps(dataclasses.asdict(recipe))),
    }
