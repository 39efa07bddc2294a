"""Label smoothing against soft targets: accuracy, calibration, and what the features forget

Label smoothing is distillation from a teacher that gives every class the same probability: the
same formula, (1 - w) L(labels, p) + w L(uniform, p). Soft targets of a trained teacher say besides
which classes are alike. Mueller, Kornblith and Hinton, arXiv:1906.02629, found that smoothing
calibrates and draws each class together in the last hidden layer, at the cost of what the net
knows of likenesses, so that smoothed nets teach badly.

Here: Fashion-MNIST, the nets of the study `ensemble`, three seeds each: labels alone, labels
smoothed by 0.1, soft targets of the ensemble; and a student taught by one net of either kind, at
temperature 4. The calibration error is the expected one, 15 equal bins. Spread is the mean squared
distance of the last hidden layer's test activations to the mean of their class, divided by that to
the mean of all: near 0 if classes are drawn to points.
"""

import numpy as np

from zoo.experiments.studies import drawing, ensemble, hidden, spread
from zoo.measures import softmax
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
SMOOTHED = {**ensemble.MEMBER, "smoothing": 0.1}
STUDENT = {"recipe": "mnist_distilled", "temperature": 4.0, **ensemble.NET}
RUNS = {
    **ensemble.RUNS,
    "labels": ensemble.MEMBER,
    "smoothed labels": SMOOTHED,
    "taught by labels' net": {**STUDENT, "teachers": ("labels",)},
    "taught by smoothed net": {**STUDENT, "teachers": ("smoothed labels",)},
}
SHOWN = {
    "labels": "labels",
    "smoothed labels": "smoothed labels",
    "distilled": "soft targets of an ensemble",
    "taught by labels' net": "soft targets of one net",
    "taught by smoothed net": "soft targets of one smoothed net",
}


def show(finished):
    """How often a confidence is right, and a table of the three measures."""
    figure, (axes,) = drawing.panels("Fashion-MNIST: is the confidence right?")
    axes.plot([0, 100], [0, 100], color=drawing.QUIET, linewidth=0.8)
    rows = []
    for index, (label, name) in enumerate(SHOWN.items()):
        found = [_measured(run) for run in finished[label]]
        accuracy, calibration, within = (
            np.array([each[key] for each in found]) for key in ("accuracy", "error", "within")
        )
        rows.append((name, spread(accuracy), spread(calibration), spread(within, 3)))
        bins = found[0]["bins"]
        axes.plot(*bins, color=drawing.COLOURS[index], linestyle=drawing.DASHES[index], label=name)
    drawing.label(axes, "Confidence (%), seed 0", "Right (% of test images)")
    drawing.legend(figure, {"labels": finished["labels"][:1]})  # the curves are of seed 0
    columns = ("Targets", "Test accuracy (%)", "Calibration error (%)", "Spread within classes")
    return figure, Table(columns, tuple(rows))


def _measured(run):
    _, test = run.recipe().datasets()
    model = load_model(run.folder)
    logits = model.predict(test.images.astype("float32"), batch_size=1024, verbose=0)
    probabilities = softmax(logits)
    error, bins = calibration(probabilities, test.labels)
    features = hidden.outputs(model, test.images, ["hidden2"])["hidden2"]
    accuracy = 100 * (probabilities.argmax(1) == test.labels).mean()
    return {
        "accuracy": accuracy,
        "error": error,
        "bins": bins,
        "within": within_classes(features, test.labels),
    }


def calibration(probabilities, labels, bins=15):
    """The expected calibration error in %, and (mean confidence, share right) of each bin, in %.

    Guo et al., arXiv:1706.04599: bins of equal width, weighted by the examples they hold.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    held = [place == each for each in range(bins) if (place == each).any()]
    means = np.array([[confidence[each].mean(), right[each].mean()] for each in held])
    shares = np.array([each.mean() for each in held])
    return 100 * float(shares @ np.abs(means[:, 0] - means[:, 1])), 100 * means.T


def within_classes(features, labels):
    """(n, units), (n,) -> the variance within classes as a share of all of the variance."""
    squares = sum(
        np.square(features[labels == label] - features[labels == label].mean(0)).sum()
        for label in np.unique(labels)
    )
    return float(squares / np.square(features - features.mean(0)).sum())
