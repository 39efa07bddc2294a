"""Tables for people: on a terminal, and in Markdown pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo import terminal
from zoo.markup import markdown
from zoo.text import percent


@dataclass(frozen=True)
class Table:
    """Columns and rows of text."""

    columns: tuple
    rows: tuple

    def markdown(self) -> str:
        """Return the table as Markdown, for a page of docs/results."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)


def show_predictions(
    images: Iterable[object], ranked: Iterable[Sequence[tuple[str, float]]], classes: int
) -> None:
    """Print a line for each image: its (label, probability) pairs, the most probable first."""
    rows = []
    for image, ((label, probability), *others) in zip(images, ranked, strict=True):
        rest = ", ".join(f"{other} {percent(share)}" for other, share in others)
        rows.append((image, label, percent(probability), rest))
    columns = ("image", "label", "probability", f"then, of {classes}")
    terminal.show(columns, rows, right=["probability"], unbroken=["image"], least_width=140)
