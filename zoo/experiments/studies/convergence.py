"""Companions and the speed of learning: CIFAR-10 accuracy over the steps

The paper on Deeply-Supervised Nets says that companions make a net learn faster. In the authors'
logs, the test accuracy after 2,000 steps is 61.4 % with companions kept and 37.7 % without. Those
two full-width nets also differ in the learning rate (0.025 and 0.05) and in the loss (squared hinge
and softmax), so the companions alone do not explain the difference.

Here only the companions differ. The net has a quarter of the width, softmax cross-entropy and
pooled companions. The learning rate follows a cosine to zero within the steps shown. The number of
steps to an accuracy is interpolated linearly between two evaluations on the test set. At step 0 an
untrained net counts as guessing.

This does not test the paper's claim. The learning rate was chosen without companions. The
companions are pooled heads of weight 0.3, and not the dense heads of weight 1 of the authors' code.
The training is short. Three seeds leave the difference in the steps to 50 % uncertain by about 200
steps (95 %).
"""

import numpy as np

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table

SEEDS = 3
COMMON = {"data": "cifar10", "epochs": 6, "steps_per_epoch": 200, "measure_gradients": True}
RUNS = {
    "without companions": {**COMMON, "companions": "none"},
    "companions kept": {**COMMON, "companions": "kept"},
    "companions fading": {**COMMON, "companions": "fading"},
}
LEVELS = (30, 40, 50, 60)  # test accuracy in %
OFFICIAL_LOGS = {"without companions": "37.7", "companions kept": "61.4"}


def show(finished):
    """Draw the test accuracy over the steps, and tabulate the steps to each of LEVELS."""
    figure, (axes,) = drawing.panels("CIFAR-10: test accuracy over the steps")
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        steps, accuracies = runs[0].history["step"], drawing.accuracy(runs)
        guessing = 100 / len(runs[0].results["label_names"])
        drawing.curve(axes, steps, accuracies, index, label=label)
        reached = [
            steps_cell([steps_to(level, steps, accuracy, guessing) for accuracy in accuracies])
            for level in LEVELS
        ]
        final = 100 - drawing.final_errors(runs)
        rows.append((label, *reached, spread(final, 1), OFFICIAL_LOGS.get(label, "")))
    drawing.over_steps(axes, "Test accuracy (% of images)")
    drawing.legend(figure, finished)
    columns = (
        "Net",
        *(f"Steps to {level} %" for level in LEVELS),
        f"Accuracy at {steps[-1]:,.0f} steps (%)",
        "Official logs at 2,000 steps (%)",
    )
    return figure, Table(columns, tuple(rows))


def steps_to(level, steps, accuracy, guessing):
    """Return the step at which `accuracy` first reaches `level`; NaN if it never does.

    Between two evaluations the accuracy is interpolated linearly.

    Arguments:
        level: the accuracy to reach, in %.
        steps: (evaluations,) the steps of the evaluations.
        accuracy: (evaluations,) the accuracies in %.
        guessing: the accuracy at step 0, in %.
    """
    steps, accuracy = np.array([0, *steps]), np.array([guessing, *accuracy])
    above = np.flatnonzero(accuracy[1:] >= level)
    if not len(above):
        return np.nan
    between = slice(above[0], above[0] + 2)
    return np.interp(level, accuracy[between], steps[between])


def steps_cell(steps):
    """Return the cell of the table for the seeds' steps; NaN for a seed that did not reach it."""
    reached = [step for step in steps if np.isfinite(step)]
    if not reached:
        return "not reached"
    if len(reached) < len(steps):  # the spread of these seeds alone would look too good
        return f"{np.mean(reached):.0f}, by {len(reached)} of {len(steps)} seeds"
    return spread(reached, 0)
