"""Companions in a deep, narrow net: 24 convolutions on MNIST

The paper on Deeply-Supervised Nets says that companions help against vanishing gradients. We know
of no measurement in the paper to compare with. The net is ours, and is meant to be hard to train:
eight mlpconv layers of three convolutions, 16 maps wide, with Gaussian weights and without
normalization. The companions are at mlpconv2, 4 and 6.

The chance level is the accuracy of guessing all classes equally often. The gradients are mean
squares of the first kernel of each mlpconv layer, averaged over the steps before the first
evaluation.

These runs do not show that companions help. All of them have a learning rate of 0.05, and another
rate changes the outcome. We trained the same net for the same 400 steps with six seeds at a
rate of 0.02. Without companions 4 of 6 nets got above 80 %, and with companions 2 of 6 (Fisher's
exact test: p = 0.57). Whether such a net trains depends on the seed and the rate. A real test would
choose the rate of each net on held-out images, and count the seeds that train among ten or more.
"""

import numpy as np

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table

SEEDS = 3
COMMON = {
    "data": "mnist",
    "net": "deep",
    "epochs": 4,
    "steps_per_epoch": 100,
    "measure_gradients": True,
}
RUNS = {
    "without companions": {**COMMON, "companions": "none"},
    "companions kept": {**COMMON, "companions": "kept"},
}
LAYERS = np.arange(1, 9)


def show(finished):
    """Draw the test accuracy over the steps, and the first gradients of each layer."""
    any_run = next(iter(finished.values()))[0]
    steps, chance = any_run.history["step"], 100 / len(any_run.results["label_names"])
    figure, (left, right) = drawing.panels("MNIST: a net of 24 narrow convolutions", 2)
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        drawing.curve(left, steps, drawing.accuracy(runs), index, label=label, marker=".")
        first = np.stack([drawing.column(runs, f"gradient_mlpconv{n}")[:, 0] for n in LAYERS], 1)
        drawing.curve(right, LAYERS, first, index, label=label, marker=".")
        final = 100 - drawing.final_errors(runs)
        by_seed = ", ".join(f"{accuracy:.1f}" for accuracy in final)
        rows.append((label, spread(final, 1), by_seed, f"{chance:g}"))
    left.axhline(chance, color=drawing.QUIET, linestyle=":", label="chance")
    left.set_ylim(0, 100)
    right.set_yscale("log")
    right.set_xticks(LAYERS)
    drawing.over_steps(left, "Test accuracy (% of images)")
    drawing.label(right, f"mlpconv layer, steps 1 to {steps[0]:.0f}", "Mean square gradient")
    drawing.legend(figure, finished)
    columns = ("Net", "Test accuracy (%)", "Each seed", "Chance (%)")
    return figure, Table(columns, tuple(rows))
