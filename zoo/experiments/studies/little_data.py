"""Soft targets as a regularizer: 3 % of the training images (Hinton et al., section 6)

The paper: on speech, with 3 % of the data and hard targets a net gets 44.5 % of the test frames
right, although its training was stopped early; with soft targets of a net that saw all of the data
57.0 %, without early stopping, against 58.9 % with all of the data.

Here: MNIST, 1,800 of the 60,000 images; teacher and students of `mnist_distillation`. Early
stopping holds out a tenth of all training images, more than the net is trained on, and stops after
10 epochs without a lower loss there; the others train for all 100 epochs.
"""

from zoo.experiments.studies import drawing, mnist_distillation, spread
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
LITTLE = {"examples": 1800, "epochs": 100, "batch_size": 64}
HARD = {**mnist_distillation.ALONE, **LITTLE}
SOFT = {**mnist_distillation.TAUGHT, **LITTLE}
STOPPED = {"validation": 0.1, "patience": 10}
RUNS = {
    "teacher": mnist_distillation.TEACHER,
    "hard": HARD,
    "hard, stopped early": {**HARD, **STOPPED},
    "soft": SOFT,
    "soft, stopped early": {**SOFT, **STOPPED},
}


def show(finished):
    """Accuracy while training, and on the test set after the last epoch."""
    figure, (axes,) = drawing.panels("MNIST, 1,800 training images")
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        tested = [100 * test_accuracy(run) for run in runs]
        seen = [100 * run.history["accuracy"][-1] for run in runs]
        epochs = [run.results["epochs"] for run in runs]
        rows.append((label, spread(seen), spread(tested), ", ".join(map(str, epochs))))
        if label in ("hard", "soft"):
            x = runs[0].history["epoch"]
            drawing.curve(axes, x, drawing.accuracy(runs), index, label=f"{label}, test")
    drawing.over_steps(axes, "Test accuracy (% of images)", x="Epochs")
    drawing.legend(figure, finished)
    columns = ("Targets", "Training accuracy (%)", "Test accuracy (%)", "Epochs")
    return figure, Table(columns, tuple(rows))


def test_accuracy(run):
    """Also of a run that was judged on held-out images."""
    import zoo.data
    from zoo.training.measuring import measure

    if run.results["evaluated_on"] == "test":
        return run.results["accuracy"]
    test = zoo.data.load(run.fields["data"], "test")
    logits, _ = measure(load_model(run.folder), test)
    return float((logits.argmax(1) == test.labels).mean())
