"""Companions and the hinge on MNIST: test error over the training examples (DSN, Fig. 2b)

Deeply-Supervised Nets draws the test errors of its four methods against the number of training
examples. Its headline, as recalled: a gain of 26 % of DSN-SVM over CNN-softmax at 500 examples. We
have no other number of that figure.

Here: the same number of steps for every number of examples, whose classes are in proportion; the
nets and learning rates are those of Fig. 2a here. The gain is the share of CNN-softmax's errors
that DSN-SVM of the same seed does not make.
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
    """Test error by the number of examples, and DSN-SVM's gain over CNN-softmax."""
    errors = {
        method: [drawing.final_errors(finished[f"{method}, {n}"]) for n in EXAMPLES]
        for method in METHODS
    }
    figure, (axes,) = drawing.panels("MNIST: test error over the number of training examples")
    for index, (method, each) in enumerate(errors.items()):
        each = np.array(each)
        mean = each.mean(axis=1)
        # A little apart, so that bars do not hide one another.
        axes.errorbar(
            np.array(EXAMPLES) * (1 + 0.025 * (index - 1.5)),
            mean,
            (mean - each.min(axis=1), each.max(axis=1) - mean),
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
    rows = [(method, *map(spread, each)) for method, each in errors.items()]
    gains = map(gain, errors["CNN-softmax"], errors["DSN-SVM"])
    rows.append(("Gain of DSN-SVM over CNN-softmax (%)", *(spread(each, 0) for each in gains)))
    paper = ("26 (recalled)" if n == 500 else "" for n in EXAMPLES)
    rows.append(("The same in the paper (%)", *paper))
    columns = ("Test error (%) by examples", *(f"{n:,}" for n in EXAMPLES))
    return figure, Table(columns, tuple(rows))


def gain(without, with_):
    """How much smaller the second errors are, in % of the first: (seeds,), (seeds,) -> (seeds,)."""
    return 100 * (1 - with_ / without)
