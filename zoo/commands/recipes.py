"""The commands about recipes: `zoo list`, `train`, `tune` and `pack`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from zoo import recipe as recipes
from zoo.commands.parsing import parse
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.runs import Run


def list_recipes():
    """Show the recipes and what they reached, and the trained models of saved_models/."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "result", box=None, padding=(0, 2, 0, 0))
    for name, file in recipes.names().items():
        table.add_row(name, recipes.title(file))
    Console().print(table)
    print(
        "\nTrain one with `zoo train RECIPE`; `zoo train RECIPE --help` shows what can be varied."
    )
    if cards := sorted(Path("saved_models").glob("*/card.json")):
        table = Table("trained model", "test error", "seeds", "parameters", box=None)
        for file in cards:
            table.add_row(*_listed(json.loads(file.read_text(encoding="utf-8"))))
        print()
        Console().print(table)
        print("\nTheir cards are saved_models/NAME/README.md.")


def _listed(card):
    """Name, test error, number of seeds and parameters of an export, as text."""
    seeds = card.get("seeds")
    if not seeds:
        return card["name"], "not known", "", f"{card['parameters']:,}"
    error = f"{seeds['mean_error_percent']:.2f}"
    if seeds["deviation_percent"] is not None:
        error += f" ± {seeds['deviation_percent']:.2f}"
    return card["name"], f"{error} %", str(len(seeds["seeds"])), f"{card['parameters']:,}"


@dataclass(frozen=True)
class Options:
    """What `zoo train` takes beside the fields of the recipe."""

    runs: Path = Path("runs")
    """Where run folders go."""
    name: str | None = None
    """Of the run folder; by default made of the fields given. The same name resumes the run."""
    checkpoint_seconds: float = 60.0
    """Save the training state so often, and at the end of each epoch."""
    deterministic: bool = True
    """Operations that repeat their bits, so that a resumed run ends like one left alone."""
    strategy: Literal["auto", "none", "mirrored", "multi"] = "auto"
    """Several GPUs (mirrored) or the workers of TF_CONFIG (multi); auto: whichever there are."""
    replicas: int = 0
    """Devices of a mirrored strategy; 0 for all GPUs. Without GPUs it divides the CPU, to test."""
    minutes: float | None = None
    """Stop after so many, saved, with exit code 3; the same command goes on."""
    page: bool = True
    """Draw the page of the finished run; `zoo report` does it later."""


def train(recipe: Positional[str]):
    """Train a recipe, by name or file: `zoo train RECIPE [--field value ...]`. Resumes by itself.

    Args:
        recipe: a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo train takes the recipe first: zoo train RECIPE [--field value ...]")


def _train(recipe, file, options, flags):
    from zoo.training import train as run_training

    folder = run_training(recipe, file, **vars(options))
    run = Run(folder)
    if not run.has_model:  # a worker whose chief writes elsewhere
        return
    print()
    print(f"The page   {run.page if run.page.is_file() else f'zoo report {folder} draws it'}")
    print(f"The model  {run.model_file}")
    print(f"Next       zoo predict {folder} IMAGE...    zoo export {folder}")


@dataclass(frozen=True)
class PackOptions:
    """What `zoo pack` takes beside the fields of the recipe."""

    out: Path | None = None
    """The archive; by default RECIPE.zip."""
    name: str | None = None
    """Of the run folder; by default made of the fields given."""


def pack(recipe: Positional[str]):
    """Make one archive that trains a recipe with JAX, without TensorFlow or network.

    Args:
        recipe: a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo pack takes the recipe first: zoo pack RECIPE [--field value ...]")


def _pack(recipe, file, options, flags):
    from zoo.experiments import packing

    out = packing.pack(recipe, file, options.out or Path(f"{file.stem}.zip"), options.name)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
    print("There  unzip it, then as often as it takes: python train.py --minutes 9")


@dataclass(frozen=True)
class TuneOptions:
    """What `zoo tune` takes beside the fields of the recipe."""

    trials: int = 20
    """How many settings to try in all; the same search with a larger number goes on."""
    tuner: Literal["bayesian", "hyperband", "random"] = "bayesian"
    """What proposes them. Under hyperband most trials have fewer epochs."""
    runs: Path = Path("runs")
    """Where the search's folder goes, with a run folder a trial."""
    name: str | None = None
    """Of that folder; by default made of the tuner and the fields given."""
    checkpoint_seconds: float = 60.0
    """Save the training state so often, and at the end of each epoch."""
    deterministic: bool = True
    """Operations that repeat their bits."""


def tune(recipe: Positional[str]):
    """Search the fields that a recipe declares, on held-out images: `zoo tune RECIPE --trials N`.

    Fields that are given, as to `zoo train`, have that value in all trials; `--validation` has to
    be. Resumes by itself.

    Args:
        recipe: a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo tune takes the recipe first: zoo tune RECIPE [--field value ...]")


def _tune(recipe, file, options, flags):
    from zoo.experiments.tuning import tune as search

    named = {each.split("=")[0].lstrip("-").replace("-", "_") for each in flags}
    fields = [field.name for field in dataclasses.fields(recipe)]
    given = [field for field in fields if field in named or f"no_{field}" in named]
    search(recipe, file, fixed=given, **vars(options))


# Their flags are their options, and the fields of the recipe that their first argument names.
OF_A_RECIPE = {
    "train": (train, Options, _train),
    "tune": (tune, TuneOptions, _tune),
    "pack": (pack, PackOptions, _pack),
}


def carry_out(name, arguments):
    """One of `OF_A_RECIPE`."""
    described, others, run = OF_A_RECIPE[name]
    if not arguments or arguments[0].startswith("-"):
        return parse(tyro.cli, described, prog=f"zoo {name}", args=arguments)
    file = recipes.find(arguments[0])
    import_tensorflow()
    cls = recipes.load(file)

    @dataclass(frozen=True)
    class Command:
        recipe: OmitArgPrefixes[Annotated[cls, arg(name="")]]
        options: OmitArgPrefixes[Annotated[others, arg(name="")]]

    Command.__doc__ = recipes.title(file)
    prog = f"zoo {name} {arguments[0]}"
    command = parse(tyro.cli, Command, prog=prog, args=arguments[1:])
    return run(command.recipe, file, command.options, arguments[1:])
