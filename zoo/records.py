"""Read the JSON files of a run, and say in one line what is wrong with a damaged one."""

import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn

from zoo.errors import UsageError

# What a record holds under these names, if it has them.
_TEXTS = {
    "recipe",
    "file",
    "title",
    "begun_in",
    "evaluated_on",
    "python",
    "backend",
    "precision",
    "command",
}
_NUMBERS = {"accuracy", "error_percent", "errors", "loss", "examples", "train_examples", "epochs"}
_NUMBERS |= {"seconds", "parameters", "resumed", "seed"}
_LISTS_OF_TEXTS = {"label_names", "warnings"}
_OBJECTS = {"fields", "packages", "hardware", "data", "exits"}
_KINDS: list[tuple[set[str], Any, str]] = [
    (_TEXTS, str, "a text"),
    (_NUMBERS, float, "a number"),
    (_LISTS_OF_TEXTS, tuple[str, ...], "a list of texts"),
    (_OBJECTS, dict, "an object"),
]


class Record(dict[str, Any]):
    """The contents of a file. What is missing is an error that names the file."""

    def __init__(self, file: Path, contents: dict[str, Any]) -> None:
        super().__init__(contents)
        self._file = file

    def __missing__(self, key: str) -> NoReturn:
        raise damaged(self._file, f"it has no {key!r}")


def damaged(file: Path, what: str) -> UsageError:
    """Return the error for a damaged file; `what` says what is wrong."""
    return UsageError(f"{file} is damaged: {what}. Put back a copy of it.")


def read(file: Path) -> Record:
    """Return the contents of a JSON file of a run.

    Raises:
        UsageError: if the file is damaged.
    """
    try:
        record = json.loads(
            file.read_text(encoding="utf-8"), object_hook=functools.partial(Record, file)
        )
    except (ValueError, RecursionError) as error:
        raise damaged(file, str(error)) from error
    if not isinstance(record, Record):
        raise damaged(file, "it is no JSON object")
    for keys, kind, expected in _KINDS:
        for key in sorted(keys & record.keys()):
            value = record[key]
            if not is_a(tuple(value) if isinstance(value, list) else value, kind):
                raise damaged(file, f"{key} is {value!r:.50}, expected {expected}")
    return record


def is_a(value: Any, kind: Any) -> bool:
    """Return True if a value has this type: a class, a tuple, a union, or a choice of values.

    Whole numbers are of the type float, too. A type that this function does not know has any value.
    """
    outer, parts = typing.get_origin(kind), typing.get_args(kind)
    if outer is Literal:
        return value in parts
    if outer in (typing.Union, types.UnionType):
        return any(is_a(value, part) for part in parts)
    if outer is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(parts) and all(map(is_a, value, parts))
    if not isinstance(kind, type):
        return True
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)
