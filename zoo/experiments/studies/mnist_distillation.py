"""Distillation on MNIST: teacher, student alone, student taught (Hinton et al., section 3)

In the paper, a 784-1200-1200-10 net with dropout, weight constraints and images jittered by up to 2
pixels makes 67 test errors. A 784-800-800-10 net without any of these makes 146. The same small net
makes 74 with the large net's soft targets at temperature 20, without jitter.

Here the nets are the same. They use Adam and a cosine to zero, for 60 epochs of the teacher and 40
of the students. Dropout (0.4, and 0.1 of the pixels) and the largest norm (3) were chosen among
seven settings on 10,002 held-out training images. The teacher then made 0.78 % errors on them,
after 60 epochs on the other images. The student has the paper's temperature. The weights of its
soft targets (0.9) and its labels (0.1) are our choice. Both students have the learning rate that
was best on 10,000 held-out images (1e-3 and 3e-3, and 1e-2 for the taught student; one seed, 20
epochs). Six students at 1e-3 had been tested before: 130 to 142 errors alone, and 101 to 103
taught.
"""

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table

SEEDS = 3
TEACHER = {"recipe": "mnist_mlp"}
# No regularization at all, and no jitter.
PLAIN = {"dropout": 0.0, "input_dropout": 0.0, "max_norm": 0.0, "shift": 0}
ALONE = {"recipe": "mnist_mlp", "units": 800, "epochs": 40, "learning_rate": 3e-3, **PLAIN}
TAUGHT = {"recipe": "mnist_distilled", "teachers": ("teacher",)}
RUNS = {"teacher": TEACHER, "student alone": ALONE, "student taught": TAUGHT}
PAPER = {"teacher": "67", "student alone": "146", "student taught": "74"}


def show(finished):
    """Draw the test errors over the epochs, and tabulate the share of the gap recovered."""
    figure, (axes,) = drawing.panels("MNIST: errors in 10,000 test images")
    rows = []
    for index, (label, runs) in enumerate(finished.items()):
        errors = runs[0].results["examples"] * (1 - drawing.accuracy(runs) / 100)
        drawing.curve(axes, runs[0].history["epoch"], errors, index, label=label)
        last = [run.results["errors"] for run in runs]
        rows.append((label, spread(last, 1), ", ".join(map(str, last)), PAPER[label]))
    recovered = gap_recovered(
        *([run.results["errors"] for run in finished[label]] for label in RUNS)
    )
    rows.append(("share of the gap recovered (%)", spread(recovered, 0), "", "91"))
    drawing.logarithmic(axes, "y")
    drawing.over_steps(axes, "Test errors", x="Epochs")
    drawing.legend(figure, finished)
    return figure, Table(("Net", "Test errors", "Each seed", "Paper"), tuple(rows))


def gap_recovered(teacher, alone, taught):
    """Return the share (%) of the gap between student and teacher that teaching closes.

    Arguments:
        teacher: the teachers' errors, one for each seed.
        alone: those of the students alone.
        taught: those of the taught students.

    Returns:
        A list, seed by seed; NaN without a gap.
    """
    return [
        100 * (own - learned) / (own - goal) if own != goal else float("nan")
        for goal, own, learned in zip(teacher, alone, taught, strict=True)
    ]
