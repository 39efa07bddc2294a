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
import os
import re
import shutil
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo import files, records
from zoo import recipe as recipes
from zoo.errors import UsageError
from zoo.markup import shell
from zoo.recipe import Recipe, RecipeError
from zoo.text import flag, printable


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
        self._open_folder: int | None = None  # while it is locked

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
    def is_begun(self) -> bool:
        """True if a training began in the folder, or left a model there."""
        return self._json("recipe").is_file() or self.has_model

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
        """recipe.json, as `record_of` makes it."""
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
        """The recipe's fields and their values.

        Raises:
            UsageError: if recipe.json is damaged.
        """
        return self._fields_of(Recipe)

    @property
    def data(self) -> str:
        """The data set of the run; a path is one from here, see `zoo.recipe.located`."""
        return self._located().get("data") or self.fields["data"]

    def _located(self) -> dict[str, str]:
        """Return the fields that hold a path, as it is from here."""
        # Older runs do not know where they began. By default it was three folders up.
        begun_in = self.record.get("begun_in") or (self.folder / "../../..").resolve()
        paths = {name: self.fields.get(name) for name in ("data", "validation_list")}
        return {name: recipes.located(path, begun_in) for name, path in paths.items() if path}

    def _fields_of(self, recipe_class: type[Recipe]) -> dict[str, Any]:
        """Return the fields. Those of this class must have values of their types."""
        fields = recipes.fields_from_json(self.record["fields"])
        for name, kind in typing.get_type_hints(recipe_class).items():
            if name in fields and not records.is_a(fields[name], kind):
                expected = kind.__name__ if isinstance(kind, type) else kind
                raise records.damaged(
                    self._json("recipe"), f"{name} is {fields[name]!r}, expected {expected}"
                )
        return records.Record(self._json("recipe"), fields)

    @property
    def label_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return self.results["label_names"]

    @functools.cached_property
    def history(self) -> dict[str, Any]:
        """metrics.csv as {column: (epochs,) float64}; an empty cell is NaN.

        Raises:
            UsageError: if the file is damaged.
        """
        import numpy as np

        try:
            with open(self.metrics_file, newline="", encoding="utf-8") as lines:
                columns, *rows = [*filter(None, csv.reader(lines))] or [[]]
            array = np.full((len(rows), len(columns)), np.nan)
            for values, row in zip(array, rows, strict=True):
                values[: len(row)] = [float(cell or "nan") for cell in row]
        except (ValueError, csv.Error) as error:
            raise records.damaged(self.metrics_file, str(error)) from error
        return records.Record(self.metrics_file, dict(zip(columns, array.T, strict=True)))

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
        """Return the recipe with the values of this run; see `recipe_class`.

        Raises:
            UsageError: if recipe.json is damaged.
        """
        recipe_class = self.recipe_class(own_file)
        try:
            return recipe_class(**{**self._fields_of(recipe_class), **self._located()})
        except TypeError as error:
            raise records.damaged(self._json("recipe"), str(error)) from error

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

    def copy_records(self, folder: Path) -> None:
        """Copy recipe.json, versions.json, results.json and metrics.csv into another folder.

        The copy does not say where the recipe's file was, since it is for other machines.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*map(self._json, ("versions", "results")), self.metrics_file):
            shutil.copyfile(file, folder / file.name)
        of_this_machine = ("file", "begun_in")
        record = {key: value for key, value in self.record.items() if key not in of_this_machine}
        Run(folder).write_recipe(record)

    def write_skipped(self, names: Sequence[str]) -> None:
        """Write skipped.txt, the files of the data that could not be read, one a line."""
        files.write(self.skipped_file, "\n".join(map(printable, names)) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out: they would overwrite our checkpoints.

        What a killed process left in the folder is removed. So is the folder at the end, if it is
        new and no run was begun in it.

        Raises:
            RecipeError: if another process trains in the folder.
        """
        new = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # A link that came with the folder is not followed, and its file not emptied.
            file = self.folder / ".lock"
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock), file.stat()):
                    raise BlockingIOError("another process has just removed the folder")
            except (BlockingIOError, FileNotFoundError):
                raise RecipeError(f"Another process is training in {self.folder}.") from None
            self._open_folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, self._open_folder)
            self._remove_leftovers()
            stack.callback(self._remove_unless_begun, new)
            yield

    def _remove_unless_begun(self, new: list[Path]) -> None:
        """Remove a lock beside which nothing was written, and these folders if they are empty."""
        with contextlib.suppress(OSError):  # something is in the folder, or it was moved
            if {entry.name for entry in self.folder.iterdir()} <= {".lock", "checkpoints"}:
                if self.checkpoints.is_symlink():
                    self.checkpoints.unlink()
                if not self.checkpoints.exists():
                    (self.folder / ".lock").unlink()
                for folder in new:
                    folder.rmdir()

    def _remove_leftovers(self) -> None:
        for folder in (self.folder, self.figures, self.examples):
            files.remove_partials(folder)
        for file in self.folder.glob("tmp????????"):  # of Keras, when it saves a large model
            if file.is_file():
                file.unlink(missing_ok=True)

    @property
    def place(self) -> Path | None:
        """The path of the locked folder, which someone may have moved. None if it was deleted."""
        assert self._open_folder is not None
        held = os.fstat(self._open_folder)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(held, self.folder.stat()):
                return self.folder
        # Linux knows the present name of an open folder.
        moved = Path(f"/proc/self/fd/{self._open_folder}").resolve()
        return moved if held.st_nlink and moved.is_dir() else None

    def find_checkpoints(self, elsewhere: Path | str | None) -> None:
        """Let `checkpoints` be a link to another folder, or check the link of an earlier start.

        Arguments:
            elsewhere: an empty or missing folder, or the one of the link; None for no new link.

        Raises:
            UsageError: if the link leads nowhere, or there are other checkpoints in the way.
        """
        here = self.checkpoints
        target = Path(elsewhere).resolve() if elsewhere else here.resolve()
        if here.is_symlink():
            if target != here.resolve() or not target.is_dir():
                raise UsageError(
                    f"The link {here} leads to {here.resolve()}, which is not there, or not "
                    f"--checkpoints. Put that folder back, or remove the link to begin anew."
                )
            return
        if target == here.resolve():
            return
        if here.is_dir() and any(here.iterdir()):
            raise UsageError(
                f"{here} already has checkpoints. Move that folder, make a link {here} to the new "
                "place, and leave --checkpoints out."
            )
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UsageError(f"--checkpoints is a new or empty folder; {elsewhere} is not empty.")
        if here.is_dir():
            here.rmdir()
        here.symlink_to(target)

    def refuse_another(self, record: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Refuse this folder if it was begun with another recipe or other values.

        Arguments:
            record: the record of the run that is about to start.
            defaults: the recipe's fields and their defaults. A field that is newer than the folder
                had its default then.

        Raises:
            RecipeError: if a field differs; names both values.
            UsageError: if recipe.json is damaged.
        """
        if not self._json("recipe").exists():
            return
        if differences := differences_of(self._read("recipe"), record, defaults):
            hint = ""
            if self.is_finished and re.fullmatch(r"epochs=\d+, now \d+", differences):
                flags = ("--data", record["fields"]["data"], "--weights", self.folder)
                hint = f" To go on from its weights: {shell('zoo', 'finetune', *flags)}"
            raise RecipeError(
                f"{self.folder} holds a run with {differences}; choose another --name.{hint}"
            )

    def _json(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> records.Record:
        return records.read(self._json(name))

    def _write(self, name: str, record: dict[str, Any]) -> None:
        files.write(self._json(name), json.dumps(record, indent=2) + "\n")
        vars(self).pop({"recipe": "record"}.get(name, name), None)


def differences_of(begun: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Return the recipe and fields in which two records of `record_of` differ; "" if none.

    Arguments:
        begun: the record of the run that was begun.
        now: the record of the run that is about to start.
        defaults: the recipe's fields and their defaults, for fields that `begun` lacks.
    """
    old = {**json.loads(json.dumps(defaults)), **begun["fields"]}
    new = now["fields"]
    pairs = [
        f"{key}={old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if begun.get("recipe") not in (None, now["recipe"]):
        pairs.insert(0, f"the recipe {begun['recipe']!r}, now {now['recipe']!r}")
    return ", ".join(pairs)


def folder_of(recipe: Recipe, file: Path | str, runs: Path | str, name: str | None) -> Path:
    """Return the folder of a run, runs/<recipe>/<name>.

    Arguments:
        recipe: the recipe with its values.
        file: the recipe's file.
        runs: the folder of all runs.
        name: the name of the run, or several folders and the name; None for `name_of(recipe)`.

    Raises:
        UsageError: if the name leads elsewhere, or no file system takes it.
    """
    name = name_of(recipe) if name is None else name
    parts = name.split("/")
    if {"", ".", ".."} & {*parts} or printable(name) != name:
        raise UsageError(
            f"--name is the name of a new folder in {Path(runs) / Path(file).stem}, of characters "
            f"that can be printed; received {name!r}."
        )
    longest = max(len(os.fsencode(part)) for part in parts)
    if longest > 255:
        raise UsageError(f"--name has {longest} bytes; a file system takes 255. Give another.")
    return Path(runs) / Path(file).stem / name


def name_of(recipe: Recipe) -> str:
    """Return a run's name: the fields that differ from their defaults, as in "epochs=3,seed=1".

    It is "default" without such fields. Characters that do not suit a file name become "_". A long
    name is cut, and ends with a checksum. It has at most 255 bytes.
    """
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    defaults = type(recipe)()
    changed = [f"{key}={value}" for key, value in values.items() if value != getattr(defaults, key)]
    text = ",".join(changed) or "default"
    name = "".join(
        character if character.isalnum() or character in "=,.-_" else "_" for character in text
    )
    if len(name) <= 200 and len(name.encode()) <= 255:
        return name
    begin = name[:190].encode()[: 255 - 9].decode(errors="ignore")
    return f"{begin}~{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


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
    """Return the contents of recipe.json: the recipe's name, file, title and fields.

    Relative paths in the fields are those of the folder `begun_in`.
    """
    return {
        "recipe": Path(file).stem,
        "file": str(Path(file).resolve()),
        "title": recipes.title(file),
        "begun_in": os.getcwd(),
        "fields": json.loads(json.dumps(dataclasses.asdict(recipe))),
    }
