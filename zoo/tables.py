"""Tables for people: on a terminal, and in Markdown pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo.text import percent


@dataclass(frozen=True)
class Table:
    """Columns and rows of text."""

    columns: tuple
    rows: tuple

    def markdown(self) -> str:
        """Return the table as Markdown, for a page of docs/results."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def show_predictions(
    images: Iterable[object], ranked: Iterable[Sequence[tuple[str, float]]], classes: int
) -> None:
    """Print a line for each image: its (label, probability) pairs, the most probable first."""
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable("image", "label", "probability", f"then, of {classes}", box=None)
    table.columns[2].justify = "right"
    table.columns[0].no_wrap = True
    for image, ((label, probability), *others) in zip(images, ranked, strict=True):
        rest = ", ".join(f"{other} {percent(share)}" for other, share in others)
        table.add_row(str(image), label, percent(probability), rest)
    # On a narrow terminal a long line breaks. A folded column of paths would be unreadable.
    Console(width=max(Console().width, 140)).print(table)
