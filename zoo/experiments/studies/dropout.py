"""Dropout between mlpconv layers: training and test error on CIFAR-10 (NIN, Fig. 3)

The paper on Network in Network reports that dropout of 0.5 between the mlpconv layers reduces the
test error by more than 20 %: from 14.51 % to 10.41 %.

Here the net has a quarter of the width. It trains on 10,000 images for 1,200 steps, about 15
passes. The training error is measured during the training, with dropout at work, over all steps of
an epoch.

This does not test the paper's claim. Dropout acts against overfitting, and this net does not
overfit yet: its training error is high. The paper's net is four times as wide, and trains a
hundred times as long.
"""

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table

SEEDS = 3
COMMON = {"data": "cifar10", "examples": 10000, "epochs": 6, "steps_per_epoch": 200}
RUNS = {
    "no dropout": {**COMMON, "dropout": 0.0},
    "dropout 0.5": {**COMMON, "dropout": 0.5},
}
PAPER = {"no dropout": "14.51", "dropout 0.5": "10.41"}


def show(finished):
    """Draw the training and test error over the steps, and tabulate the last ones."""
    figure, (axes,) = drawing.panels("CIFAR-10: error with dropout and without")
    rows = []
    without = drawing.final_errors(finished["no dropout"])
    for index, (label, runs) in enumerate(finished.items()):
        steps = runs[0].history["step"]
        test, training = 100 - drawing.accuracy(runs), 100 - 100 * drawing.column(runs, "accuracy")
        drawing.curve(axes, steps, test, index, label=f"{label}, test", linestyle="-")
        drawing.curve(axes, steps, training, index, label=f"{label}, training", linestyle=":")
        final = drawing.final_errors(runs)
        less = "" if label == "no dropout" else spread(100 * (1 - final / without), 0)
        rows.append((label, spread(final), spread(training[:, -1]), less, PAPER.get(label, "")))
    drawing.over_steps(axes, "Error (% of images)")
    axes.set_ylim(bottom=0)
    drawing.legend(figure, finished)
    columns = (
        "Net",
        "Test error (%)",
        "Training error (%)",
        "Fewer test errors than without (%)",
        "Paper, test error (%)",
    )
    return figure, Table(columns, tuple(rows))
