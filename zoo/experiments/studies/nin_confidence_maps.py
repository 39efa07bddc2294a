"""Confidence maps of the last mlpconv layer (NIN, Fig. 4)

The paper on Network in Network shows, for ten CIFAR-10 test images, the largest 10 % of each map
that global average pooling averages. The true class has a box. The largest values lie where the
object is.

Here the images are the first of each class in the test set. The net is `cifar10_nin_dsn`, our
trained model of the paper's widths. The 8 x 8 maps are enlarged to the images' 32 x 32 (bilinear)
and laid over them. The colours of a row go from the median of its ten maps, which is transparent,
to their maximum, which is yellow.

The table shows two shares of the test images. In the first, the true class's map has the largest
mean of the ten; this share is the accuracy. In the second, the true class's map holds the largest
single value of all ten maps. The paper reports neither for these maps.
"""

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from zoo.data import load
from zoo.experiments.studies import drawing, hidden
from zoo.models import pretrained
from zoo.report import confidence_maps
from zoo.tables import Table

SEEDS = 1
RUNS = {}
MODELS = {"CIFAR-10": "cifar10_nin_dsn"}


def show(finished):
    """Draw the maps of ten images, and tabulate how often the true class has the largest."""
    test = load("cifar10", "test")
    net = pretrained.load(MODELS["CIFAR-10"]).trunk
    maps = hidden.outputs(net, test.images[:], ["class_maps"])["class_maps"]
    by_mean = 100 * (predicted(maps) == test.labels).mean()
    by_peak = 100 * (strongest(maps) == test.labels).mean()
    table = Table(
        ("The true class's map has", "Share of the test images (%)"),
        (
            ("the largest mean (accuracy)", f"{by_mean:.2f}"),
            ("the largest value", f"{by_peak:.2f}"),
        ),
    )
    chosen = np.unique(test.labels, return_index=True)[1]
    return _figure(test, chosen, maps[chosen]), table


def strongest(maps):
    """Return the class whose map holds the largest single value: (n, h, w, classes) -> (n,)."""
    return maps.max(axis=(1, 2)).argmax(axis=1)


def predicted(maps):
    """Return the class whose map has the largest mean: (n, h, w, classes) -> (n,).

    This is the net's answer.
    """
    return maps.mean(axis=(1, 2)).argmax(axis=1)


def _figure(test, chosen, maps):
    images, labels, names = test.images[chosen], test.labels[chosen], test.label_names
    rows = zip(images, maps, strict=True)
    tiles = np.stack([tiles_of(image, image_maps) for image, image_maps in rows])
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
        names[true] + ("" if true == answer else f"\n(net: {names[answer]})")
        for true, answer in zip(labels, predicted(maps), strict=True)
    ]
    hidden.show_row_names(axes, titles, len(picture))
    return figure


def tiles_of(image, maps):
    """Return an image, and each of its maps over the dimmed image.

    (h, w, c) in 0..255, (map h, map w, classes) -> (1 + classes, h, w, 3) in 0..1.
    """
    (coloured,) = hidden.in_colour(image[np.newaxis])
    grey = 0.45 * coloured.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    # The softmax ignores a constant that is added to all maps. So do colours that go from the
    # median of all maps to their maximum.
    ordinary, peak = np.median(maps), maps.max()
    tiles = [coloured]
    for class_map in np.moveaxis(maps, -1, 0):
        enlarged = confidence_maps.upsample(class_map, image.shape[:2])
        strength = ((enlarged - ordinary) / max(peak - ordinary, 1e-30)).clip(0, 1)
        opacity = (strength * confidence_maps.top_activations(enlarged))[..., np.newaxis]
        heat = matplotlib.colormaps["autumn"](strength)[..., :3]
        tiles.append((1 - opacity) * grey + opacity * heat)
    return np.stack(tiles)
