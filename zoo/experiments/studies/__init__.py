"""Studies: measurements of the papers, made again. `zoo figure NAME` trains and draws one.

A study is a module of this folder. Line 1 of its docstring is the title of its page. The other
lines say what the paper reports, and where our setting differs. A study has three public names:

    RUNS: {label: fields of a recipe, without the seed}
    SEEDS: how many runs of each label
    show: a function that gets the finished runs, and returns a figure and a `zoo.tables.Table`

A study of the trained models in saved_models/ has no RUNS. Its MODELS are {label: name}.

Three keys of a run's fields are special. "recipe" names the recipe; by default it is small_net.
"teachers" are labels of runs that come before, and mean their run of the same seed. "seed" is the
seed of all runs of the label. Studies share runs that have the same fields.
"""

import ast
import functools
import importlib
import os
import re
from pathlib import Path

import numpy as np

from zoo import exports, provenance
from zoo import recipe as recipes
from zoo.errors import UsageError
from zoo.runs import Run
from zoo.text import counted

# The minutes that all runs of a study took on 2 shared cores of an AMD EPYC, as its page says. Runs
# that studies share count in each of them. "ensemble" and "smoothing" are too high: their pages
# are of a time when the ten members counted once for each seed.
MINUTES = {
    "dsn_fig2_epochs": 16,
    "dsn_fig2_examples": 24,
    "convergence": 33,
    "gradients": 33,
    "deep_and_narrow": 3,
    "probes": 33,
    "feature_maps": 21,
    "nin_confidence_maps": 1,
    "early_exits": 1,
    "pooling_heads": 6,
    "translations": 6,
    "dropout": 15,
    "removal": 46,
    "mnist_distillation": 40,
    "temperature": 35,
    "omitted_digits": 26,
    "little_data": 30,
    "ensemble": 15,
    "specialists": 3,
    "soft_targets": 27,
    "smoothing": 20,
}
NAMES = tuple(MINUTES)


def spread(values, digits=2):
    """Return the mean and the sample standard deviation as text: "1.23 ± 0.04".

    One value has no deviation: "1.23 (1 seed)".
    """
    values = np.asarray(list(values), "float64")
    if len(values) < 2:
        return f"{values.mean():.{digits}f} (1 seed)"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def title(name):
    """Return the title of a study. The study's module is not imported."""
    return _docstring(name).splitlines()[0]


def default_folder(name, seeds):
    """Return where the page of a study goes if nobody says where.

    It is docs/results of a copy of the repository, whose pages have all seeds of the studies, and
    else results in the current folder.

    Arguments:
        name: the study's name.
        seeds: how many runs of each label; None for the study's SEEDS.
    """
    pages = Path("docs/results")
    is_whole = seeds in (None, _study(name).SEEDS)
    return pages if is_whole and (pages / f"{name}.md").is_file() else Path("results")


def carry_out(name, *, seeds=None, runs="runs", out=None, console=None):
    """Train the missing runs of a study, then `write` its page and figure.

    The same call again resumes stopped runs and keeps finished ones.

    Arguments:
        name: the study's name, one of `NAMES`.
        seeds: how many runs of each label; by default the study's SEEDS.
        runs: the folder of all runs.
        out: the folder for the page and the figure; by default `default_folder`.
        console: the rich console to print to; by default standard output.

    Returns:
        The study's `zoo.tables.Table`.

    Raises:
        UsageError: if `out` has a page of more seeds.
    """
    import keras

    from zoo.training import train

    study = _study(name)
    count = seeds or study.SEEDS
    out = default_folder(name, seeds) if out is None else Path(out)
    _refuse_fewer(out / f"{name}.md", count)
    finished = {label: [] for label in study.RUNS}
    for seed in range(count):  # all labels of a seed first, so that they can be compared early
        for label, fields in study.RUNS.items():
            keras.utils.clear_session()  # else the nets of all runs stay in memory
            name_of_recipe, values = what_to_train(fields, seed, finished)
            folder = train(
                recipe_class(name_of_recipe)(**values),
                _recipe_file(name_of_recipe),
                runs=runs,
                console=console,
                page=False,
            )
            finished[label].append(Run(folder))
    figure, table = study.show(finished)
    return write(name, figure, table, finished, out)


def _study(name):
    return importlib.import_module(f"{__name__}.{name}")


def _refuse_fewer(page, seeds):
    """Refuse to write a page of fewer seeds over one of more."""
    if not page.is_file():
        return
    last = re.search(r"^Made by .*, seeds 0 to (\d+) of ", page.read_text("utf-8"), re.MULTILINE)
    before = int(last[1]) + 1 if last else 1
    if seeds < before:
        raise UsageError(
            f"{page} has {before} seeds; --seeds {seeds} would replace it by fewer. Give another "
            "folder: --out FOLDER."
        )


def what_to_train(fields, seed, finished):
    """Return the name of a run's recipe, and the recipe's fields.

    Arguments:
        fields: a value of a study's RUNS.
        seed: the seed, unless the fields have one.
        finished: {label: the `Run`s so far}. The labels in "teachers" become the folders of their
            last runs.
    """
    values = {"seed": seed, **fields}
    name = values.pop("recipe", "small_net")
    if "teachers" in values:
        values["teachers"] = tuple(str(finished[label][-1].folder) for label in values["teachers"])
    return name, values


def write(name, figure, table, finished, out):
    """Write the page and the figure of a study: `out`/NAME.md and `out`/NAME.png.

    Arguments:
        name: the study's name.
        figure: the matplotlib `Figure`.
        table: the `zoo.tables.Table`.
        finished: {label: `Run`s}.
        out: the folder.

    Returns:
        The table.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=150)
    for run in (run for runs in finished.values() for run in runs):
        run.copy_records(out / "records" / run.folder.parent.name / run.folder.name)
    page = [introduction(name), table.markdown(), _made_by(name, finished)]
    (out / f"{name}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return table


def introduction(name):
    """Return the first part of a study's page: the heading, the text and the figure."""
    heading, _, text = _docstring(name).partition("\n")
    return f"# {heading}\n\n{text.strip()}\n\n![{heading}]({name}.png)"


def _made_by(name, finished):
    """Return the last line of a page: its runs, their time, hardware and code."""
    if not finished:
        return _made_by_models(name)
    runs = {run.folder: run for of_label in finished.values() for run in of_label}
    first, seeds = next(iter(runs.values())), len(next(iter(finished.values())))
    hardware, commit = first.versions["hardware"], (first.versions["commit"] or "unknown")[:7]
    names = sorted({folder.parent.name for folder in runs})
    links = " and ".join(f"[recipes/{each}.py](../../recipes/{each}.py)" for each in names)
    minutes = round(sum(run.results["seconds"] for run in runs.values()) / 60)
    time = counted(minutes, "minute") if minutes else "less than a minute"
    of_seeds = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    changes = ""
    if any(run.versions["dirty"] for run in runs.values()):
        changes = " with changes that were not committed, so nobody can check out the code"
    return (
        f"Made by `zoo figure {name}`: {counted(len(runs), 'run')}, {of_seeds} of {links}, {time} "
        f"of training in all on {counted(hardware['cores'], 'core')} ({hardware['cpu']}), "
        f"commit {commit}{changes}."
    )


def _made_by_models(name):
    """Return the last line of the page of a study that trains nothing."""
    versions = {
        model: exports.find_version(exports.resolve(model)).name
        for model in _study(name).MODELS.values()
    }
    models = ", ".join(
        f"[{model}](../../saved_models/{model}/README.md) version {version}"
        for model, version in versions.items()
    )
    cores = counted(len(os.sched_getaffinity(0)), "core")
    return (
        f"Made by `zoo figure {name}` on {cores} ({provenance.processor()}), without a training. "
        f"Models: {models}."
    )


def _docstring(name):
    path = Path(__file__).with_name(f"{name}.py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@functools.cache
def recipe_class(name):
    """Return the class of a recipe that is given by name."""
    return recipes.load(_recipe_file(name))


@functools.cache
def _recipe_file(name):
    return recipes.find(name)
