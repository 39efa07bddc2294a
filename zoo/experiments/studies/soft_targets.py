"""Soft targets: one image over temperatures, and the student's learning curves

At temperature 1 a good teacher's probabilities say little more than the label. At higher
temperatures they say which wrong classes are likely (Hinton et al., section 2). The image is a test
image that the first teacher classifies correctly. Among all such images it is the one whose two
most probable digits are closest.

The learning curves are those of students with 300 units, 15 epochs and temperature 4. One learns
alone. One is taught by the teacher at every step. One is taught from the teacher's cached soft
targets (float16). The last two see the same batches, and differ only in rounding.
"""

import numpy as np

from zoo.experiments.studies import drawing, mnist_distillation, spread, temperature
from zoo.measures import softmax
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
TEMPERATURES = (1.0, 2.5, 4.0, 8.0, 20.0)
CACHED = "300 units, T = 4"
LIVE = {**temperature.RUNS[CACHED], "views": 0}
RUNS = {
    "teacher": mnist_distillation.TEACHER,
    "alone": temperature.RUNS["300 units alone"],
    "taught": LIVE,
    "taught from the cache": temperature.RUNS[CACHED],
}


def show(finished):
    """Draw an image, its soft targets over temperatures, and the learning curves."""
    figure, (image, bars, axes) = drawing.panels(
        "Soft targets, and what they teach", 3, height=3.2, width_ratios=(0.8, 1.6, 2)
    )
    teacher = finished["teacher"][0]
    picture, probabilities = _closest(teacher)
    image.imshow(picture[..., 0], cmap="gray_r")
    image.set_axis_off()
    bars.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(probabilities):
        for column, value in enumerate(values):
            if value >= 0.005:
                bars.text(
                    column,
                    row,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if value > 0.5 else drawing.INK,
                )
    bars.set_yticks(range(len(TEMPERATURES)), [f"{t:g}" for t in TEMPERATURES])
    bars.set_xticks(range(probabilities.shape[1]))
    bars.tick_params(labelsize=7, color=drawing.QUIET)
    bars.set_xlabel("Digit (probabilities in %)", fontsize=drawing.TEXT)
    bars.set_ylabel("Temperature", fontsize=drawing.TEXT)
    rows = []
    for index, label in enumerate(("alone", "taught", "taught from the cache")):
        runs = finished[label]
        drawing.curve(
            axes, runs[0].history["epoch"], 100 - drawing.accuracy(runs), index, label=label
        )
        seconds = [run.results["seconds"] for run in runs]
        rows.append((label, spread(drawing.final_errors(runs)), spread(seconds, 0)))
    drawing.logarithmic(axes, "y")
    drawing.over_steps(axes, "Test error (%)", x="Epochs", ticks=4)
    drawing.legend(figure, {"alone": finished["alone"]})
    columns = ("Student of 300 units", "Test error (%)", "Seconds of training")
    return figure, Table(columns, tuple(rows))


def _closest(run):
    """Return the least certain of a run's right answers in the test set.

    Returns:
        The image, and its probabilities (temperatures, classes).
    """
    _, test = run.recipe().datasets()
    logits = load_model(run.folder).predict(
        test.images.astype("float32"), batch_size=1024, verbose=0
    )
    second, first = np.sort(logits, axis=1)[:, -2:].T
    right = logits.argmax(1) == test.labels
    chosen = np.where(right, first - second, np.inf).argmin()
    scaled = logits[chosen] / np.array(TEMPERATURES)[:, np.newaxis]
    return test.images[chosen], softmax(scaled)
