"""Companions and the speed of learning: CIFAR-10 accuracy over the steps

Deeply-Supervised Nets says that companions make a net learn faster. The authors' logs have 61.4 %
test accuracy after 2,000 steps with companions kept, and 37.7 % without. Those are two full-width
nets that differ in the learning rate (0.025 and 0.05) and in the loss (squared hinge and softmax)
too, so the difference is not the companions' alone.

Here all is the same but the companions: a quarter-width net, softmax cross-entropy, pooled
companions, and a learning rate that a cosine takes to zero within the steps shown. The steps to an
accuracy are read off the line between two evaluations on the test set; a net without training, at
step 0, counts as guessing.
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
    """Test accuracy over the steps, and the steps to each of LEVELS."""
    figure, (axes,) = drawing.panels("CIFAR-10: test accuracy over the steps")
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        steps, accuracies = runs[0].history["step"], drawing.accuracy(runs)
        guessing = 100 / len(runs[0].results["label_names"])
        drawing.curve(axes, steps, accuracies, index, label=label)
        reached = [
            _cell([steps_to(level, steps, of, guessing) for of in accuracies]) for level in LEVELS
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
    """Where `accuracy` first reaches `level` on the line between evaluations; NaN if it does not.

    In %: (evaluations,) steps and accuracies, and the accuracy at step 0.
    """
    steps, accuracy = np.array([0, *steps]), np.array([guessing, *accuracy])
    above = np.flatnonzero(accuracy[1:] >= level)
    if not len(above):
        return np.nan
    between = slice(above[0], above[0] + 2)
    return np.interp(level, accuracy[between], steps[between])


def _cell(steps):
    """Of the seeds' steps, NaN where a seed did not reach the level."""
    reached = [step for step in steps if np.isfinite(step)]
    if not reached:
        return "not reached"
    if len(reached) < len(steps):  # a spread over those who did would look better than it is
        return f"{np.mean(reached):.0f}, by {len(reached)} of {len(steps)} seeds"
    return spread(reached, 0)
