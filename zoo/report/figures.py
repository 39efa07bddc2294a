"""The figures of a run: NumPy arrays in, a matplotlib `Figure` out, or None for nothing to show.

They are made without pyplot, whose state all threads share. Each is 4.8 inches wide, so that a
phone shows its 9 point text at about the size of its own.
"""

import math
import re

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from zoo import measures

_WIDTH = 4.8  # inches
_TITLE, _TEXT, _SMALL = 11, 9, 8  # points
# Okabe and Ito's blue and vermilion, which the colour-blind tell apart too.
_BLUE, _VERMILION, _INK, _QUIET = "#0072B2", "#D55E00", "#222222", "#BBBBBB"
_BLUES = LinearSegmentedColormap.from_list("blues", ["#E3F0F8", "#5BA6D3"])
_VERMILIONS = LinearSegmentedColormap.from_list("vermilions", ["#FBDCC8", "#E8803A"])
_HEAT = LinearSegmentedColormap.from_list("heat", ["#D55E00", "#F0E442"])


def learning_curves(history, evaluated_on):
    """The loss and the error (%) an epoch, of the training data and of `evaluated_on`.

    history: {column of metrics.csv: (epochs,) floats, NaN where a cell was empty}. A panel needs
    its column, `loss` or `accuracy`; None when neither has a number.
    """
    panels = [
        (label, column, of)
        for label, column, of in (
            ("Loss", "loss", lambda loss: loss),
            ("Error (% of images)", "accuracy", lambda accuracy: 100 * (1 - accuracy)),
        )
        if np.isfinite(history.get(column, [])).any()
    ]
    if not panels:
        return None
    figure = _figure("Learning curves", 0.8 + 2.1 * len(panels))
    for axes, (label, column, of) in zip(
        np.ravel(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True
    ):
        lines = [
            (column, "training", {"color": _BLUE, "linestyle": "--"}),
            (f"val_{column}", evaluated_on, {"color": _VERMILION}),
        ]
        curves = [
            _curve(axes, history["epoch"], of(history[name]), label=legend, **style)
            for name, legend, style in lines
            if name in history
        ]
        _plain(axes, label)
        _scale(axes, np.concatenate(curves))
    axes.set_xlabel("Epoch", fontsize=_TEXT)
    _legend(figure)
    return figure


def head_losses(history):
    """The loss of each head of a deeply supervised model an epoch, before its companion weight.

    history: as for `learning_curves`. None without the columns `output_loss` and
    `<layer>_loss` that `DeeplySupervised` logs.
    """
    heads = [c for c in history if c.endswith("_loss") and not c.startswith("val_")]
    heads = [*sorted({*heads} - {"output_loss"}, key=_natural), "output_loss"]
    if len(heads) < 2 or not np.isfinite(history.get("output_loss", [])).any():
        return None
    splits = [("", "training data")]
    if np.isfinite(history.get("val_output_loss", [])).any():
        splits.append(("val_", "held-out data"))
    figure = _figure("Loss of each head", 0.5 + 2.1 * len(splits) + 0.2 * -(-len(heads) // 3))
    # From the first layer's light green to deep blue; the output, the odd one out, in vermilion.
    depths = matplotlib.colormaps["viridis"](np.linspace(0.75, 0.15, len(heads) - 1))
    curves = []
    for axes, (prefix, split) in zip(
        np.ravel(figure.subplots(len(splits), 1, sharex=True, sharey=True)), splits, strict=True
    ):
        curves += [
            _curve(
                axes,
                history["epoch"],
                history[prefix + head],
                label=head.removesuffix("_loss"),
                color=color,
                linestyle="-" if head == "output_loss" else (0, (1 + 2 * index, 1)),
            )
            for index, (head, color) in enumerate(zip(heads, [*depths, _VERMILION], strict=True))
            if prefix + head in history
        ]
        _plain(axes, f"Loss, {split}")
    # Last, and for all curves: the panels share their axes.
    _scale(axes, np.concatenate(curves))
    axes.set_xlabel("Epoch", fontsize=_TEXT)
    _legend(figure)
    return figure


def exit_errors(exits, evaluated_on):
    """The error (%) of the classifier at each depth: {layer, or "output": its accuracy, 0..1}.

    From the lowest layer up; None without a companion.
    """
    if len(exits or ()) < 2:
        return None
    figure = _figure("Error of the classifier at each depth", 0.9 + 0.3 * len(exits))
    axes = figure.subplots()
    errors = [100 * (1 - accuracy) for accuracy in exits.values()]
    colours = [_VERMILION if layer == "output" else _BLUE for layer in exits]
    bars = axes.barh(range(len(exits)), errors, color=colours, height=0.6)
    axes.bar_label(bars, [f"{error:.2f}" for error in errors], padding=3, fontsize=_SMALL)
    axes.set_yticks(range(len(exits)), [_short(layer, 20) for layer in exits])
    axes.invert_yaxis()
    _plain(axes, "")
    axes.margins(x=0.15)
    axes.set_xlabel(f"Error (% of {evaluated_on} images)", fontsize=_TEXT)
    return figure


def confusion_matrix(labels, predictions, names):
    """The confusion matrix: right answers blue, by their share; mistakes vermilion, by number.

    (n,) true classes, (n,) predicted classes and the classes' names. Up to 20 classes the cells
    show their counts; above 25 every fifth or tenth class is named.
    """
    classes = len(names)
    counts = measures.confusion_counts(labels, predictions, classes)
    right = np.diagonal(counts)
    mistakes = counts - np.diag(right)
    colours = _VERMILIONS(mistakes / max(mistakes.max(), 1))
    colours[np.diag_indices(classes)] = _BLUES(right / np.maximum(counts.sum(axis=1), 1))
    colours[counts == 0] = (1, 1, 1, 1)

    figure = _figure("Confusion matrix (number of images)", 5.0)
    axes = figure.subplots()
    axes.imshow(colours, interpolation="nearest")
    _plain(axes, "True class")
    axes.set_xlabel("Predicted class", fontsize=_TEXT)
    every = 1 if classes <= 25 else 5 if classes <= 60 else 10
    # Points from one row to the next where long names leave the least room.
    pitch = 260 / classes
    shown = np.arange(0, classes, every)
    ticks = [_short(names[index], 12) for index in shown]
    axes.set_yticks(shown, ticks, fontsize=_TEXT)
    crowded = 0.7 * _TEXT * max(map(len, ticks)) > pitch * every
    axes.set_xticks(shown, ticks, fontsize=_TEXT, rotation=90 if crowded else 0)
    if classes > 20:
        return figure
    axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#EEEEEE", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    digits = len(str(counts.max()))
    for row, column in np.argwhere(counts):
        axes.text(
            column,
            row,
            counts[row, column],
            ha="center",
            va="center",
            color=_INK,
            fontsize=min(_TITLE, 1.3 * pitch / max(digits, 2)),
        )
    return figure


def confident_mistakes(images, labels, probabilities, names, limit=12):
    """The mistakes that the model was surest of: image, true class, predicted class, probability.

    (n, h, w, c) in 0..255, (n,), (n, classes) and the classes' names; None without a mistake.
    """
    predictions = probabilities.argmax(axis=1)
    certainty = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][:limit]
    if not len(wrong):
        return None
    columns = 4
    rows = -(-len(wrong) // columns)
    figure = _figure("The most confident mistakes", 0.4 + 1.66 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, wrong, strict=False):
        _show(axes, images[index])
        axes.set_title(
            f"true: {_short(names[labels[index]], 10)}\n"
            f"model: {_short(names[predictions[index]], 10)}\n{_percent(certainty[index])}",
            fontsize=_SMALL,
            color=_INK,
        )
    return figure


def top_activations(class_map, fraction=0.1):
    """Where the largest `fraction` of a map's values lie: (h, w) -> (h, w) booleans.

    Fewer where values tie at the cut; nowhere if all are alike.
    """
    class_map = np.asarray(class_map, "float64")
    return class_map > np.quantile(class_map, 1 - fraction)


def confidence_maps(images, maps, labels, predictions, names):
    """A row an image: the image, then each class map's top activations over the dimmed image.

    (n, h, w, c) in 0..255, (n, map h, map w, classes), (n,), (n,) and the classes' names. The true
    class is boxed. Of more than 10 classes the true one and the 9 of highest mean are shown.
    Network in Network, Fig. 4.
    """
    columns = min(5, len(names))
    lines = -(-min(10, len(names)) // columns)
    height = 0.45 + 0.83 * max(lines * columns / 5, 1.7) * len(images)
    figure = _figure("Confidence maps: the top 10 % of each", height)
    grid = figure.add_gridspec(lines * len(images), 2 + columns)
    for row, (image, of_image) in enumerate(zip(images, maps, strict=True)):
        top, true, predicted = row * lines, labels[row], predictions[row]
        axes = figure.add_subplot(grid[top : top + lines, :2])
        axes.set_axis_off()
        _show(axes, image)
        verdict = "" if true == predicted else f"\nmodel: {_short(names[predicted], 10)}"
        axes.set_title(f"true: {_short(names[true], 12)}{verdict}", fontsize=_SMALL, color=_INK)
        # Softmax ignores a constant added to all maps; so do colours between these two values.
        ordinary, peak = np.median(of_image), of_image.max()
        for place, index in enumerate(_classes_to_show(of_image, true)):
            axes = figure.add_subplot(grid[top + place // columns, 2 + place % columns])
            axes.set_xticks([])
            axes.set_yticks([])
            _show(axes, image, dimmed=True)
            upsampled = upsample(of_image[:, :, index], image.shape[:2])
            strength = ((upsampled - ordinary) / max(peak - ordinary, 1e-30)).clip(0, 1)
            heat = _HEAT(strength)
            heat[..., 3] = strength * top_activations(upsampled)
            axes.imshow(heat, interpolation="nearest")
            axes.set_title(_short(names[index], 9), fontsize=_SMALL, color=_INK, pad=2)
            axes.spines[:].set_visible(index == true)
            axes.spines[:].set(color=_BLUE, linewidth=2.5)
    return figure


def searched(fields, errors, logarithmic=()):
    """The error (%) of each trial of a search over each field, the first trial's in vermilion.

    {field: values of the trials}, (trials,) errors, the best first, and which fields were searched
    on a logarithmic scale. Values that are not numbers have a place each.
    """
    figure = _figure("The error over each field searched", 0.6 + 1.9 * len(fields))
    panels = np.ravel(figure.subplots(len(fields), 1, sharey=True))
    for axes, (field, values) in zip(panels, fields.items(), strict=True):
        known = np.array([value is not None for value in values])
        values = [value for value in values if value is not None]
        _plain(axes, "Error (% of images)")
        axes.set_xlabel(field, fontsize=_TEXT)
        axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        if any(isinstance(value, (bool, str)) for value in values):
            names = sorted({str(value) for value in values})
            axes.set_xticks(range(len(names)), names)
            values = [names.index(str(value)) for value in values]
        elif field in logarithmic:
            axes.set_xscale("log")
        colours = np.where(np.arange(len(known)) == 0, _VERMILION, _BLUE)[known]
        axes.scatter(values, errors[known], c=colours, s=16, zorder=3)
        _logarithmic_errors(axes, errors)
    return figure


def _logarithmic_errors(axes, errors):
    """Trials that failed to learn would press the others together."""
    if errors.min() > 0 and errors.max() > 3 * errors.min():
        axes.set_yscale("log")
        low, high = 0.9 * errors.min(), 1.1 * errors.max()
        ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def upsample(image, size):
    """Bilinear interpolation between pixel centres, edges repeated: (h, w) -> `size`."""

    def weights(source, target):
        places = (np.arange(target) + 0.5) * source / target - 0.5
        distances = places.clip(0, source - 1)[:, None] - np.arange(source)
        return np.maximum(1 - np.abs(distances), 0)

    height, width = image.shape
    return weights(height, size[0]) @ np.asarray(image, "float64") @ weights(width, size[1]).T


def _classes_to_show(maps, true, limit=10):
    scores = maps.mean(axis=(0, 1), dtype="float64")
    if len(scores) <= limit:
        return np.arange(len(scores))
    ranking = np.argsort(-scores, kind="stable")
    others = ranking[ranking != true][: limit - 1]
    return [index for index in ranking if index == true or index in others]


def _figure(title, height):
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=_TITLE, color=_INK)
    return figure


def _legend(figure):
    """Below the panels, which show the same kinds of lines: over the curves it would hide some."""
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=_TEXT,
    )


def _plain(axes, ylabel):
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(labelsize=_TEXT, color=_QUIET, labelcolor=_INK)
    axes.set_ylabel(ylabel, fontsize=_TEXT)


def _curve(axes, epochs, values, **style):
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    known = np.isfinite(values)
    if not known.any():
        return values[known]
    # Dots where lines would be short or, for one epoch, missing.
    marker = "o" if known.sum() <= 15 else None
    axes.plot(epochs[known], values[known], marker=marker, markersize=3.5, clip_on=False, **style)
    return values[known]


def _scale(axes, values):
    """Logarithmic from the smallest positive value on when the values span more than a decade.

    Below it the axis is linear, so that an error of zero has its place.
    """
    positive = values[values > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        low, high = positive.min(), positive.max()
        axes.set_yscale("symlog", linthresh=low, linscale=0.3)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = [times * 10.0**decade for decade in decades for times in (1, 2, 5)]
        # Of the linear part zero alone: others would lie on top of it.
        axes.set_yticks([0, *(tick for tick in ticks if tick >= low)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())  # symlog puts one beside zero
        axes.set_ylim(0 if (values <= 0).any() else 0.9 * low, 1.2 * high)
    else:
        axes.set_ylim(bottom=min(0, values.min(initial=0)))


def _show(axes, image, dimmed=False):
    # Anything but RGB is shown as grey: the mean of its channels.
    image = np.asarray(image, "float64") / 255
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    if dimmed:
        image = 0.45 * grey
    elif image.shape[-1] != 3:
        image = grey
    axes.imshow(image.clip(0, 1), interpolation="nearest")


def _short(name, length):
    """At most `length` characters, and no dollar sign that matplotlib would read as mathematics.

    The middle goes: names are often told apart by their ends.
    """
    name = " ".join(str(name).split())
    if len(name) > length:
        tail = (length - 1) // 2
        name = f"{name[: length - 1 - tail]}…{name[-tail:]}"
    return name.replace("$", r"\$")


def _percent(probability):
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"


def _natural(column):
    """mlpconv2 before mlpconv10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", column)]
