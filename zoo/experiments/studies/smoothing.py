"""Label smoothing against soft targets: accuracy, calibration and hidden features

Label smoothing is distillation from a teacher that gives every class the same probability. The
formula is the same: (1 - w) L(labels, p) + w L(uniform, p). Soft targets of a trained teacher also
say which classes are alike. Mueller, Kornblith and Hinton, arXiv:1906.02629, found that smoothing
calibrates a net and draws each class together in the last hidden layer. The net then knows less
about which classes are alike, so smoothed nets teach badly.

Here the data are Fashion-MNIST, and the nets are those of the study `ensemble`, with three seeds
each. They learn from labels alone, from labels smoothed by 0.1, and from soft targets of the
ensemble. Two more students learn from one net of either kind of labels, at temperature 4. The
calibration error is the expected one, with 15 equal bins. The spread within classes is the mean
squared distance of the last hidden layer's test activations to the mean of their class, divided by
that to the mean of all. It is near 0 if each class is drawn to a point.
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
    """Draw how often the answers of each confidence are right, and tabulate three measures."""
    figure, (axes,) = drawing.panels("Fashion-MNIST: is the confidence right?")
    axes.plot([0, 100], [0, 100], color=drawing.QUIET, linewidth=0.8)
    rows = []
    for index, (label, name) in enumerate(SHOWN.items()):
        measured = [_measured(run) for run in finished[label]]
        accuracy, calibration_error, within = (
            np.array([values[key] for values in measured])
            for key in ("accuracy", "calibration_error", "within")
        )
        rows.append((name, spread(accuracy), spread(calibration_error), spread(within, 3)))
        bins = measured[0]["bins"]
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
        "calibration_error": error,
        "bins": bins,
        "within": within_classes(features, test.labels),
    }


def calibration(probabilities, labels, bins=15):
    """Return the expected calibration error in %, and the bins that it comes from.

    The bins have equal width and are weighted by their number of examples. Guo et al.,
    arXiv:1706.04599.

    Arguments:
        probabilities: (n, classes).
        labels: (n,) true classes.
        bins: the number of bins.

    Returns:
        The error, and (2, bins that hold examples): mean confidence and share of right answers, %.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    inside = [place == index for index in range(bins) if (place == index).any()]
    means = np.array([[confidence[mask].mean(), right[mask].mean()] for mask in inside])
    shares = np.array([mask.mean() for mask in inside])
    return 100 * float(shares @ np.abs(means[:, 0] - means[:, 1])), 100 * means.T


def within_classes(features, labels):
    """Return the variance within classes as a share of the whole: (n, units), (n,) -> 0..1."""
    squares = sum(
        np.square(features[labels == label] - features[labels == label].mean(0)).sum()
        for label in np.unique(labels)
    )
    return float(squares / np.square(features - features.mean(0)).sum())
