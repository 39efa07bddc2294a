"""The `zoo` command. TensorFlow is imported only by the commands that need it, when they run."""

import contextlib
import dataclasses
import difflib
import functools
import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from zoo import recipe as recipes


class UsageError(Exception):
    """Wrong input at the command line: one line, exit code 2."""


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
    from zoo.training import train as run

    folder = run(recipe, file, **vars(options))
    if not (folder / "model.keras").is_file():  # a worker whose chief writes elsewhere
        return
    print()
    page = folder / "report.html"
    print(f"The page   {page if page.is_file() else f'zoo report {folder} draws it'}")
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


def _pack(recipe, file, options, flags):
    from zoo import packing

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
    from zoo.tuning import tune as search

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


def _carry_out(name, arguments):
    """One of `OF_A_RECIPE`."""
    described, others, run = OF_A_RECIPE[name]
    if not arguments or arguments[0].startswith("-"):
        return _parse(tyro.cli, described, prog=f"zoo {name}", args=arguments)
    file = recipes.find(arguments[0])
    _import_tensorflow()
    cls = recipes.load(file)

    @dataclass(frozen=True)
    class Command:
        recipe: OmitArgPrefixes[Annotated[cls, arg(name="")]]
        options: OmitArgPrefixes[Annotated[others, arg(name="")]]

    Command.__doc__ = recipes.title(file)
    prog = f"zoo {name} {arguments[0]}"
    command = _parse(tyro.cli, Command, prog=prog, args=arguments[1:])
    return run(command.recipe, file, command.options, arguments[1:])


def evaluate(run: Positional[Path], data: str | None = None):
    """Measure a trained run again: accuracy, loss, and every class.

    Args:
        run: a run folder.
        data: another data set than the recipe's; its test images are used, 20 % of a folder that
            is not divided. Resized to what the model takes.
    """
    results, fields = _results(run), _fields(run)
    _import_tensorflow()
    import zoo.data
    from zoo import predicting

    how = {key: fields[key] for key in ("image_size", "stream", "skip_corrupt") if key in fields}
    model = predicting.load_model(run)
    shape = model.input_shape[1:]  # a net that averages may leave height and width open
    if data and None not in shape:
        how["image_size"] = shape[:2]
    test = zoo.data.load(data or fields["data"], "test", **how)
    if any(own not in (None, given) for own, given in zip(shape, test.image_shape, strict=True)):
        raise UsageError(
            f"{test.name} has images of the shape {test.image_shape}; the run's are {shape}."
        )
    if not data:
        _refuse_other_images(results, test)
    if list(test.label_names) != results["label_names"]:
        raise UsageError(
            f"{test.name} has the classes {', '.join(test.label_names)}; the run has "
            f"{', '.join(results['label_names'])}."
        )
    predicting.show_evaluation(model, test)


def _refuse_other_images(results, judging):
    """A folder with other images is divided otherwise: some of these may have been trained on."""
    by_themselves = judging.split == "test" and not judging.source
    told = results.get("data", {}).get(judging.split)
    if not by_themselves and told not in (None, judging.identity):
        raise UsageError(
            f"{judging.name} has changed: the run was judged on the {judging.split} images {told}, "
            f"which now are {judging.identity}, and may be among those trained on. Put them back, "
            "or train again."
        )


def predict(
    inputs: Annotated[Positional[tuple[Path, ...]], arg(name="", metavar="[MODEL] IMAGE...")],
    top: int = 5,
    server: str | None = None,
    check: Path | None = None,
    timeout: float = 10.0,
    retries: int = 2,
    tolerance: float | None = None,
):
    """Classify PNG or JPEG images: a table of labels and probabilities.

    Args:
        inputs: a run folder or an export, and image files; with --server, the files alone.
        top: how many classes to show.
        server: ask this one: http://HOST:8501/v1/models/NAME, or grpc://HOST:8500/v1/models/NAME.
        check: with --server: send the examples of this folder, and compare with Keras' answers.
        timeout: seconds for a try to reach the server.
        retries: of a request that got no answer.
        tolerance: how far a probability may be off, with --check; by default 1e-5, or the card's.
    """
    if top < 1:
        raise UsageError(f"--top is a number of classes, 1 or more; received {top}.")
    if timeout <= 0 or retries < 0:
        raise UsageError("--timeout is a positive number of seconds, and --retries 0 or more.")
    if check and not server:
        raise UsageError("--check compares a server's answers: it needs --server URL.")
    model, images = (None, inputs) if server else (inputs[:1], inputs[1:])
    if not images and not check:
        what = "--server URL" if server else "MODEL"
        raise UsageError(f"zoo predict {what} IMAGE... received no image.")
    for image in images:
        if not image.is_file():
            raise UsageError(f"There is no image {str(image)!r}.")
    if server:
        return _ask_server(server, images, top, check, timeout, retries, tolerance)
    (model,) = model
    labels = _results(model)["label_names"] if (model / "model.keras").is_file() else None
    _import_tensorflow()
    from zoo import predicting

    predicting.show_predictions(model, labels, images, top)


def _ask_server(url, images, top, check, timeout, retries, tolerance):
    if url.startswith("grpc:"):
        _import_tensorflow()
    from zoo.serving import client

    try:
        server = client.connect(url, timeout=timeout, retries=retries)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if images:
        client.show_predictions(server, images, top)
    if check and not client.check(server, check, tolerance):
        sys.exit(1)


def export(
    model: Positional[Path],
    out: Path | None = None,
    labels: Path | None = None,
    version: int | None = None,
    top_k: int | None = None,
    exits: bool = False,
    examples: tuple[Path, ...] = (),
    also: str = "",
    repeats: tuple[Path, ...] = (),
    tolerance: float | None = None,
):
    """Make a SavedModel that TF Serving loads, checked as a server would load it.

    Args:
        model: a run folder, a .keras file, or an export that has its own: once more, with the
            checks of today and all that its card says.
        out: the folder that gets the next version; by default saved_models/NAME of recipe or file,
            or that of the export.
        labels: a text file, a class a line; for a .keras file.
        version: of the export; by default the next. Versions are never overwritten.
        top_k: how many classes the answers name; by default 5, or as the export before.
        exits: add a signature with the answers of every depth of a deeply supervised model.
        examples: images for the examples of the export; by default those of the run, or noise.
        also: other forms, compared with Keras: onnx, litert, or onnx,litert.
        repeats: runs of the same with other seeds, or what was exported of them, such as
            saved_models/digits_nin_dsn; the card has their mean and spread.
        tolerance: how far a probability may be off Keras'.
    """
    forms = tuple(form.strip() for form in also.split(",") if form.strip())
    what = _exportable(model, labels, repeats)
    out, exits = out or what.out, exits or what.exits
    from zoo import predicting
    from zoo.serving import card, converting, exporting

    converting.check_installed(forms)
    file = predicting.most_complete_file(what.model)
    trained = predicting.load_model(predicting.model_file(what.model, with_companions=exits))
    files = examples or sorted(what.examples.glob("*.png"))
    path = exporting.export_savedmodel(
        trained,
        what.labels,
        out,
        version=version,
        top_k=what.top_k if top_k is None else top_k,
        exits=exits,
        images=predicting.read_examples(trained, files),
        image_names=[file.stem for file in files] or None,
        record=card.source(file) | what.record,
        keras_file=file,
        tolerance=what.tolerance if tolerance is None else tolerance,
    )
    print(f"Exported and checked as a server would: {path}")
    for form in forms:
        made, off = converting.convert(path, form)
        print(f"{form}, off Keras by {off:.1e} at most: {made}")
    print(f"The card  {out / 'README.md'}")
    print(f"Next      zoo verify {out}    zoo predict {out} IMAGE...")


class _Exportable(NamedTuple):
    """What `zoo export` was given, as far as it tells for itself."""

    model: Path  # a run folder or a .keras file
    labels: list
    out: Path
    record: dict
    examples: Path  # a folder of PNG files, which may not be there
    exits: bool = False
    top_k: int = 5
    tolerance: float | None = None


def _exportable(model, labels, repeats):
    """Of a run folder, a .keras file or an export; imports TensorFlow once nothing is missing."""
    run = model.is_dir() and (model / "results.json").is_file()
    if repeats and not run:
        raise UsageError(f"--repeats are runs beside a run; {str(model)!r} is none.")
    if model.is_dir() and not run:
        return _exported_before(model)
    names = _results(model)["label_names"] if run else _read_labels(model, labels)
    _import_tensorflow()
    from zoo.serving import card

    record = {}
    if run:
        record = card.record(model) | {"repeats": [card.repeat(each) for each in repeats]}
    name = model.resolve().parent.name if run else model.stem
    return _Exportable(model, names, Path("saved_models") / name, record, model / "examples")


def _exported_before(folder):
    _import_tensorflow()
    from zoo import pretrained
    from zoo.serving import card, served

    if (version := pretrained.newest(folder)) is None:
        raise UsageError(f"{folder} is neither a finished run nor an export with its Keras model.")
    try:
        version, told = pretrained.read_card(version)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return _Exportable(
        model=version / pretrained.MODEL,
        labels=told["labels"],
        out=version.resolve().parent,
        record=card.again(told),
        examples=version / served.EXAMPLES,
        exits=bool(told["exits"]),
        top_k=told["top_k"],
        tolerance=told["tolerance"],
    )


def _read_labels(file, labels):
    if not file.is_file() or file.suffix != ".keras":
        raise UsageError(f"{str(file)!r} is not a finished run, and no .keras file.")
    if labels is None:
        raise UsageError(f"{file} does not name its classes: give --labels FILE, a class a line.")
    if not labels.is_file():
        raise UsageError(f"There is no file {str(labels)!r} with labels.")
    return labels.read_text(encoding="utf-8").splitlines()


def verify(
    directory: Positional[Path],
    model: Path | None = None,
    tolerance: float | None = None,
    timeout: float = 60.0,
):
    """Prove an export without a server: load it as the server does, and ask it everything.

    Exit code 0 if every check holds, 1 if one does not.

    Args:
        directory: an export: the folder of its versions, or one version.
        model: compare with this model too: the .keras file or the run that was exported.
        tolerance: how far a probability may be off Keras'; by default what the export says.
        timeout: seconds after which an answer counts as none.
    """
    if timeout <= 0:
        raise UsageError(f"--timeout is a positive number of seconds; received {timeout}.")
    if model and not model.exists():
        raise UsageError(f"There is no model {str(model)!r}.")
    _import_tensorflow()
    from rich.console import Console
    from rich.table import Table

    from zoo import predicting
    from zoo.serving import served, verifying

    version = served.find_version(directory)
    compared = None
    if model:
        compared = predicting.load_model(model, with_companions=predicting.has_exits(version))
    checks = verifying.verify(version, model=compared, tolerance=tolerance, timeout=timeout)
    table = Table("", "check", "found", box=None)
    for check in checks:
        table.add_row("right" if check.passed else "WRONG", check.name, check.found)
    Console(width=max(Console().width, 140), highlight=False, markup=False).print(table)
    wrong = sum(not check.passed for check in checks)
    print(
        f"{version}: {wrong} of {len(checks)} checks failed" if wrong else f"{version} can serve."
    )
    if wrong:
        sys.exit(1)


def reproduce(
    model: Positional[Path],
    seed: int | None = None,
    runs: Path = Path("runs"),
    checkpoint_seconds: float = 60.0,
    minutes: float | None = None,
):
    """Train an export again, as its card says, and compare. Resumes by itself.

    Exit code 0 if the error is what the card lets expect, 1 if it is not.

    Args:
        model: an export: its name in saved_models/, its folder, or one version.
        seed: of the training; by default that of the export.
        runs: where run folders go; this one to reproduced/.
        checkpoint_seconds: save the training state so often, and at the end of each epoch.
        minutes: stop after so many, saved, with exit code 3; the same command goes on.
    """
    _import_tensorflow()
    from rich.console import Console
    from rich.table import Table

    from zoo import pretrained, reproducing

    try:
        version, told = pretrained.read_card(model)
    except ValueError as error:  # which names the nearest
        raise UsageError(str(error)) from None
    how = {"checkpoint_seconds": checkpoint_seconds, "minutes": minutes}
    folder, results, (low, high, why) = reproducing.reproduce(version, seed=seed, runs=runs, **how)
    table = Table("", "seeds", "test error", "errors", box=None, padding=(0, 2, 0, 0))
    seeds = told["seeds"]
    for each, errors in zip(seeds["seeds"], seeds["errors"], strict=True):
        share = 100 * errors / told["results"]["examples"]
        table.add_row("the card", str(each), f"{share:.2f} %", str(errors))
    now = told["training"]["seed"] if seed is None else seed
    table.add_row("now", str(now), f"{results['error_percent']:.2f} %", str(results["errors"]))
    Console().print(table)
    holds = low <= results["error_percent"] <= high
    print(
        f"{folder}: {'as' if holds else 'NOT as'} the card says, {low:.2f} to {high:.2f} % ({why})."
    )
    if not holds:
        sys.exit(1)


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
    _refuse_other_images(_results(run), judging)
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
    "tune": tune,
    "pack": pack,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "verify": verify,
    "reproduce": reproduce,
    "report": report,
    "figure": figure,
}


def main(arguments=None):
    """Run it; exits with 0, 1 (failed), 2 (wrong input), 3 (time is up), 130 or 143 (stopped)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments and arguments[0] in OF_A_RECIPE:
            _carry_out(arguments[0], arguments[1:])
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
    except BrokenPipeError:
        # Whoever read has enough, as in `zoo list | head`; Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
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
        ("zoo.serving.served", "ExportError", 2),
        ("zoo.serving.card", "RepeatError", 2),
        ("zoo.serving.client", "Refused", 2),
        ("zoo.serving.client", "ServerError", 1),
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
    """Import it with its faster kernels, and without remarks that no setting silences."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow has these kernels on by itself on newer CPUs alone. With AVX2 and no more a step of
    # nin_dsn takes twice as long without them: README, "Recipes and what they reached". It asks
    # while it is imported. The runtime that an export is tried in is a process of its own and gets
    # what a server has: with them, one image takes twenty times as long (serving/README.md).
    chosen = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
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
            if chosen is None:
                del os.environ["TF_ENABLE_ONEDNN_OPTS"]


def _results(run):
    path = run / "results.json"
    if not path.is_file():
        raise UsageError(f"{run} is not a finished run: there is no {path}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _fields(run):
    return json.loads((run / "recipe.json").read_text(encoding="utf-8"))["fields"]
