"""The commands about recipes: `zoo list`, `train`, `tune` and `pack`."""

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from zoo import exports
from zoo import recipe as recipes
from zoo.commands import distilling
from zoo.commands.output import FOR_PEOPLE, AsForm, Form
from zoo.commands.parsing import parse
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError, ZooError
from zoo.markup import shell
from zoo.recipe import Recipe, RecipeError
from zoo.runs import Run
from zoo.terminal import say, show
from zoo.text import one_line

RecipeName = Annotated[Positional[str], arg(metavar="RECIPE")]
_OF_A_MODEL = (
    *("name", "folder", "test_error_percent", "deviation_percent", "seeds", "parameters"),
    *("classes", "error"),
)


def list_recipes(form: AsForm = FOR_PEOPLE) -> None:
    """List the recipes with their results, and the trained models: the zoo's and your own.

    Arguments:
        form: How to print the list.
    """
    titles: list[tuple[str, str]] = []
    with form.alone():
        for name, file in recipes.names().items():
            try:
                titles.append((name, recipes.title(file)))
            except (RecipeError, OSError) as error:
                titles.append((name, one_line(error)))
        models = [_row(name, folder) for name, folder in _models().items()]
    if form.is_for_programs:
        _write_list(form, titles, models)
        return
    show(("recipe", "result"), titles)
    say()
    say("Train one with `zoo train RECIPE`. `zoo train RECIPE --help` shows its flags.")
    if models:
        say()
        show(("trained model", "test error", "seeds", "parameters"), map(_shown, models))
        say()
        say("Use one by its name: zoo predict NAME IMAGE..., zoo export NAME, nin(weights=NAME).")


def _models() -> dict[str, Path]:
    """Return {name: folder} of the trained models, and {path: folder} where a name is the zoo's."""
    here = {file.parent.name: file.parent for file in Path("saved_models").glob("*/card.json")}
    known = exports.names()
    others = {
        name if name not in known else str(folder): folder
        for name, folder in here.items()
        if name not in known or not folder.samefile(known[name])
    }
    return dict(sorted({**known, **others}.items()))


def _row(name: str, folder: Path) -> dict[str, Any]:
    """Return what `zoo list` says of a model, with "error" if its card cannot be read."""
    row = dict.fromkeys(_OF_A_MODEL, None) | {"name": name, "folder": str(folder)}
    try:
        return row | _facts(_card(folder))
    except (ZooError, ValueError, TypeError, LookupError, RecursionError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        return row | {"error": f"card.json is damaged ({reason:.80})"}


def _card(folder: Path) -> dict[str, Any]:
    """Return the card beside the versions, or in the newest; the wheel has the latter alone."""
    if (folder / "card.json").exists():
        return exports.card_beside(folder)
    return exports.card(exports.newest(folder) or folder)


def _facts(card: dict[str, Any]) -> dict[str, Any]:
    """Return what a card says of the values in `_OF_A_MODEL`."""
    seeds, deviation = card.get("seeds"), None
    if seeds and seeds["deviation_percent"] is not None:
        deviation = float(seeds["deviation_percent"])
    return {
        "test_error_percent": float(seeds["mean_error_percent"]) if seeds else None,
        "deviation_percent": deviation,
        "seeds": len(seeds["seeds"]) if seeds else None,
        "parameters": operator.index(card["parameters"]),
        "classes": len(card["labels"]),
    }


def _shown(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a model's line of the table."""
    if row["error"]:
        return row["name"], row["error"], "", ""
    error, deviation = row["test_error_percent"], row["deviation_percent"]
    text = "not known" if error is None else f"{error:.2f}"
    text += "" if deviation is None else f" ± {deviation:.2f}"
    text += "" if error is None else " %"
    return row["name"], text, str(row["seeds"] or ""), f"{row['parameters']:,}"


def _write_list(
    form: Form, titles: Sequence[tuple[str, str]], models: Sequence[dict[str, Any]]
) -> None:
    document = {
        "recipes": [{"name": name, "result": result} for name, result in titles],
        "models": models,
    }
    columns = ("kind", "name", "result", *_OF_A_MODEL[1:])
    rows = [("recipe", name, result, *[None] * (len(columns) - 3)) for name, result in titles]
    rows += [("model", row["name"], None, *(row[key] for key in _OF_A_MODEL[1:])) for row in models]
    form.write(document, columns, rows)


@dataclass(frozen=True)
class TrainOptions:
    """The flags of `zoo train` that are not fields of the recipe."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    name: str | None = None
    """Name of the run folder. Default: built from the flags you set.
    The same name resumes the run."""
    checkpoint_seconds: float = 60.0
    """Seconds between two saves of the training state. It is also saved after each epoch."""
    deterministic: bool = True
    """Use operations that give the same bits each time.
    A resumed run then ends like one that was never stopped."""
    strategy: Literal["auto", "none", "mirrored", "multi"] = "auto"
    """Strategy for several devices. auto: all that there are.
    mirrored: several GPUs of this machine. multi: the workers of TF_CONFIG."""
    replicas: int = 0
    """Number of devices of a mirrored strategy. 0: all GPUs.
    Without GPUs, the CPU is divided into so many devices, for tests."""
    minutes: float | None = None
    """Stop after this many minutes, with the state saved and exit code 3.
    The same command resumes."""
    force: bool = False
    """Begin even if the data, the net or a step seem too large for the memory."""
    page: bool = True
    """Draw the page of the finished run. `zoo report` draws it later."""
    checkpoints: Path | None = None
    """Empty or new folder to save the training state in, for example on another disk.
    The run folder gets a link to it. Default: the run folder."""


def train(recipe: RecipeName) -> None:
    """Train a recipe: `zoo train RECIPE [--field value ...]`. The same command resumes.

    The flags depend on the recipe: `zoo train RECIPE --help` shows them.

    Arguments:
        recipe: Name of a recipe, a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo train takes the recipe first: zoo train RECIPE [--field value ...]")


def _train(recipe: Recipe, file: Path, options: TrainOptions, flags: Sequence[str]) -> None:
    from zoo.training import train as run_training

    folder = run_training(recipe, file, **vars(options))
    run = Run(folder)
    if not run.has_model:  # a worker; the chief writes the model, perhaps on another machine
        return
    say()
    draw = f"{shell('zoo', 'report', folder)} draws it"
    say(f"The page   {run.page if run.page.is_file() else draw}")
    say(f"The model  {run.model_file}")
    predict, export = shell("zoo", "predict", folder), shell("zoo", "export", folder)
    say(f"Next       {predict} IMAGE...    {export}")


@dataclass(frozen=True)
class PackOptions:
    """The flags of `zoo pack` that are not fields of the recipe."""

    out: Path | None = None
    """The archive to write. Default: RECIPE.zip."""
    name: str | None = None
    """Name of the run folder. Default: built from the flags you set."""


def pack(recipe: RecipeName) -> None:
    """Make an archive that trains a recipe elsewhere with JAX, without TensorFlow or network.

    `zoo pack RECIPE --help` shows the flags.

    Arguments:
        recipe: Name of a recipe, a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo pack takes the recipe first: zoo pack RECIPE [--field value ...]")


def _pack(recipe: Recipe, file: Path, options: PackOptions, flags: Sequence[str]) -> None:
    from zoo.experiments import packing

    out = packing.pack(recipe, file, options.out or Path(f"{file.stem}.zip"), options.name)
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
    say("Unzip it there. Then run this until the training is finished:")
    say("  python train.py --minutes 9")


@dataclass(frozen=True)
class TuneOptions:
    """The flags of `zoo tune` that are not fields of the recipe."""

    trials: int = 20
    """Total number of settings to try. To go on with a search, give a larger number."""
    tuner: Literal["bayesian", "hyperband", "random"] = "bayesian"
    """Method that proposes the settings. Under hyperband most trials have fewer epochs."""
    runs: Path = Path("runs")
    """Folder of the search's folder, which gets a run folder for each trial."""
    name: str | None = None
    """Name of the search's folder. Default: built from the tuner and the flags you set."""
    checkpoint_seconds: float = 60.0
    """Seconds between two saves of the training state. It is also saved after each epoch."""
    deterministic: bool = True
    """Use operations that give the same bits each time."""
    force: bool = False
    """Begin even if the data, the net or a step seem too large for the memory."""


def tune(recipe: RecipeName) -> None:
    """Search the fields that a recipe declares: `zoo tune RECIPE --validation 0.1 --trials N`.

    Held-out training images judge the trials, so `--validation` is required. A field that you set
    has that value in all trials. The same command resumes. `zoo tune RECIPE --help` shows the
    flags.

    Arguments:
        recipe: Name of a recipe, a name from `zoo list`, or the path of a recipe file of your own.
    """
    raise UsageError("zoo tune takes the recipe first: zoo tune RECIPE [--field value ...]")


def _tune(recipe: Recipe, file: Path, options: TuneOptions, flags: Sequence[str]) -> None:
    from zoo.experiments.tuning import tune as search

    given = {flag.split("=")[0].lstrip("-").replace("-", "_") for flag in flags}
    fields = [field.name for field in dataclasses.fields(recipe)]
    fixed = [field for field in fields if field in given or f"no_{field}" in given]
    search(recipe, file, fixed=fixed, **vars(options))


# The commands whose flags depend on the recipe, which is their first argument: the function that
# has the help without a recipe, the other flags, and the function that does the work.
OF_A_RECIPE: dict[str, tuple[Any, type, Any]] = {
    "train": (train, TrainOptions, _train),
    "tune": (tune, TuneOptions, _tune),
    "pack": (pack, PackOptions, _pack),
    "distill": (distilling.distill, distilling.DistillOptions, distilling.carry_out),
}
_RECIPE_OF = {"distill": distilling.RECIPE}  # a command that is about one recipe


def carry_out(name: str, arguments: Sequence[str]) -> None:
    """Run one of the commands of `OF_A_RECIPE`.

    Arguments:
        name: the command.
        arguments: the recipe, unless the command is about one, then flags. Without a recipe, the
            command's general help or error.

    Raises:
        UsageError: if the flags are wrong.
        RecipeError: if there is no such recipe.
    """
    without_recipe, other_flags, run = OF_A_RECIPE[name]
    if name in _RECIPE_OF:
        prog = f"zoo {name}"
        arguments = [_RECIPE_OF[name], *distilling.in_full(arguments)]
    elif not arguments or arguments[0].startswith("-"):
        parse(tyro.cli, without_recipe, prog=f"zoo {name}", args=arguments)
        return
    else:
        prog = f"zoo {name} {arguments[0]}"
    file = recipes.find(arguments[0])
    import_tensorflow()
    recipe_class = recipes.load(file)

    @dataclass(frozen=True)
    class Command:
        recipe: OmitArgPrefixes[Annotated[recipe_class, arg(name="")]]  # type: ignore[valid-type]
        options: OmitArgPrefixes[Annotated[other_flags, arg(name="")]]  # type: ignore[valid-type]

    Command.__doc__ = recipes.title(file)
    command = parse(tyro.cli, Command, prog=prog, args=arguments[1:])
    run(command.recipe, file, command.options, arguments[1:])
