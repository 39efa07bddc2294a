"""A command writes its answer for people, or with `--json` and `--csv` for programs."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from zoo.errors import UsageError
from zoo.terminal import say


@dataclass(frozen=True)
class Form:
    """The form of an answer on standard output. docs/guides/command_line.md has the names."""

    json: FlagCreatePairsOff[bool] = False
    """Print the answer as one JSON document, and nothing else."""
    csv: FlagCreatePairsOff[bool] = False
    """Print the answer as CSV with a line of names, and nothing else."""

    @property
    def is_for_programs(self) -> bool:
        """True if a program reads the answer."""
        return self.json or self.csv

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let standard output have the answer alone, if it is for programs.

        Meanwhile all other lines go to standard error.

        Raises:
            UsageError: if both forms are asked for.
        """
        if self.json and self.csv:
            raise UsageError("--json and --csv are two forms of one answer; give one of them.")
        with contextlib.ExitStack() as stack:
            if self.is_for_programs:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield

    def write(
        self,
        document: Mapping[str, Any],
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
    ) -> None:
        """Print an answer for programs. Call this after `alone`.

        Arguments:
            document: the answer for JSON. NaN and infinity become null.
            columns: the names of the columns for CSV.
            rows: the cells of each line; None is an empty cell.
        """
        if self.json:
            say(json.dumps(_plain(document)))
            return
        for cells in (columns, *rows):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(cells)
            say(line.getvalue())


FOR_PEOPLE = Form()
AsForm = OmitArgPrefixes[Annotated[Form, arg(name="")]]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: its own types of numbers and lists, and no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)  # NumPy's, too
    return number if abs(number) < float("inf") else None
