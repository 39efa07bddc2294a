"""The `zoo` command. TensorFlow is imported only by the commands that need it, when they run."""

import contextlib
import difflib
import functools
import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from zoo import recipe as recipes


class UsageError(Exception):
    """Wrong input at the command line: one line, exit code 2."""


def list_recipes():
    """Show the recipes and what they reached."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "result", box=None, padding=(0, 2, 0, 0))
    for name, file in recipes.names().items():
        table.add_row(name, recipes.title(file))
    Console().print(table)
    print(
        "\nTrain one with `zoo train RECIPE`; `zoo train RECIPE --help` shows what can be varied."
    )


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


def _train(arguments):
    """`zoo train`, whose flags are the fields of the recipe that its first argument names."""
    if not arguments or arguments[0].startswith("-"):
        return _parse(tyro.cli, train, prog="zoo train", args=arguments)
    file = recipes.find(arguments[0])
    prog = f"zoo train {arguments[0]}"
    _import_tensorflow()
    recipe, options = _recipe_and(Options, file, prog, arguments[1:])
    from zoo.training import train as run

    folder = run(
        recipe,
        file,
        runs=options.runs,
        name=options.name,
        checkpoint_seconds=options.checkpoint_seconds,
        deterministic=options.deterministic,
        strategy=options.strategy,
        replicas=options.replicas,
        minutes=options.minutes,
        page=options.page,
    )
    if not (folder / "model.keras").is_file():  # a worker whose chief writes elsewhere
        return
    print()
    if options.page:
        print(f"The page   {folder / 'report.html'}")
    print(f"The model  {folder / 'model.keras'}")
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


def _pack(arguments):
    """`zoo pack`, with the flags of the recipe."""
    if not arguments or arguments[0].startswith("-"):
        return _parse(tyro.cli, pack, prog="zoo pack", args=arguments)
    file = recipes.find(arguments[0])
    _import_tensorflow()
    recipe, options = _recipe_and(PackOptions, file, f"zoo pack {arguments[0]}", arguments[1:])
    from zoo import packing

    out = packing.pack(recipe, file, options.out or Path(f"{file.stem}.zip"), options.name)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
    print("There  unzip it, then as often as it takes: python train.py --minutes 9")


def _recipe_and(more, file, prog, arguments):
    """(recipe, options) from flags: those of a recipe are its fields."""
    cls = recipes.load(file)

    @dataclass(frozen=True)
    class Command:
        recipe: OmitArgPrefixes[Annotated[cls, arg(name="")]]
        options: OmitArgPrefixes[Annotated[more, arg(name="")]]

    Command.__doc__ = recipes.title(file)
    command = _parse(tyro.cli, Command, prog=prog, args=arguments)
    return command.recipe, command.options


def evaluate(run: Positional[Path], data: str | None = None):
    """Measure a trained run again: accuracy, loss, and every class.

    Args:
        run: a run folder.
        data: another data set than the recipe's; its test images are used.
    """
    results, fields = _results(run), _fields(run)
    _import_tensorflow()
    import zoo.data
    from zoo import predicting

    test = zoo.data.load(data or fields["data"], "test", image_size=fields["image_size"])
    if list(test.label_names) != results["label_names"]:
        raise UsageError(
            f"{test.name} has the classes {', '.join(test.label_names)}; the run has "
            f"{', '.join(results['label_names'])}."
        )
    predicting.show_evaluation(predicting.load_model(run), test)


def predict(model: Positional[Path], images: Positional[tuple[Path, ...]], top: int = 5):
    """Classify PNG or JPEG images: a table of labels and probabilities.

    Args:
        model: a run folder, or an export.
        images: image files.
        top: how many classes to show.
    """
    if top < 1:
        raise UsageError(f"--top is a number of classes, 1 or more; received {top}.")
    if not images:
        raise UsageError("zoo predict MODEL IMAGE... received no image.")
    for image in images:
        if not image.is_file():
            raise UsageError(f"There is no image {str(image)!r}.")
    labels = _results(model)["label_names"] if (model / "model.keras").is_file() else None
    _import_tensorflow()
    from zoo import predicting

    predicting.show_predictions(model, labels, images, top)


def export(run: Positional[Path], out: Path | None = None):
    """Make a SavedModel that TF Serving loads, from a trained run.

    Args:
        run: a run folder.
        out: the folder that gets the next version; by default saved_models/RECIPE.
    """
    labels = _results(run)["label_names"]
    out = out or Path("saved_models") / run.resolve().parent.name
    _import_tensorflow()
    from zoo import predicting, serving

    version = serving.export_savedmodel(predicting.load_model(run), labels, out)
    print(f"Exported and checked as a server would: {version}")
    print(f"Next  zoo predict {out} IMAGE...")


def report(run: Positional[Path]):
    """Draw the page of a trained run again.

    Args:
        run: a run folder.
    """
    _results(run)
    _import_tensorflow()
    import zoo.report
    from zoo import predicting

    recorded = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in recorded["fields"].items()}
    file = Path(recorded["file"])
    # Of a run that came from elsewhere, the recipe of the same name.
    file = file if file.is_file() else recipes.find(recorded["recipe"])
    _, judging = recipes.load(file)(**fields).datasets()
    print(zoo.report.write(run, predicting.load_model(run), judging))


def figure(
    name: Positional[str | None] = None,
    seeds: int | None = None,
    runs: Path = Path("runs"),
    out: Path = Path("docs/results"),
):
    """Make a measurement of the papers again: train what is missing, draw, tabulate.

    Args:
        name: of a study; without one, the studies are listed.
        seeds: how many runs of each kind; by default as many as the study says.
        runs: where run folders go.
        out: the folder that gets NAME.png and NAME.md.
    """
    from rich.console import Console
    from rich.table import Table

    from zoo import studies

    if name is None:
        table = Table("study", "measurement", box=None, padding=(0, 2, 0, 0))
        for each in studies.NAMES:
            table.add_row(each, studies.title(each))
        Console().print(table)
        print("\nMake one with `zoo figure STUDY`; it takes up finished and stopped runs.")
        return
    if name not in studies.NAMES:
        nearest = difflib.get_close_matches(name, studies.NAMES, 1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else "`zoo figure` shows the studies."
        raise UsageError(f"There is no study {name!r}. {hint}")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds is a number of runs, 1 or more; received {seeds}.")
    _import_tensorflow()
    made = studies.carry_out(name, seeds=seeds, runs=runs, out=out)
    table = Table(*made.columns, title=studies.title(name), title_justify="left")
    for row in made.rows:
        table.add_row(*row)
    Console().print(table)
    print(f"\nThe page    {out / name}.md")
    print(f"The figure  {out / name}.png")


COMMANDS = {
    "list": list_recipes,
    "train": train,
    "pack": pack,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "report": report,
    "figure": figure,
}


def main(arguments=None):
    """Run it; exits with 0, 1 (failed), 2 (wrong input), 3 (time is up), 130 or 143 (stopped)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["train"]:
            _train(arguments[1:])
        elif arguments[:1] == ["pack"]:
            _pack(arguments[1:])
        elif arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            nearest = difflib.get_close_matches(arguments[0], COMMANDS, 1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else "See zoo --help."
            raise UsageError(f"There is no command {arguments[0]!r}. {hint}")
        else:
            commands = {name: _later(command) for name, command in COMMANDS.items()}
            parser = tyro.extras.subcommand_cli_from_dict
            arguments = arguments or ["--help"]
            _parse(parser, commands, prog="zoo", description=_ABOUT, args=arguments)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print("zoo:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(code)


_ABOUT = "Network in Network, Deeply-Supervised Nets and distillation: train, look, export, serve."


def _exit_code(error):
    """Of an error with a message for people; None for one that should show where it comes from."""
    if isinstance(error, (UsageError, recipes.RecipeError, FileExistsError, FileNotFoundError)):
        return 2
    if isinstance(error, OSError):
        return 1
    for module, name, code in (
        ("zoo.data", "DataError", 2),
        ("zoo.teachers", "TeacherError", 2),
        ("zoo.serving", "ExportError", 2),
        ("zoo.distribute", "StrategyError", 2),
        ("zoo.distribute", "WorkerLost", 1),
        ("zoo.training", "TrainingError", 1),
        ("zoo.training", "TimeUp", 3),
        ("zoo.checkpoint", "CheckpointError", 1),
    ):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, getattr(loaded, name)):
            return code
    if (module := sys.modules.get("zoo.training")) and isinstance(error, module.Interrupted):
        return 128 + error.signal
    return None


def _later(command):
    """The command as something to parse now and call after, so that errors are told apart."""

    @functools.wraps(command)
    def parsed(*arguments, **keywords):
        return functools.partial(command, *arguments, **keywords)

    return parsed


def _parse(parser, *arguments, **keywords):
    """What tyro parses; its box of error text becomes one line."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return parser(*arguments, **keywords)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(shown.getvalue(), keywords["prog"])) from None


def _one_line(box, prog):
    """Of the parts between tyro's rules: what it said, and what it takes to be meant."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    lines = ["\n" if line.count("─") > 8 or line.count("-") > 8 else line for line in lines]
    parts = [part for part in " ".join(lines).split("\n") if part.strip()]
    # Where it cannot draw boxes, the title is a part of its own.
    said, *hints = parts if box.lstrip().startswith("╭") else parts[1:]
    nearest = next((hint for hint in hints if "Perhaps you meant" in hint), "")
    nearest = nearest.replace("Perhaps you meant:", "").split()[:1]
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"{said.strip().rstrip('.')}.{hint} See {prog} --help."


def _import_tensorflow():
    """Import it without its remarks on CPU features and missing GPUs, which no setting silences."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
        except BaseException:
            remarks.seek(0)
            os.write(stderr, remarks.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _results(run):
    path = run / "results.json"
    if not path.is_file():
        raise UsageError(f"{run} is not a finished run: there is no {path}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _fields(run):
    return json.loads((run / "recipe.json").read_text(encoding="utf-8"))["fields"]
