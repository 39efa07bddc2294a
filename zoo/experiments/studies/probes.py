"""Linear probes: how well each layer predicts the class

The paper on Deeply-Supervised Nets wants hidden features that are "discriminative" by themselves,
and shows them in pictures. Here we measure it, which the paper does not do. The net is frozen, and
a linear classifier, a probe, is trained on the outputs of one layer.

The maps of a layer are averaged in 2 x 2 cells, so that a probe sees 4 numbers a map, standardized.
The probe is scikit-learn's logistic regression with C = 1. It is fitted to 5,000 of the training
images that the net has learned from, and tested on all 10,000 test images of CIFAR-10. The baseline
is such a probe of the images themselves, averaged in 8 x 8 cells of 3 colours. That makes 192
numbers, as many as for mlpconv2 and mlpconv3. The companions are at mlpconv1 and mlpconv2. The nets
are those of the study of convergence, with a quarter of the paper's width.

The probes are unfair to the companions. A pooled companion on mlpconv1 sees 24 numbers, the means
of its maps. It improves these, and the probe sees 96 others. Dense companions, which see every
place, were not tried.
"""

import numpy as np

from zoo.experiments.studies import convergence, drawing, hidden, spread
from zoo.saving import load_model
from zoo.tables import Table

SEEDS, RUNS = convergence.SEEDS, convergence.RUNS
LAYERS = ("mlpconv1", "mlpconv2", "mlpconv3")
FITTED = 5_000  # images


def show(finished):
    """Draw and tabulate the test accuracy of a linear probe of each layer."""
    training, test = next(iter(finished.values()))[0].recipe().datasets()
    training = training.subset(min(FITTED, training.examples))
    baseline = probe(cells(training.images), training.labels, cells(test.images), test.labels)
    figure, (axes,) = drawing.panels("Linear probes of each layer")
    places = np.arange(len(LAYERS))
    axes.axhline(baseline, color=drawing.INK, linestyle=":", linewidth=1.6, label="the images")
    rows = [("(the images)", f"{baseline:.1f}", *[""] * (len(LAYERS) + 1))]
    for index, (label, runs) in enumerate(finished.items()):
        accuracies = np.array([_probes(load_model(run.folder), training, test) for run in runs])
        mean = accuracies.mean(axis=0)
        axes.errorbar(
            places + 0.12 * (index - 1),  # side by side, or they would cover one another
            mean,
            yerr=(mean - accuracies.min(axis=0), accuracies.max(axis=0) - mean),
            fmt="osD"[index],
            color=drawing.COLOURS[index],
            markersize=6,
            capsize=4,
            label=label,
        )
        own = [100 * run.results["accuracy"] for run in runs]
        by_layer = (spread(of_seeds, 1) for of_seeds in accuracies.T)
        rows.append((label, "", *by_layer, spread(own, 1)))
    axes.set_xticks(places, LAYERS)
    drawing.label(axes, "Layer", "Test accuracy of a probe (%)")
    drawing.legend(figure, finished)
    columns = ("Net", "Images (%)", *(f"{layer} (%)" for layer in LAYERS), "The net itself (%)")
    return figure, Table(columns, tuple(rows))


def cells(images, grid=8):
    """Average images in grid x grid cells: (n, h, w, c) -> (n, grid * grid * c).

    Height and width are multiples of `grid`.
    """
    n, height, width, channels = images.shape
    split = images.reshape(n, grid, height // grid, grid, width // grid, channels)
    return split.mean(axis=(2, 4)).reshape(n, -1)


def probe(features, labels, test_features, test_labels):
    """Fit a linear classifier, and return its test accuracy in %.

    Arguments:
        features: (n, numbers) of the training images.
        labels: (n,) their classes.
        test_features: (m, numbers) of the test images.
        test_labels: (m,) their classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    # On two busy cores, two threads took twenty times as long as one: they wait for each other.
    with threadpool_limits(1):
        return 100 * classifier.fit(features, labels).score(test_features, test_labels)


def _probes(model, training, test):
    seen, unseen = (hidden.outputs(model, data.images, LAYERS, grid=2) for data in (training, test))
    return [
        probe(
            seen[layer].reshape(training.examples, -1),
            training.labels,
            unseen[layer].reshape(test.examples, -1),
            test.labels,
        )
        for layer in LAYERS
    ]
