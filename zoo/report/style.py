"""The common style of a run's figures: size, colours, text, axes.

A figure is 4.8 inches wide, so that a phone shows its 9 point text about as large as its own. We
use no pyplot, because all threads share its state.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from zoo.text import printable

WIDTH = 4.8  # inches
TITLE, TEXT, SMALL = 11, 9, 8  # points
# Blue and vermilion of Okabe and Ito. Colour-blind people can tell them apart.
# The page has rules for ink, quiet and grid, so that figures follow the dark mode of a browser.
BLUE, VERMILION, INK, QUIET, GRID = "#0072B2", "#D55E00", "#222222", "#BBBBBB", "#EEEEEE"
ON_COLOUR = "#111111"  # stays dark, since the colours below it stay light


def new_figure(title, height):
    """Return an empty figure with a title; `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=TITLE, color=INK)
    return figure


def add_legend(figure):
    """Add one legend below all panels. Inside a panel it would hide a part of the curves."""
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=TEXT,
    )


def clean_axes(axes, ylabel):
    """Remove the upper and right border, and name the y axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=TEXT, color=QUIET, labelcolor=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT)


def draw_curve(axes, epochs, values, **line_style):
    """Draw the values over the epochs, (epochs,) each, and return the finite ones.

    The line joins the epochs that have a value.
    """
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    known = np.isfinite(values)
    if not known.any():
        return values[known]
    # Dots show a short line better, and a single epoch has no line.
    marker = "o" if known.sum() <= 15 else None
    axes.plot(
        epochs[known], values[known], marker=marker, markersize=3.5, clip_on=False, **line_style
    )
    return values[known]


def scale_y(axes, values):
    """Make the y axis logarithmic if the positive values span more than a decade.

    The axis is linear below the smallest positive value, so that zero has a place on it.
    """
    positive = values[values > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        low, high = positive.min(), positive.max()
        axes.set_yscale("symlog", linthresh=low, linscale=0.3)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = [times * 10.0**decade for decade in decades for times in (1, 2, 5)]
        # In the linear part only zero gets a tick. Others would lie on top of it.
        axes.set_yticks([0, *(tick for tick in ticks if tick >= low)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())  # symlog puts one beside zero
        axes.set_ylim(0 if (values <= 0).any() else 0.9 * low, 1.2 * high)
    else:
        axes.set_ylim(bottom=min(0, values.min(initial=0)))


def show_image(axes, image):
    """Show an image (h, w, c) in 0..255: RGB, or in grey the mean of other channels."""
    image = np.asarray(image, "float64") / 255
    image = image if image.shape[-1] == 3 else _grey(image)
    axes.imshow(image.clip(0, 1), interpolation="nearest")


def dimmed(image):
    """Return an image (h, w, c) in 0..255, dark and grey, as a background: (h, w, 3) in 0..1."""
    return 0.45 * _grey(np.asarray(image, "float64") / 255)


def _grey(image):
    return np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)


def shorten(name, length):
    """Return a class name of at most `length` characters, for matplotlib.

    The middle is cut, because names often differ in their ends. Dollar signs are escaped, because
    matplotlib reads them as mathematics.
    """
    name = printable(" ".join(str(name).split()))
    if len(name) > length:
        tail = (length - 1) // 2
        name = f"{name[: length - 1 - tail]}…{name[-tail:]}"
    return name.replace("$", r"\$")
