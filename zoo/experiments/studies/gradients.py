"""Companions and the gradients: mean square gradient a layer on CIFAR-10

Deeply-Supervised Nets reports that the variance of the gradients of the first convolution is 4.55
times as large with companions as without (recalled). In the authors' log the variance of that
layer's updates falls by a factor of 7.1 when the companions are removed after 50,000 steps.

Here: the mean square, not the variance, of the gradient of the first kernel of each mlpconv layer,
before weight decay, averaged over the steps between two evaluations. Ratios are of two runs of one
seed; "whole training" is the ratio of the averages over all steps. The runs are those of the study
of convergence.
"""

import numpy as np

from zoo.experiments.studies import convergence, drawing, spread
from zoo.tables import Table

SEEDS = 3
RUNS = convergence.RUNS
LAYERS = ("mlpconv1", "mlpconv2", "mlpconv3")
WITHOUT = "without companions"


def show(finished):
    """Mean square gradients over the steps, and their ratios to those without companions."""
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
    """By seed, how many times larger the gradients are: over the first evaluation's steps, and all.

    Lists of runs in the same order of seeds -> two (seeds,) arrays.
    """
    with_, without = (drawing.column(each, f"gradient_{layer}") for each in (runs, without))
    return with_[:, 0] / without[:, 0], np.mean(with_, axis=1) / np.mean(without, axis=1)
