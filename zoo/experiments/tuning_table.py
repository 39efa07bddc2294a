"""The results of a search: trials.csv, trials.md, trials.png, and the command of the best trial."""

import csv
import itertools

import numpy as np

from zoo import files, terminal
from zoo.markup import code, markdown, shell
from zoo.recipe import names
from zoo.report import figures
from zoo.runs import Run
from zoo.tables import Table
from zoo.text import counted, flag


def write(search, oracle, console):
    """Write and print the results so far; nothing if no trial has a score.

    Arguments:
        search: the `zoo.experiments.tuning_search.Search`.
        oracle: keras-tuner's oracle, which has all trials.
        console: the rich console to print to.
    """
    rows = [_row(search, trial) for trial in search.finished(oracle)]
    if not rows:
        return
    with open(search.folder / "trials.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    fields = {key: [row.get(key) for row in rows] for key in rows[0] if key in search.searched}
    errors = np.array([row["error_percent"] for row in rows])
    figure = figures.searched(fields, errors, search.logarithmic)
    figure.savefig(search.folder / "trials.png", dpi=150)
    failed = sum(trial.status == "FAILED" for trial in oracle.trials.values())
    files.write(search.folder / "trials.md", _page(search, rows, failed))
    terminal.show(tuple(rows[0]), [tuple(row.values()) for row in rows[:10]], console=console)
    for line in (
        "",
        f"The page    {search.folder / 'trials.md'}",
        f"The figure  {search.folder / 'trials.png'}",
        f"The best    {command(search, rows[0])}",
    ):
        terminal.say(line, console=console)


def command(search, row):
    """Return the command that trains a row's values as long as the recipe does.

    The test set judges that training, since the command leaves out `--validation`.

    Arguments:
        search: the `zoo.experiments.tuning_search.Search`.
        row: {column: value}; None for a field that the trial does not have.
    """
    budget = ("validation", "epochs", "steps_per_epoch")
    values = {key: value for key, value in search.common_values.items() if key not in budget}
    values |= {key: row[key] for key in search.searched if row[key] is not None}
    known, defaults = names().get(search.file.stem), type(search.recipe)()
    by_name = known is not None and known.resolve() == search.file.resolve()
    recipe = search.file.stem if by_name else str(search.file)
    flags = [_as_flags(key, value, getattr(defaults, key)) for key, value in values.items()]
    return shell("zoo", "train", recipe, *itertools.chain(*flags))


def _row(search, trial):
    results = search.results(trial)
    return {
        "trial": trial.trial_id,
        **dict.fromkeys(search.searched),  # a trial may lack a field that depends on another
        **search.values(trial),
        "errors": results["errors"],
        "error_percent": round(results["error_percent"], 2),
        "seconds": round(results["seconds"], 1),
    }


def _page(search, rows, failed):
    trials = sorted((search.folder / "trials").iterdir())
    finished = next(run for run in map(Run, trials) if run.is_finished)
    versions = finished.versions
    hardware, commit = versions["hardware"], (versions["commit"] or "unknown")[:7]
    examples = finished.results["examples"]
    table = Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows))
    minutes = sum(row["seconds"] for row in rows) / 60
    budget = ", ".join(code(f"{flag(key)} {value}") for key, value in search.common_values.items())
    recipe = search.file.stem
    made_by = shell("zoo", "tune", recipe, "--tuner", search.tuner, "--trials", search.trials)
    return "\n\n".join(
        [
            f"# Search of {markdown(recipe)}: {len(rows)} of {search.trials} trials",
            f"The table shows the error (%) on {examples} held-out training images after the last "
            "epoch. The test set was not opened. **The results hold for this budget only**: "
            + budget
            + (f". {counted(failed, 'further trial')} diverged." if failed else "."),
            f"The best: {code(command(search, rows[0]))}",
            "![The trials](trials.png)",
            table.markdown(),
            f"Made by {code(made_by)} with the budget above: "
            f"{counted(round(minutes), 'minute')} of training on "
            f"{counted(hardware['cores'], 'core')} ({hardware['cpu']}), commit {commit}.\n",
        ]
    )


def _as_flags(field, value, default):
    """Return a field's flags. A field that is true or false takes no value."""
    if isinstance(default, bool):
        return [flag(field if value else f"no_{field}")]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [flag(field), *map(str, values)]
