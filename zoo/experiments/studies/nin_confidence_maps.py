"""Confidence maps of the last mlpconv layer (NIN, Fig. 4)

Network in Network shows, for ten CIFAR-10 test images, the largest 10 % of each of the maps that
global average pooling averages, the true class's boxed: they lie where the object is. Here the
images are the first of each class in the test set, and the net is that without companions in the
study of convergence, a quarter of the paper's width, of seed 0. The maps, 8 x 8, are enlarged to
the images' 32 x 32 (bilinear) and laid over them; the colours of a row go from the median of its
ten maps, clear, to their maximum, yellow.

The numbers: how often the mean of the true class's map is the largest of the ten, which is the
accuracy, and how often the largest single value of all ten maps lies in the true class's. The
paper reports neither for these maps.
"""

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from zoo.experiments.studies import convergence, drawing, hidden, spread
from zoo.report import figures
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 1
RUNS = {"without companions": convergence.RUNS["without companions"]}


def show(finished):
    """The confidence maps of ten images, and how often the true class has the largest."""
    (runs,) = finished.values()
    _, test = runs[0].recipe().datasets()
    maps = [
        hidden.outputs(load_model(run.folder), test.images, ["class_maps"])["class_maps"]
        for run in runs
    ]
    by_mean = [100 * (predicted(each) == test.labels).mean() for each in maps]
    by_peak = [100 * (strongest(each) == test.labels).mean() for each in maps]
    table = Table(
        ("The true class's map has", "Share of the test images (%)"),
        (("the largest mean (accuracy)", spread(by_mean)), ("the largest value", spread(by_peak))),
    )
    chosen = np.unique(test.labels, return_index=True)[1]
    return _figure(test, chosen, maps[0][chosen]), table


def strongest(maps):
    """(n, h, w, classes) -> (n,): the class whose map holds the largest value of all."""
    return maps.max(axis=(1, 2)).argmax(axis=1)


def predicted(maps):
    """(n, h, w, classes) -> (n,): the class whose map has the largest mean, as the net says."""
    return maps.mean(axis=(1, 2)).argmax(axis=1)


def _figure(test, chosen, maps):
    images, labels, names = test.images[chosen], test.labels[chosen], test.label_names
    tiles = np.stack([_row(image, of) for image, of in zip(images, maps, strict=True)])
    picture = hidden.mosaic(tiles)
    side, across = len(picture) / len(chosen), picture.shape[1] / tiles.shape[1]
    figure, (axes,) = drawing.panels(
        "The top 10 % of each class's map", height=0.9 + 5.2 * len(picture) / picture.shape[1]
    )
    axes.imshow(picture)
    axes.set_axis_off()
    for column, name in enumerate(["image", *names]):
        axes.text((column + 0.3) * across, -3, name, ha="left", rotation=30, fontsize=8)
    for row, label in enumerate(labels):
        corner = ((label + 1) * across + 1, row * side + 1)
        blue = {"edgecolor": "#56B4E9", "facecolor": "none", "linewidth": 2}
        axes.add_patch(Rectangle(corner, across - 3, side - 3, **blue))
    titles = [
        names[true] + ("" if true == said else f"\n(net: {names[said]})")
        for true, said in zip(labels, predicted(maps), strict=True)
    ]
    hidden.show_row_names(axes, titles, len(picture))
    return figure


def _row(image, maps):
    """(h, w, c) in 0..255, (map h, map w, classes) -> (1 + classes, h, w, 3) in 0..1."""
    (coloured,) = hidden.in_colour(image[np.newaxis])
    grey = 0.45 * coloured.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    # Softmax ignores a constant added to all maps; so do colours between these two values.
    ordinary, peak = np.median(maps), maps.max()
    tiles = [coloured]
    for each in np.moveaxis(maps, -1, 0):
        enlarged = figures.upsample(each, image.shape[:2])
        strength = ((enlarged - ordinary) / max(peak - ordinary, 1e-30)).clip(0, 1)
        opacity = (strength * figures.top_activations(enlarged))[..., np.newaxis]
        heat = matplotlib.colormaps["autumn"](strength)[..., :3]
        tiles.append((1 - opacity) * grey + opacity * heat)
    return np.stack(tiles)
