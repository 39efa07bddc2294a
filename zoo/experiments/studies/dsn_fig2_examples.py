"""Companions and the hinge on MNIST: test error over the training examples (DSN, Fig. 2b)

The paper on Deeply-Supervised Nets plots the test errors of its four methods against the number of
training examples. Its main claim, as we recall it, is that DSN-SVM gains 26 % over CNN-softmax at
500 examples. We have no other number of that figure.

Here the number of steps is the same for every number of examples, and the examples keep the
proportions of the classes. The nets and learning rates are those of our Fig. 2a. The gain is the
share of CNN-softmax's errors that DSN-SVM with the same seed avoids.

All seeds train on the same subset, so the spreads do not contain the choice of the images. The mean
gain at 500 examples is uncertain by 22 points (95 %, three seeds).
"""

import numpy as np

from zoo.experiments.studies import drawing, dsn_fig2_epochs, spread
from zoo.tables import Table

SEEDS = 3
EXAMPLES = (500, 2000, 10000)
METHODS = tuple(dsn_fig2_epochs.METHODS)
RUNS = {
    f"{method}, {examples}": {**fields, "examples": examples, "epochs": 1, "steps_per_epoch": 300}
    for examples in EXAMPLES
    for method, fields in dsn_fig2_epochs.METHODS.items()
}


def show(finished):
    """Draw the test error over the number of examples, and tabulate DSN-SVM's gain."""
    errors = {
        method: [drawing.final_errors(finished[f"{method}, {n}"]) for n in EXAMPLES]
        for method in METHODS
    }
    figure, (axes,) = drawing.panels("MNIST: test error over the number of training examples")
    for index, (method, by_examples) in enumerate(errors.items()):
        values = np.array(by_examples)
        mean = values.mean(axis=1)
        # The methods stand a little apart, so that their bars do not hide one another.
        axes.errorbar(
            np.array(EXAMPLES) * (1 + 0.025 * (index - 1.5)),
            mean,
            (mean - values.min(axis=1), values.max(axis=1) - mean),
            label=method,
            color=drawing.COLOURS[index],
            linestyle=drawing.DASHES[index],
            linewidth=1.6,
            marker="o",
            markersize=3.5,
            capsize=3,
        )
    for which in "xy":
        drawing.logarithmic(axes, which)
    drawing.label(axes, "Training examples", "Test error (% of images)")
    drawing.legend(figure, finished)
    rows = [(method, *map(spread, by_examples)) for method, by_examples in errors.items()]
    pairs = zip(errors["CNN-softmax"], errors["DSN-SVM"], strict=True)
    gains = (spread(gain(softmax, svm), 0) for softmax, svm in pairs)
    rows.append(("Gain of DSN-SVM over CNN-softmax (%)", *gains))
    paper = ("26 (recalled)" if n == 500 else "" for n in EXAMPLES)
    rows.append(("The same in the paper (%)", *paper))
    columns = ("Test error (%) by examples", *(f"{n:,}" for n in EXAMPLES))
    return figure, Table(columns, tuple(rows))


def gain(without, with_):
    """Return by how many percent the second errors are smaller: (seeds,), (seeds,) -> (seeds,)."""
    return 100 * (1 - with_ / without)
