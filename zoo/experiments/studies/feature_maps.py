"""Maps of the first mlpconv layer, with and without companions (DSN, Fig. 3)

The paper on Deeply-Supervised Nets shows maps of the first convolution for ten CIFAR-10 images, the
top 30 % of the activations, of a net with companions and of one without. Here the images are the
first of each class in the test set. For each net the figure shows the 8 maps of mlpconv1 with the
largest mean activation over the ten images. The colours of a map go from its cut to its maximum. If
less than 30 % of a map is above 0, less is shown. The nets are two of the study of convergence,
with a quarter of the paper's width. The figure shows seed 0.

The table shows how alike the maps of two images are. For two images we take Pearson's correlation
over the places of a map, and average it over all maps of mlpconv1. A map that is constant on an
image counts as 0. We then average over all pairs of images of one class, and over all pairs of two
classes, among the first 1,000 test images. A larger difference means that the maps of a class have
more in common. The paper reports no such number.

The measure does not favour either net. With companions all correlations are larger, of one class
and of two, and their ratio stays about the same: 1.60 with companions, 1.53 without. We cannot tell
the two pictures apart by eye.
"""

import matplotlib
import numpy as np

from zoo.experiments.studies import convergence, drawing, hidden, spread
from zoo.report import confidence_maps
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
RUNS = {
    "companions kept": convergence.RUNS["companions kept"],
    "without companions": convergence.RUNS["without companions"],
}
SHOWN, TOP, PAIRED = 8, 0.3, 1_000


def show(finished):
    """Draw the maps of both nets side by side, and tabulate how alike those of a class are."""
    _, test = next(iter(finished.values()))[0].recipe().datasets()
    images, labels = test.images[:PAIRED], test.labels[:PAIRED]
    chosen = np.unique(labels, return_index=True)[1]
    titles = ["", *finished]
    pictures = [hidden.mosaic(hidden.in_colour(images[chosen])[:, None])]
    rows = []
    for label, runs in finished.items():
        maps = [
            hidden.outputs(load_model(run.folder), images, ["mlpconv1"])["mlpconv1"] for run in runs
        ]
        shown = maps[0][chosen]
        largest = np.argsort(-shown.mean(axis=(0, 1, 2)), kind="stable")[:SHOWN]
        pictures.append(hidden.mosaic(heat(shown[..., largest])))
        same, other = np.transpose([likeness(seed_maps, labels) for seed_maps in maps])
        rows.append((label, spread(same, 3), spread(other, 3), spread(same - other, 3)))

    widths = [picture.shape[1] for picture in pictures]
    figure, panels = drawing.panels(
        "mlpconv1: the top 30 % of each map",
        3,
        # This height makes the tiles square, with room for class names and two lines of titles.
        height=0.5 + 5.6 * len(pictures[0]) / sum(widths),
        width_ratios=widths,
    )
    for axes, picture, title in zip(panels, pictures, titles, strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(title, fontsize=drawing.TEXT, color=drawing.INK)
    names = [test.label_names[label] for label in labels[chosen]]
    hidden.show_row_names(panels[0], names, len(pictures[0]))
    columns = ("Net", "Correlation, same class", "Other classes", "Difference")
    return figure, Table(columns, tuple(rows))


def likeness(maps, labels):
    """Return the mean correlation of two images' maps: within a class, and between two classes.

    (n, h, w, maps), (n,) labels -> two numbers.
    """
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    # The square of a sum of vectors is the sum of the products of all pairs.
    classes, sizes = np.unique(labels, return_counts=True)
    sums = np.array([unit[labels == label].sum(axis=0, dtype="float64") for label in classes])
    alone, same, every = (unit**2).sum(), (sums**2).sum(), (sums.sum(axis=0) ** 2).sum()
    pairs_same, pairs = (sizes**2).sum() - len(labels), len(labels) ** 2 - len(labels)
    count = maps.shape[-1]
    return (
        (same - alone) / pairs_same / count,
        (every - same) / (pairs - pairs_same) / count,
    )


def heat(maps):
    """Return pictures of maps, with the top activations in colour and all else dark.

    (n, h, w, maps) -> (n, maps, h, w, 3) in 0..1.
    """
    tiles = np.moveaxis(maps, 3, 1)
    pictures = np.zeros((*tiles.shape, 3))
    for place in np.ndindex(tiles.shape[:2]):
        top = confidence_maps.top_activations(tiles[place], TOP)
        if top.any():
            low, high = tiles[place][top].min(), tiles[place].max()
            strength = (tiles[place] - low) / max(high - low, 1e-30)
            pictures[place][top] = matplotlib.colormaps["inferno"](0.3 + 0.7 * strength)[top, :3]
    return pictures
