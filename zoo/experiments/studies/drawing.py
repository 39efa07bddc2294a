"""The common style of the studies' figures: size, colours, and a curve of several seeds."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

WIDTH = 6.4  # inches
# The colours of Okabe and Ito, which colour-blind people can tell apart. The dashes tell the curves
# apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)), "-", "-")
INK, QUIET, GRID = "#222222", "#BBBBBB", "#EEEEEE"
TITLE, TEXT = 11, 9  # points
PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


def panels(title, columns=1, *, height=3.8, **subplots):
    """Return a figure, and a list of its panels side by side.

    Arguments:
        title: the figure's title.
        columns: the number of panels.
        height: in inches.
        subplots: further arguments of `Figure.subplots`.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=TITLE, color=INK)
    return figure, [*np.ravel(figure.subplots(1, columns, **subplots))]


def column(runs, name):
    """Return a column of the runs' metrics.csv: (seeds, evaluations)."""
    return np.stack([run.history[name] for run in runs])


def accuracy(runs):
    """Return the runs' test accuracies in %: (seeds, evaluations)."""
    return 100 * column(runs, "val_accuracy")


def final_errors(runs):
    """Return the runs' test errors in % after the last epoch: (seeds,)."""
    return np.array([run.results["error_percent"] for run in runs])


def curve(axes, x, values, index=0, **style):
    """Draw the mean over seeds, and a band from the smallest to the largest value.

    Arguments:
        axes: the matplotlib `Axes`.
        x: (points,).
        values: (seeds, points).
        index: the number of the colour and the dashes.
        style: further arguments of `Axes.plot`.
    """
    style = {"color": COLOURS[index], "linestyle": DASHES[index], "linewidth": 1.6, **style}
    axes.fill_between(
        x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.18, linewidth=0
    )
    axes.plot(x, values.mean(axis=0), **style)


def label(axes, x, y):
    """Name the axes, and remove the upper and right border."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(which="both", labelsize=TEXT, color=QUIET, labelcolor=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)


def over_steps(axes, y, *, x="Steps", ticks=5):
    """Name the axes of a panel whose x axis is the steps of a training, from 0 on."""
    label(axes, x, y)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PLAIN)


def logarithmic(axes, which):
    """Make the axis "x" or "y" logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def legend(figure, runs):
    """Add a legend below the panels, with one entry for each label.

    Its title says how many seeds there are, and what the bands and bars mean.
    """
    handles = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    seeds = len(next(iter(runs.values())))
    meaning = f"mean, smallest and largest of {seeds} seeds" if seeds > 1 else "1 seed"
    width = 0.6 + 0.07 * max(map(len, handles))  # of an entry, about, in inches
    rows = -(-len(handles) // int(WIDTH / width))
    figure.legend(
        handles.values(),
        handles.keys(),
        title=meaning,
        loc="outside lower center",
        ncols=-(-len(handles) // rows),
        handlelength=3,
        frameon=False,
        fontsize=TEXT,
        title_fontsize=TEXT,
    )
