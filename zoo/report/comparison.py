"""Write the page of a distillation: the teacher, the student alone, and the student taught."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from zoo import files
from zoo.report import page, style
from zoo.runs import Run

_TEMPLATE = Path(__file__).with_name("comparison.html.jinja")


def write(
    folder: Path,
    comparison: dict[str, Any],
    *,
    teachers: Sequence[str],
    data_name: str,
    verdict: str,
) -> Path:
    """Write `comparison.html` and `comparison.json` into a folder, and return the page's path.

    The page refers to nothing outside itself but the pages of both trainings.

    Arguments:
        folder: the folder with the finished runs "taught" and "alone".
        comparison: what `zoo.experiments.distilling.compare` returns.
        teachers: the names of the teachers.
        data_name: the name of the data.
        verdict: a sentence on the difference of the two students.
    """
    rows = {row["model"]: row for row in comparison["rows"]}
    text = page.render(
        _TEMPLATE,
        comparison=comparison,
        teacher=rows["teacher"],
        alone=rows["student alone"],
        taught=rows["student taught"],
        quantized=len(rows) > 3,
        teachers=list(teachers),
        data_name=data_name,
        verdict=verdict,
        better=str(folder / comparison["better"]),
        hardware=Run(folder / "taught").versions["hardware"],
        figure=page.svg(_accuracies(comparison["rows"]), "accuracies"),
    )
    files.write(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    files.write(folder / "comparison.html", text)
    return folder / "comparison.html"


def _accuracies(rows):
    """Draw the accuracy of each model, in % and with its interval."""
    figure = style.new_figure("Accuracy (%)", 0.9 + 0.3 * len(rows))
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        colour = style.BLUE if row["model"].startswith("student") else style.VERMILION
        axes.plot([100 * row["low"], 100 * row["high"]], [height, height], color=colour)
        axes.plot(100 * row["accuracy"], height, "o", color=colour)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    style.clean_axes(axes, "")
    names = [style.shorten(row["model"], 24) for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=style.TEXT)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure
