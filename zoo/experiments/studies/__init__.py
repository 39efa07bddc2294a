"""The papers' measurements, made again: `zoo figure NAME` trains, draws and tabulates one.

A study is a module of this folder. Line 1 of its docstring is its title, the rest says what the
paper reports and where the setting here differs. `RUNS` is {label: fields of a recipe but the
seed}, `SEEDS` how many of each, and `show` makes the figure and the table of the finished runs.
The recipe is small_net, or the one that "recipe" among the fields names; "teachers" are labels of
runs that stand before, of the same seed; a "seed" among the fields is that of all. Runs of the same
fields are shared between studies.
"""

import ast
import functools
import importlib
from pathlib import Path

import numpy as np

from zoo import recipe as recipes
from zoo.runs import Run
from zoo.tables import Table  # noqa: F401 (what `show` gives; the studies take it from here)

NAMES = (
    "dsn_fig2_epochs",
    "dsn_fig2_examples",
    "convergence",
    "gradients",
    "deep_and_narrow",
    "probes",
    "feature_maps",
    "nin_confidence_maps",
    "pooling_heads",
    "translations",
    "dropout",
    "removal",
    "mnist_distillation",
    "temperature",
    "omitted_digits",
    "little_data",
    "ensemble",
    "specialists",
    "soft_targets",
    "smoothing",
)


def spread(values, digits=2):
    """Mean and sample standard deviation: "1.23 ± 0.04"; of one value, the value alone."""
    values = np.asarray(list(values), "float64")
    if len(values) < 2:
        return f"{values.mean():.{digits}f} (1 seed)"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def title(name):
    """Of a study, without running it."""
    return _docstring(name).splitlines()[0]


def carry_out(name, *, seeds=None, runs="runs", out="docs/results", console=None):
    """Train what is missing, then write `out`/NAME.png and `out`/NAME.md; returns the Table.

    Training is the runner's: the same call again resumes it where it was stopped, and takes the
    runs that are finished as they are.
    """
    import keras

    from zoo.training import train

    study = importlib.import_module(f"{__name__}.{name}")
    count = seeds or study.SEEDS
    finished = {label: [] for label in study.RUNS}
    for seed in range(count):  # all conditions of a seed first: what is there can be compared
        for label, fields in study.RUNS.items():
            keras.utils.clear_session()  # else the nets of all runs stay in memory
            name_of_recipe, values = what_to_train(fields, seed, finished)
            folder = train(
                recipe_class(name_of_recipe)(**values),
                _file(name_of_recipe),
                runs=runs,
                console=console,
                page=False,
            )
            finished[label].append(Run(folder))
    figure, table = study.show(finished)
    return write(name, figure, table, finished, out)


def what_to_train(fields, seed, finished):
    """(name of the recipe, its fields): teachers are the runs of this seed, not labels."""
    values = {"seed": seed, **fields}
    name = values.pop("recipe", "small_net")
    if "teachers" in values:
        values["teachers"] = tuple(str(finished[label][-1].folder) for label in values["teachers"])
    return name, values


def write(name, figure, table, finished, out):
    """`out`/NAME.png and `out`/NAME.md."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=150)
    heading, _, text = _docstring(name).partition("\n")
    any_run = next(iter(finished.values()))[0]
    versions = any_run.versions
    seconds = sum(run.results["seconds"] for each in finished.values() for run in each)
    hardware, commit = versions["hardware"], (versions["commit"] or "unknown")[:7]
    changes = " with changes not committed" if versions["dirty"] else ""
    recipes = {run.folder.parent.name for each in finished.values() for run in each}
    links = " and ".join(
        f"[recipes/{each}.py](../../recipes/{each}.py)" for each in sorted(recipes)
    )
    page = [
        f"# {heading}",
        text.strip(),
        f"![{heading}]({name}.png)",
        table.markdown(),
        f"Made by `zoo figure {name}`: {_count(finished)} of {links}, {seconds / 60:.0f} minutes "
        f"of training in all on {hardware['cores']} cores ({hardware['cpu']}) that had other work "
        f"beside, commit {commit}{changes}.",
    ]
    (out / f"{name}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return table


def _count(finished):
    runs = len({run.folder for each in finished.values() for run in each})
    seeds = len(next(iter(finished.values())))
    return "1 run, seed 0" if runs == 1 else f"{runs} runs, seeds 0 to {seeds - 1}"


def _docstring(name):
    path = Path(__file__).with_name(f"{name}.py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@functools.cache
def _file(recipe):
    return recipes.find(recipe)


@functools.cache
def recipe_class(name):
    return recipes.load(_file(name))
