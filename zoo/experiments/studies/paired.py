"""Each seed's difference to one of the arms, as a figure and a table."""

import numpy as np
from scipy import stats

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table


def compared(finished, base, title, heading, *extra):
    """Draw and tabulate how far the test errors of all arms are from those of one.

    The arms of a seed share its images and their order, so that the differences are taken seed by
    seed.

    Arguments:
        finished: {label: the runs of its seeds}.
        base: the label to compare with.
        title: the title of the figure.
        heading: the heading of the column of labels.
        extra: (heading, function of a run -> text) of further columns.

    Returns:
        The figure and the `Table`.
    """
    others = [label for label in finished if label != base]
    figure, (axes,) = drawing.panels(title, height=1.4 + 0.32 * len(others))
    reference = drawing.final_errors(finished[base])
    rows = []
    for label, runs in finished.items():
        errors = drawing.final_errors(runs)
        cells = [function(runs[0]) for _, function in extra]
        if label == base:
            rows.append((label, spread(errors), *cells, "", "", ""))
            continue
        place, gained = others.index(label), errors - reference
        mean, error, p = difference(gained)
        axes.plot(gained, np.full(len(gained), place), "o", markersize=4, color="#888888")
        axes.errorbar(mean, place, xerr=2 * error, fmt="|", color=drawing.COLOURS[0], capsize=4)
        low, high = mean - 2 * error, mean + 2 * error
        numbers = f"{mean:+.2f} ± {error:.2f}", f"{p:.2g}", f"{low:+.2f} to {high:+.2f}"
        rows.append((label, spread(errors), *cells, *numbers))
    axes.axvline(0, color=drawing.QUIET, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(others)), others)
    axes.invert_yaxis()
    drawing.label(axes, "Difference of the test error (points): a dot a seed, and the mean", "")
    columns = (
        *(heading, "Test error (%)", *(name for name, _ in extra)),
        *(f"Difference to {base} (points, standard error)", "p", "Two standard errors"),
    )
    return figure, Table(columns, tuple(rows))


def difference(gained):
    """Return the mean of paired differences, its standard error, and the p of Student's t-test.

    One seed has neither error nor p: they are NaN.
    """
    if len(gained) < 2:
        return float(gained.mean()), float("nan"), float("nan")
    error = gained.std(ddof=1) / len(gained) ** 0.5
    return float(gained.mean()), float(error), float(stats.ttest_1samp(gained, 0).pvalue)
