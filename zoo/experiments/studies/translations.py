"""Moved images: global average pooling against fully connected heads

In section 3.2, the paper on Network in Network argues that global average pooling is "more robust
to spatial translations of the input" than fully connected layers, and does not measure it. Here the
nets are those of the study `pooling_heads`, trained on Fashion-MNIST without augmentation. They are
tested on the first 1,000 test images, all moved by the same number of pixels. The accuracy is the
mean over left, right, up and down, with black in the gap. The images have 28 x 28 pixels. The
median image has 3 empty columns on either side and no empty row. So a move also cuts off a part of
the image, for all heads alike.

The nets are not fully trained: see `pooling_heads`.
"""

import numpy as np

from zoo.experiments.studies import drawing, pooling_heads, spread
from zoo.experiments.studies.pooling_heads import HEADS, NETS
from zoo.saving import load_model
from zoo.tables import Table

SEEDS, RUNS = pooling_heads.SEEDS, pooling_heads.RUNS
DISTANCES = np.arange(9)  # pixels
TABULATED = (0, 2, 4, 8)
IMAGES = 1_000


def show(finished):
    """Draw the test accuracy over the distance by which the images are moved."""
    _, test = next(iter(finished.values()))[0].recipe().datasets()
    images, labels = test.images[:IMAGES], test.labels[:IMAGES]
    figure, panels = drawing.panels("Accuracy on moved images", len(NETS), sharey=True)
    rows = []
    for axes, net in zip(panels, NETS, strict=True):
        for index, head in enumerate(HEADS):
            runs = finished[f"{net}, {head}"]
            values = np.array([accuracies(load_model(run.folder), images, labels) for run in runs])
            drawing.curve(axes, DISTANCES, values, index, label=head)
            rows.append((net, head, *(spread(values[:, by], 1) for by in TABULATED)))
        axes.set_title(net, fontsize=drawing.TEXT, color=drawing.INK)
        drawing.label(axes, "Moved by (pixels)", "Test accuracy (% of images)")
        axes.label_outer()
    drawing.legend(figure, finished)
    columns = ("Net", "Head", *(f"Moved by {by} (%)" for by in TABULATED))
    return figure, Table(columns, tuple(rows))


def accuracies(model, images, labels):
    """Return the accuracy (%) on images moved by each of DISTANCES, the mean over four directions.

    (n, h, w, c) images, (n,) labels -> (distances,)
    """
    images = images.astype("float32")
    shares = [
        [
            (model.predict_on_batch(moved(images, *move)).argmax(axis=1) == labels).mean()
            for move in ((0, -by), (0, by), (-by, 0), (by, 0))[: 4 if by else 1]
        ]
        for by in DISTANCES
    ]
    return np.array([100 * np.mean(directions) for directions in shares])


def moved(images, down, right):
    """Move images (n, h, w, c) by `down` and `right` pixels; the gap becomes 0.

    Negative numbers move them up and left.
    """
    height, width = images.shape[1:3]
    reach = max(abs(down), abs(right))
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    return padded[:, reach - down :, reach - right :][:, :height, :width]
