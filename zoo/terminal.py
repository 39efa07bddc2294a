"""Print lines and tables. Text in them is text, whatever a name holds."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zoo.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(
    text: object = "", *, error: bool = False, console: "Console | None" = None, style: str = ""
) -> None:
    """Print one line.

    Arguments:
        text: the line.
        error: print to standard error, and not to standard output.
        console: a `rich.console.Console` to print to in their place; `style` is its style.
    """
    if console is None:
        print(printable(text), file=sys.stderr if error else sys.stdout)
        return
    from rich.text import Text

    console.print(Text(printable(text), style), soft_wrap=True)


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    right: Sequence[str] = (),
    unbroken: Sequence[str] = (),
    least_width: int = 0,
    console: "Console | None" = None,
) -> None:
    """Print a table.

    Arguments:
        columns: the names of the columns.
        rows: the cells of each row; what is no text is shown as `str` gives it.
        title: a line above the table.
        right: names of the columns that are aligned at the right.
        unbroken: names of the columns whose cells are not broken into lines.
        least_width: number of characters that a line has at least. On a narrower terminal the
            terminal breaks the line; this is better than a folded column of paths.
        console: a `rich.console.Console` to print to; by default standard output.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(printable(title)) if title else None
    table = Table(box=None, padding=(0, 2, 0, 0), title=heading, title_justify="left")
    for name in columns:
        table.add_column(
            Text(printable(name)),
            justify="right" if name in right else "left",
            no_wrap=name in unbroken,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = console or Console(width=max(Console().width, least_width))
    console.print(table)
