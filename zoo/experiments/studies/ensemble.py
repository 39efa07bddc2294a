"""An ensemble of ten, and the single net distilled from it (Hinton et al., section 4)

The paper measures the share of speech frames that are classified correctly. One net reaches 58.9 %.
An ensemble of ten nets that differ only in their initial weights reaches 61.1 %. One net distilled
from the ensemble reaches 60.8 %, which is more than 80 % of the gain.

Here the data are Fashion-MNIST. The nets have two layers of 300 units, and train for 15 epochs
without regularization. There is one ensemble, of the seeds 0 to 9. Its probabilities are averaged
at temperature 4. Three students of the same size, one for each seed, learn from it. Neither the
temperature nor the weight of the soft targets, 0.9, was tuned.

This does not test the paper's claim. The ensemble of these nets is hardly better than one of them,
so it has little to pass on. The share of the gain divides by that small number.
"""

import numpy as np

from zoo.experiments.studies import drawing, mnist_distillation, spread
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
MEMBERS = 10
NET = {"data": "fashion_mnist", "units": 300, "epochs": 15}
MEMBER = {"recipe": "mnist_mlp", **mnist_distillation.PLAIN, **NET}
RUNS = {f"member {seed}": {**MEMBER, "seed": seed} for seed in range(MEMBERS)}
RUNS["distilled"] = {
    "recipe": "mnist_distilled",
    "teachers": tuple(RUNS),
    "temperature": 4.0,
    **NET,
}


def show(finished):
    """Draw the accuracy over the number of members, and that of one net and of the student."""
    members = [finished[f"member {seed}"][0] for seed in range(MEMBERS)]
    _, test = members[0].recipe().datasets()
    log_probabilities = np.stack(
        [_log_probabilities(load_model(run.folder), test.images) for run in members]
    )
    sizes = np.arange(1, MEMBERS + 1)
    averaged = [
        100 * (np.exp(log_probabilities[:size]).mean(0).argmax(1) == test.labels).mean()
        for size in sizes
    ]
    single = np.array([100 * run.results["accuracy"] for run in members])
    taught = np.array([100 * run.results["accuracy"] for run in finished["distilled"]])
    figure, (axes,) = drawing.panels("Fashion-MNIST: an ensemble, and what it taught one net")
    axes.plot(sizes, averaged, "o-", color=drawing.COLOURS[0], label="ensemble of so many")
    for index, (label, values) in enumerate((("one net alone", single), ("distilled", taught)), 1):
        flat = np.repeat(values[:, np.newaxis], MEMBERS, axis=1)
        drawing.curve(axes, sizes, flat, index, label=label)
    drawing.label(axes, "Members", "Test accuracy (% of images)")
    drawing.legend(figure, {"distilled": finished["distilled"]})
    gain = averaged[-1] - single.mean()
    kept = spread(100 * (taught - single.mean()) / gain, 0) if gain > 0 else "there was none"
    rows = (
        ("one net alone, 10 seeds", spread(single), "58.9"),
        ("ensemble of 10", f"{averaged[-1]:.2f}", "61.1"),
        ("one net distilled from it", spread(taught), "60.8"),
        ("share of the gain kept (%)", kept, "86"),
    )
    return figure, Table(("Net", "Test accuracy (%)", "Paper, speech frames (%)"), rows)


def _log_probabilities(model, images):
    logits = model.predict(images.astype("float32"), batch_size=1024, verbose=0).astype("float64")
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
