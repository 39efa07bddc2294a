"""Soft targets as a regularizer: 3 % of the training images (Hinton et al., section 6)

The paper measures the share of speech frames in the test set that are classified correctly. With
3 % of the data and hard targets, a net reaches 44.5 %, although its training was stopped early.
With soft targets of a net that saw all of the data, it reaches 57.0 % without early stopping. With
all of the data it reaches 58.9 %.

Here the data are 1,800 of the 60,000 images of MNIST. The teacher and the students are those of
`mnist_distillation`. Early stopping holds out a tenth of all training images, which is more than
the net trains on. It stops after 10 epochs without a lower loss on them. The other students train
for all 100 epochs.

Hard targets do not need early stopping here either: the student that was stopped is worse than the
one that was not. So this does not show that soft targets replace early stopping. It shows that they
recover 56 % of the gap between hard targets and the teacher. In the paper it is 87 % of the gap
between hard targets and all of the data.
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
    """Draw the test accuracy over the epochs, and tabulate training and test accuracy."""
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
    """Return the test accuracy of a run, 0..1, even if the run was judged on held-out images."""
    import zoo.data
    from zoo.training.measuring import measure

    if run.results["evaluated_on"] == "test":
        return run.results["accuracy"]
    test = zoo.data.load(run.fields["data"], "test")
    logits, _ = measure(load_model(run.folder), test)
    return float((logits.argmax(1) == test.labels).mean())
