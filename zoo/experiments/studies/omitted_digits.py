"""A transfer set without the digit 3, and one of 7s and 8s alone (Hinton et al., section 3)

In the paper, a student that learns from a transfer set without the 3 makes 206 test errors, 133 of
them on the 1,010 threes. The bias of the 3 is too low. Raised by 3.5, a number that was tuned on
the test set, it leaves 109 errors, 14 of them on threes. A student that learns from 7s and 8s alone
makes 47.3 % errors. With the biases of 7 and 8 lowered by 7.6, tuned in the same way, it makes
13.2 %.

Here the students and teachers are those of `mnist_distillation`, with 20 epochs. The labels are not
used (soft_weight 1), since a label of the transfer set is never a 3. We show two repairs of the
biases. The first is the paper's, tuned on the test set, for comparison. The second needs neither
the test set nor labels. It adds one number to the biases of the missing digits. The number is
chosen so that these digits are predicted as often, among the unlabelled images of the whole
training set, as they should occur: a tenth for each digit.
"""

import numpy as np

from zoo.experiments.studies import drawing, mnist_distillation, spread
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
COMMON = {**mnist_distillation.TAUGHT, "soft_weight": 1.0, "epochs": 20}
OMITTED = {
    "no 3": (3,),
    "7 and 8 alone": (0, 1, 2, 3, 4, 5, 6, 9),
}
RUNS = {
    "teacher": mnist_distillation.TEACHER,
    **{label: {**COMMON, "without": digits} for label, digits in OMITTED.items()},
}
PAPER = {
    ("no 3", "as taught"): ("206", "133"),
    ("no 3", "tuned on the test set"): ("109", "14"),
    ("7 and 8 alone", "as taught"): ("4730", ""),
    ("7 and 8 alone", "tuned on the test set"): ("1320", ""),
}


def show(finished):
    """Draw the errors over the bias of the omitted digits, and tabulate three choices of it."""
    figure, panels = drawing.panels(
        "MNIST: the bias of digits that were not in the transfer set", 2
    )
    rows = []
    for axes, (label, digits) in zip(panels, OMITTED.items(), strict=True):
        repairs = [_repairs(run, list(digits)) for run in finished[label]]
        errors = np.stack([repair["errors"] for repair in repairs])
        drawing.curve(axes, repairs[0]["shifts"], errors, 0, label="errors")
        chosen = np.mean([repair["by frequency"][0] for repair in repairs])
        axes.axvline(
            chosen, color=drawing.COLOURS[1], linestyle=":", label="by frequency, no labels"
        )
        axes.set_title(label, fontsize=drawing.TEXT, color=drawing.INK)
        drawing.logarithmic(axes, "y")
        drawing.label(axes, "Added to their logits", "Test errors")
        for how in ("as taught", "by frequency", "tuned on the test set"):
            shift, errors, on_digits = (
                np.array(values)
                for values in zip(*(repair[how] for repair in repairs), strict=True)
            )
            rows.append(
                (
                    f"{label}, {how}",
                    spread(shift, 1),
                    spread(errors, 0),
                    spread(on_digits, 0),
                    *PAPER.get((label, how), ("", "")),
                )
            )
    panels[1].set_ylabel("")
    drawing.legend(figure, finished)
    columns = ("Transfer set and repair", "Added", "Test errors", "on what was omitted", "Paper")
    return figure, Table((*columns, "Paper, on what was omitted"), tuple(rows))


def _repairs(run, digits):
    """Return {repair: (shift of the digits' logits, test errors, test errors on the digits)}.

    "shifts" and "errors" are the curve: the test errors over the shift.
    """
    import zoo.data

    model = load_model(run.folder)
    training, test = (zoo.data.load(run.fields["data"], split) for split in ("train", "test"))
    logits = model.predict(test.images.astype("float32"), batch_size=1024, verbose=0)
    unlabelled = model.predict(training.images.astype("float32"), batch_size=1024, verbose=0)
    shifts = np.linspace(0, 20, 201)
    wrong = np.stack([shifted(logits, digits, by).argmax(1) != test.labels for by in shifts])
    among = np.isin(test.labels, digits)

    def at(by):
        wrong = shifted(logits, digits, by).argmax(1) != test.labels
        return by, int(wrong.sum()), int(wrong[among].sum())

    return {
        "shifts": shifts,
        "errors": wrong.sum(axis=1),
        "as taught": at(0.0),
        "by frequency": at(by_frequency(unlabelled, digits)),
        "tuned on the test set": at(shifts[wrong.sum(axis=1).argmin()]),
    }


def shifted(logits, classes, by):
    """Return logits (n, classes) with a number added to those of some classes."""
    changed = logits.copy()
    changed[:, classes] += by
    return changed


def by_frequency(logits, classes):
    """Return the number to add to some classes' logits so that they are predicted often enough.

    Their predictions then have the share that they would have if all classes were equally frequent.
    So no labels are needed. The number is found by bisection, because the share grows with it.

    Arguments:
        logits: (n, all classes).
        classes: the classes whose logits are to be shifted.
    """
    wanted = len(classes) / logits.shape[1]
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        share = np.isin(shifted(logits, classes, middle).argmax(1), classes).mean()
        low, high = (middle, high) if share < wanted else (low, middle)
    return high
