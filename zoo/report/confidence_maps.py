"""The confidence maps of a run: where in an image each class has its largest values."""

import keras
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from zoo.report import style

_HEAT = LinearSegmentedColormap.from_list("heat", ["#D55E00", "#F0E442"])


def draw(images, maps, labels, predictions, names):
    """Draw images with their class maps: the top 10 % of each map over the dimmed image.

    Each image has a row of panels: first the image, then its maps. The true class has a box. Of
    more than 10 classes, the true one and the 9 with the highest mean are shown. Network in
    Network, Fig. 4.

    Arguments:
        images: (n, h, w, c) in 0..255.
        maps: (n, map h, map w, classes).
        labels: (n,) true classes.
        predictions: (n,) predicted classes.
        names: the names of the classes.

    Returns:
        A matplotlib `Figure`.
    """
    columns = min(5, len(names))
    lines = -(-min(10, len(names)) // columns)
    height = 0.45 + 0.83 * max(lines * columns / 5, 1.7) * len(images)
    figure = style.new_figure("Confidence maps: the top 10 % of each", height)
    grid = figure.add_gridspec(lines * len(images), 2 + columns)
    for row, (image, image_maps) in enumerate(zip(images, maps, strict=True)):
        top, true, predicted = row * lines, labels[row], predictions[row]
        axes = figure.add_subplot(grid[top : top + lines, :2])
        axes.set_axis_off()
        style.show_image(axes, image)
        verdict = "" if true == predicted else f"\nmodel: {style.shorten(names[predicted], 10)}"
        title = f"true: {style.shorten(names[true], 12)}{verdict}"
        axes.set_title(title, fontsize=style.SMALL, color=style.INK)
        for place, index in enumerate(_classes_to_show(image_maps, true)):
            axes = figure.add_subplot(grid[top + place // columns, 2 + place % columns])
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(style.dimmed(image), interpolation="nearest")
            axes.imshow(heat(image_maps, index, image.shape[:2]), interpolation="nearest")
            name = style.shorten(names[index], 9)
            axes.set_title(name, fontsize=style.SMALL, color=style.INK, pad=2)
            axes.spines[:].set_visible(index == true)
            axes.spines[:].set(color=style.BLUE, linewidth=2.5)
    return figure


def heat(maps, index, size):
    """Return the top 10 % of the map of one class as colours: (map h, map w, classes) -> RGBA.

    The softmax ignores a constant that is added to all maps. So do colours that go from the median
    of all maps to their maximum.

    Arguments:
        maps: the maps of all classes.
        index: the class.
        size: (height, width) of the result, which has values in 0..1.
    """
    ordinary, peak = np.median(maps), maps.max()
    upsampled = upsample(maps[:, :, index], size)
    strength = ((upsampled - ordinary) / max(peak - ordinary, 1e-30)).clip(0, 1)
    colours = _HEAT(strength)
    colours[..., 3] = strength * top_activations(upsampled)
    return colours


def overlay(image, maps, index, size):
    """Lay the map of one class over the dimmed image -> uint8 (h, w, 3).

    Arguments:
        image: (h, w, c) in 0..255.
        maps: the maps of all classes, (map h, map w, classes).
        index: the class.
        size: (height, width) of the result, whole multiples of the image's.
    """
    image = style.dimmed(image)
    for axis in (0, 1):
        image = image.repeat(size[axis] // image.shape[axis], axis)
    colours = heat(maps, index, size)
    opacity = colours[..., 3:]
    return np.rint(255 * (colours[..., :3] * opacity + image * (1 - opacity))).astype("uint8")


def maps_of(model, classes):
    """Return the model of the class maps, pixels -> (batch, map h, map w, classes).

    None if `model` has no layer `class_maps` with one map for each class.
    """
    layer = next((layer for layer in model.layers if layer.name == "class_maps"), None)
    if layer is None or layer.output.shape[3:] != (classes,):
        return None
    return keras.Model(model.inputs[0], layer.output)


def top_activations(class_map, fraction=0.1):
    """Return where the largest `fraction` of a map's values lie: (h, w) -> (h, w) booleans.

    There are fewer if values tie at the cut, and none if all values are equal.
    """
    class_map = np.asarray(class_map, "float64")
    return class_map > np.quantile(class_map, 1 - fraction)


def upsample(image, size):
    """Resize by bilinear interpolation between pixel centres: (h, w) -> `size`.

    The edges are repeated outwards.
    """

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
