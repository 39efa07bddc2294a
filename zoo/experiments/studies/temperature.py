"""Temperature against width: students of 300 and 30 units a layer (Hinton et al., section 3)

In the paper, all temperatures above 8 gave similar results with 300 or more units in each of two
hidden layers. With 30 units, temperatures from 2.5 to 4 worked significantly better than higher or
lower ones.

Here the teachers are those of `mnist_distillation`. The students have no regularization and train
for 15 epochs.

For 30 units three seeds do not tell T = 2.5 from T = 1 (Welch's test: p = 0.55). The table shows
only that high temperatures hurt the narrow students: from T = 4 on their mean error is higher than
that of the student alone.
"""

import numpy as np

from zoo.experiments.studies import drawing, mnist_distillation, spread
from zoo.tables import Table

SEEDS = 3
TEMPERATURES = (1.0, 2.5, 4.0, 8.0, 20.0)
WIDTHS = (300, 30)
EPOCHS = 15
RUNS = {"teacher": mnist_distillation.TEACHER}
for _width in WIDTHS:
    RUNS[f"{_width} units alone"] = {**mnist_distillation.ALONE, "units": _width, "epochs": EPOCHS}
    for _temperature in TEMPERATURES:
        RUNS[f"{_width} units, T = {_temperature:g}"] = {
            **mnist_distillation.TAUGHT,
            "units": _width,
            "epochs": EPOCHS,
            "temperature": _temperature,
        }


def show(finished):
    """Draw the test error over the temperature, with a panel for each width."""
    figure, panels = drawing.panels("MNIST: test error over the temperature", len(WIDTHS))
    rows = []
    for axes, width in zip(panels, WIDTHS, strict=True):
        alone = drawing.final_errors(finished[f"{width} units alone"])
        labels = [f"{width} units, T = {temperature:g}" for temperature in TEMPERATURES]
        taught = np.stack([drawing.final_errors(finished[label]) for label in labels], axis=1)
        drawing.curve(axes, TEMPERATURES, taught, 0, label="taught", marker="o", markersize=3.5)
        flat = np.repeat(alone[:, np.newaxis], len(TEMPERATURES), axis=1)
        drawing.curve(axes, TEMPERATURES, flat, 1, label="alone")
        axes.set_title(f"{width} units a layer", fontsize=drawing.TEXT, color=drawing.INK)
        drawing.label(axes, "Temperature", "Test error (% of images)")
        axes.set_xscale("log")
        axes.set_xticks(TEMPERATURES, [f"{t:g}" for t in TEMPERATURES])
        axes.minorticks_off()
        rows.append((f"{width}", spread(alone), *(spread(errors) for errors in taught.T)))
    panels[1].set_ylabel("")
    drawing.legend(figure, {"alone": finished["teacher"]})
    columns = ("Units a layer", "Alone (%)", *(f"T = {t:g} (%)" for t in TEMPERATURES))
    return figure, Table(columns, tuple(rows))
