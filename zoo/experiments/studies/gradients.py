"""Companions and the gradients: mean square gradient a layer on CIFAR-10

The paper on Deeply-Supervised Nets reports that the variance of the first convolution's gradients
is 4.55 times as large with companions as without (recalled). In the authors' log the variance of
that layer's updates falls by a factor of 7.1 when the companions are removed after 50,000 steps.

Here we measure the mean square of the gradient, not its variance. The gradient is that of the first
kernel of each mlpconv layer, before weight decay, averaged over the steps between two evaluations.
Each ratio compares two runs with the same seed. "Whole training" is the ratio of the averages over
all steps. The runs are those of the study of convergence.

This is not the paper's objective. The loss is softmax cross-entropy and not the squared hinge. The
companions are pooled heads of weight 0.3, and not dense heads of weight 1.
"""

import numpy as np

from zoo.experiments.studies import convergence, drawing, spread
from zoo.tables import Table

SEEDS = 3
RUNS = convergence.RUNS
LAYERS = ("mlpconv1", "mlpconv2", "mlpconv3")
WITHOUT = "without companions"


def show(finished):
    """Draw the mean square gradients over the steps, and tabulate their ratios."""
    figure, panels = drawing.panels(
        "CIFAR-10: mean square gradient by layer", len(LAYERS), sharey=True
    )
    for axes, layer in zip(panels, LAYERS, strict=True):
        for index, (label, runs) in enumerate(finished.items()):
            gradients = drawing.column(runs, f"gradient_{layer}")
            drawing.curve(axes, runs[0].history["step"], gradients, index, label=label)
        axes.set_yscale("log")
        first = axes is panels[0]
        drawing.over_steps(axes, "Mean square gradient" if first else "", x="Steps", ticks=2)
        axes.set_title(layer, fontsize=drawing.TEXT, color=drawing.INK)
    drawing.legend(figure, finished)

    rows = []
    for layer in LAYERS:
        for label in finished:
            if label != WITHOUT:
                first, whole = ratios(finished[label], finished[WITHOUT], layer)
                paper = (layer, label) == ("mlpconv1", "companions kept")
                rows.append((layer, label, spread(first), spread(whole), "4.55 (recalled)" * paper))
    steps = next(iter(finished.values()))[0].history["step"]
    columns = (
        "Layer",
        "Times the gradient without, for",
        f"First {steps[0]:,.0f} steps",
        "Whole training",
        "Paper",
    )
    return figure, Table(columns, tuple(rows))


def ratios(runs, without, layer):
    """Return how many times larger the gradients of a layer are, seed by seed.

    Arguments:
        runs: the runs with companions.
        without: the runs without companions, in the same order of seeds.
        layer: the layer's name.

    Returns:
        Two arrays (seeds,): over the steps before the first evaluation, and over all steps.
    """
    gradients = drawing.column(runs, f"gradient_{layer}")
    others = drawing.column(without, f"gradient_{layer}")
    return gradients[:, 0] / others[:, 0], np.mean(gradients, axis=1) / np.mean(others, axis=1)
