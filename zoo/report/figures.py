"""The figures of a run: NumPy arrays in, a matplotlib `Figure` out, or None for an empty one."""

import re

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter

from zoo import measures
from zoo.report import style

_BLUES = LinearSegmentedColormap.from_list("blues", ["#E3F0F8", "#5BA6D3"])
_VERMILIONS = LinearSegmentedColormap.from_list("vermilions", ["#FBDCC8", "#E8803A"])


def learning_curves(history, evaluated_on):
    """Draw the loss and the error (%) over the epochs, for training and evaluation.

    Arguments:
        history: {column of metrics.csv: (epochs,) floats, NaN for an empty cell}. A panel needs
            its column, `loss` or `accuracy`.
        evaluated_on: the name of the images for evaluation, "test" or "validation".

    Returns:
        A `Figure`; None if neither column has a number.
    """
    panels = [
        (label, column, shown)
        for label, column, shown in (
            ("Loss", "loss", lambda loss: loss),
            ("Error (% of images)", "accuracy", lambda accuracy: 100 * (1 - accuracy)),
        )
        if np.isfinite(history.get(column, [])).any()
    ]
    if not panels:
        return None
    figure = style.new_figure("Learning curves", 0.8 + 2.1 * len(panels))
    for axes, (label, column, shown) in zip(
        np.ravel(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True
    ):
        lines = [
            (column, "training", {"color": style.BLUE, "linestyle": "--"}),
            (f"val_{column}", evaluated_on, {"color": style.VERMILION}),
        ]
        curves = [
            style.draw_curve(axes, history["epoch"], shown(history[name]), label=legend, **look)
            for name, legend, look in lines
            if name in history
        ]
        style.clean_axes(axes, label)
        style.scale_y(axes, np.concatenate(curves))
    axes.set_xlabel("Epoch", fontsize=style.TEXT)
    style.add_legend(figure)
    return figure


def head_losses(history, evaluated_on):
    """Draw the loss of each head of a deeply supervised model, before its companion weight.

    Arguments:
        history: as for `learning_curves`. `DeeplySupervised` logs the columns `output_loss` and
            `<layer>_loss`.
        evaluated_on: the name of the images for evaluation, "test" or "validation".

    Returns:
        A `Figure`; None without these columns.
    """
    heads = [name for name in history if name.endswith("_loss") and not name.startswith("val_")]
    heads = [*sorted({*heads} - {"output_loss"}, key=_natural_order), "output_loss"]
    if len(heads) < 2 or not np.isfinite(history.get("output_loss", [])).any():
        return None
    splits = [("", "training images")]
    if np.isfinite(history.get("val_output_loss", [])).any():
        splits.append(("val_", f"{evaluated_on} images"))
    height = 0.5 + 2.1 * len(splits) + 0.2 * -(-len(heads) // 3)
    figure = style.new_figure("Loss of each head", height)
    # From light green for the first layer to blue. The output is vermilion.
    depths = matplotlib.colormaps["viridis"](np.linspace(0.75, 0.35, len(heads) - 1))
    curves = []
    for axes, (prefix, split) in zip(
        np.ravel(figure.subplots(len(splits), 1, sharex=True, sharey=True)), splits, strict=True
    ):
        curves += [
            style.draw_curve(
                axes,
                history["epoch"],
                history[prefix + head],
                label=head.removesuffix("_loss"),
                color=color,
                linestyle="-" if head == "output_loss" else (0, (1 + 2 * index, 1)),
            )
            for index, (head, color) in enumerate(
                zip(heads, [*depths, style.VERMILION], strict=True)
            )
            if prefix + head in history
        ]
        style.clean_axes(axes, f"Loss, {split}")
    # The panels share their axes, so one call scales them all.
    style.scale_y(axes, np.concatenate(curves))
    axes.set_xlabel("Epoch", fontsize=style.TEXT)
    style.add_legend(figure)
    return figure


def exit_errors(exits, evaluated_on):
    """Draw the error (%) of the classifier at each depth.

    Arguments:
        exits: {layer, or "output": its accuracy in 0..1}, from the lowest layer up; or None.
        evaluated_on: the name of the images for evaluation, "test" or "validation".

    Returns:
        A `Figure`; None without a companion.
    """
    if len(exits or ()) < 2:
        return None
    figure = style.new_figure("Error of the classifier at each depth", 0.9 + 0.3 * len(exits))
    axes = figure.subplots()
    errors = [100 * (1 - accuracy) for accuracy in exits.values()]
    colours = [style.VERMILION if layer == "output" else style.BLUE for layer in exits]
    bars = axes.barh(range(len(exits)), errors, color=colours, height=0.6)
    axes.bar_label(bars, [f"{error:.2f}" for error in errors], padding=3, fontsize=style.SMALL)
    axes.set_yticks(range(len(exits)), [style.shorten(layer, 20) for layer in exits])
    axes.invert_yaxis()
    style.clean_axes(axes, "")
    axes.margins(x=0.15)
    axes.set_xlabel(f"Error (% of {evaluated_on} images)", fontsize=style.TEXT)
    return figure


def confusion_matrix(labels, predictions, names):
    """Draw the confusion matrix: right answers blue by their share, mistakes vermilion by number.

    With up to 20 classes the cells show their counts. With more than 25, only every fifth or tenth
    class is named.

    Arguments:
        labels: (n,) true classes.
        predictions: (n,) predicted classes.
        names: the names of the classes.
    """
    classes = len(names)
    counts = measures.confusion_counts(labels, predictions, classes)
    right = np.diagonal(counts)
    mistakes = counts - np.diag(right)
    colours = _VERMILIONS(mistakes / max(mistakes.max(), 1))
    colours[np.diag_indices(classes)] = _BLUES(right / np.maximum(counts.sum(axis=1), 1))
    colours[counts == 0] = (1, 1, 1, 0)

    figure = style.new_figure("Confusion matrix (number of images)", 5.0)
    axes = figure.subplots()
    axes.imshow(colours, interpolation="nearest")
    style.clean_axes(axes, "True class")
    axes.set_xlabel("Predicted class", fontsize=style.TEXT)
    step = 1 if classes <= 25 else 5 if classes <= 60 else 10
    pitch = 260 / classes  # points from one row to the next if long names leave the least room
    shown = np.arange(0, classes, step)
    ticks = [style.shorten(names[index], 20 if classes <= 10 else 12) for index in shown]
    axes.set_yticks(shown, ticks, fontsize=style.TEXT)
    crowded = 0.7 * style.TEXT * max(map(len, ticks)) > pitch * step
    axes.set_xticks(shown, ticks, fontsize=style.TEXT, rotation=90 if crowded else 0)
    if classes <= 20:
        _write_counts(axes, counts, pitch)
    return figure


def _write_counts(axes, counts, pitch):
    """Write the counts into the cells of a confusion matrix, with lines between the cells."""
    between = np.arange(len(counts) - 1) + 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color=style.GRID, linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    digits = len(str(counts.max()))
    for row, column in np.argwhere(counts):
        axes.text(
            column,
            row,
            counts[row, column],
            ha="center",
            va="center",
            color=style.ON_COLOUR,
            fontsize=min(style.TITLE, 1.3 * pitch / max(digits, 2)),
        )


def confident_mistakes(images, labels, probabilities, names, limit=12):
    """Draw the mistakes with the highest probability.

    Each panel shows the image, its true class, the predicted class and its probability.

    Arguments:
        images: (n, h, w, c) in 0..255.
        labels: (n,) true classes.
        probabilities: (n, classes).
        names: the names of the classes.
        limit: the largest number of images to show.

    Returns:
        A `Figure`; None without a mistake.
    """
    predictions = probabilities.argmax(axis=1)
    certainty = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][:limit]
    if not len(wrong):
        return None
    columns = 4
    rows = -(-len(wrong) // columns)
    figure = style.new_figure("The most confident mistakes", 0.4 + 1.66 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, wrong, strict=False):
        style.show_image(axes, images[index])
        axes.set_title(
            f"true: {style.shorten(names[labels[index]], 10)}\n"
            f"model: {style.shorten(names[predictions[index]], 10)}\n{_percent(certainty[index])}",
            fontsize=style.SMALL,
            color=style.INK,
        )
    return figure


def searched(fields, errors, logarithmic=()):
    """Draw the error (%) of each trial of a search over each field. The best trial is vermilion.

    Arguments:
        fields: {field: the trials' values}, the best trial first; None for a trial without the
            field. Values that are not numbers get a place each.
        errors: (trials,) errors in %, in the same order.
        logarithmic: the fields that were searched on a logarithmic scale.
    """
    figure = style.new_figure("The error over each field searched", 0.6 + 1.9 * len(fields))
    panels = np.ravel(figure.subplots(len(fields), 1, sharey=True))
    for axes, (field, values) in zip(panels, fields.items(), strict=True):
        known = np.array([value is not None for value in values])
        values = [value for value in values if value is not None]
        style.clean_axes(axes, "Error (% of images)")
        axes.set_xlabel(field, fontsize=style.TEXT)
        axes.grid(axis="y", color=style.GRID, linewidth=0.8)
        if any(isinstance(value, (bool, str)) for value in values):
            names = sorted({str(value) for value in values})
            axes.set_xticks(range(len(names)), [style.shorten(name, 40) for name in names])
            values = [names.index(str(value)) for value in values]
        elif field in logarithmic:
            axes.set_xscale("log")
        colours = np.where(np.arange(len(known)) == 0, style.VERMILION, style.BLUE)[known]
        axes.scatter(values, errors[known], c=colours, s=16, zorder=3)
        _scale_errors(axes, errors)
    return figure


def _scale_errors(axes, errors):
    """Use a logarithmic axis if trials that failed would press the others together."""
    if errors.min() > 0 and errors.max() > 3 * errors.min():
        axes.set_yscale("log")
        low, high = 0.9 * errors.min(), 1.1 * errors.max()
        ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _percent(probability):
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"


def _natural_order(column):
    """Return a sort key that puts mlpconv2 before mlpconv10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", column)]
