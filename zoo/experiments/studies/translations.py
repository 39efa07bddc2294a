"""Moved images: global average pooling against fully connected heads

Network in Network, section 3.2, argues that global average pooling is "more robust to spatial
translations of the input" than fully connected layers, and does not measure it. Here the nets of
the study `pooling_heads`, trained on Fashion-MNIST without augmentation, are tested on the first
1,000 test images, all moved by the same number of pixels: the accuracy is the mean over left,
right, up and down, with black in the gap. Of 28 x 28 pixels the median of these images has 3 empty
columns on either side and no empty row, so that a move also takes a part of the image away, from
all heads alike.
"""

import numpy as np

from zoo.experiments.studies import drawing, spread
from zoo.experiments.studies.pooling_heads import HEADS, NETS, RUNS, SEEDS  # noqa: F401
from zoo.saving import load_model
from zoo.tables import Table

DISTANCES = np.arange(9)  # pixels
TABULATED = (0, 2, 4, 8)
IMAGES = 1_000


def show(finished):
    """Test accuracy over the distance by which the images are moved."""
    _, test = next(iter(finished.values()))[0].recipe().datasets()
    images, labels = test.images[:IMAGES], test.labels[:IMAGES]
    figure, panels = drawing.panels("Accuracy on moved images", len(NETS), sharey=True)
    rows = []
    for axes, net in zip(panels, NETS, strict=True):
        for index, head in enumerate(HEADS):
            runs = finished[f"{net}, {head}"]
            found = np.array([accuracies(load_model(run.folder), images, labels) for run in runs])
            drawing.curve(axes, DISTANCES, found, index, label=head)
            rows.append((net, head, *(spread(found[:, by], 1) for by in TABULATED)))
        axes.set_title(net, fontsize=drawing.TEXT, color=drawing.INK)
        drawing.label(axes, "Moved by (pixels)", "Test accuracy (% of images)")
        axes.label_outer()
    drawing.legend(figure, finished)
    columns = ("Net", "Head", *(f"Moved by {by} (%)" for by in TABULATED))
    return figure, Table(columns, tuple(rows))


def accuracies(model, images, labels):
    """In %, (distances,): (n, h, w, c) moved by each of DISTANCES in the four directions."""
    images = images.astype("float32")
    shares = [
        [
            (model.predict_on_batch(moved(images, *way)).argmax(axis=1) == labels).mean()
            for way in ((0, -by), (0, by), (-by, 0), (by, 0))[: 4 if by else 1]
        ]
        for by in DISTANCES
    ]
    return np.array([100 * np.mean(of) for of in shares])


def moved(images, down, right):
    """(n, h, w, c) moved by so many pixels, up and left if negative; zeros in the gap."""
    height, width = images.shape[1:3]
    reach = max(abs(down), abs(right))
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    return padded[:, reach - down :, reach - right :][:, :height, :width]
