"""Companions on CIFAR-10: none, kept, fading or removed

The paper on Deeply-Supervised Nets lets the companions' weights decay. The authors' code keeps the
companions, stops, and continues without them. Their logs have a test error of 9.65 % after the
removal, and of 10.6 % with companions kept for 120,000 steps. The budgets are not equal: the first
net was trained for 200,000 steps.

Here every net has the same steps and the same learning rates, a quarter of the width and softmax
cross-entropy. Fading follows a cosine over the whole training. Removal comes after half of it.

This does not test the paper's claim. The net has an error of 40 %, and its seeds differ by 2 to 3
points. Three of them cannot show an effect of one point between companions and none. Removed and
kept companions differ by less than 0.6 points (95 %, seed by seed).
"""

from zoo.experiments.studies import convergence, drawing, spread
from zoo.tables import Table

SEEDS = 3
RUNS = {
    **convergence.RUNS,
    "companions removed": {**convergence.COMMON, "companions": "removed"},
}
OFFICIAL_LOGS = {"companions kept": "10.6", "companions removed": "9.65"}


def show(finished):
    """Draw the test error over the steps, and tabulate the last one beside the authors' logs."""
    figure, (axes,) = drawing.panels("CIFAR-10: test error over the steps")
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        steps, errors = runs[0].history["step"], 100 - drawing.accuracy(runs)
        drawing.curve(axes, steps, errors, index, label=label)
        final = drawing.final_errors(runs)
        by_seed = ", ".join(f"{error:.1f}" for error in final)
        rows.append((label, spread(final), by_seed, OFFICIAL_LOGS.get(label, "")))
        if runs[0].fields["companions"] == "removed":
            removed_at = runs[0].fields["removal"] * steps[-1]
            axes.axvline(removed_at, color=drawing.QUIET, linewidth=0.8, zorder=0)
            axes.annotate(
                " removed",
                (removed_at, 1),
                xycoords=("data", "axes fraction"),
                va="top",
                color=drawing.INK,
                fontsize=drawing.TEXT,
            )
    drawing.over_steps(axes, "Test error (% of images)")
    drawing.legend(figure, finished)
    columns = ("Net", "Test error (%)", "Each seed", "Official logs (%), unequal budgets")
    return figure, Table(columns, tuple(rows))
