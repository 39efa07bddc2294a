"""The commands about exports: `zoo export`, `verify` and `reproduce`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from zoo import exports
from zoo.commands import models
from zoo.commands.exportable import find_exportable
from zoo.commands.output import FOR_PEOPLE, AsForm
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import MOST_SECONDS, UsageError, check_number
from zoo.markup import shell
from zoo.runs import Run
from zoo.terminal import say, show


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    out: Path | None = None,
    labels: Path | None = None,
    version: int | None = None,
    top_k: int | None = None,
    exits: bool = False,
    examples: tuple[Path, ...] = (),
    also: str = "",
    repeats: tuple[Path, ...] = (),
    tolerance: float | None = None,
    max_batch: int | None = None,
    calibrate: bool = False,
    quantize: tuple[Literal["int8", "float", "onnx", "bfloat16"], ...] = (),
    quantize_loss: float = 1.0,
    recipe: Path | None = None,
) -> None:
    """Make a SavedModel for TensorFlow Serving, and check it as a server would load it.

    Arguments:
        model: A run folder, a .keras file, or an export that holds one, also by its name.
            An export is made again with today's checks. The new card keeps the facts of the old.
        out: Folder that gets the next version. Its versions are of one model.
            They have the same labels, size of images and data; another model is refused.
            Default: saved_models/RECIPE of a run, saved_models/FILE, the folder of an export.
            Of a run with other data than its recipe's, saved_models/RECIPE-DATA.
        labels: Text file with one class a line.
            Required for a .keras file that lies in no run and no export.
        version: Number of the version. Default: the next number. Versions are never overwritten.
        top_k: Number of classes that an answer names. Default: 5, or that of the export before.
        exits: Add a signature that gives the answers of every depth of a deeply supervised model.
        examples: Images for the examples of the export. Default: those of the run, or noise.
        also: Further formats, compared with Keras: onnx, litert, or onnx,litert.
        repeats: Runs of the same recipe with other seeds, or exports of such runs.
            An example is saved_models/digits_nin_dsn. The card shows their mean and spread.
        tolerance: Largest difference of a probability from Keras.
        max_batch: Number of images that a request may have, at least 32.
            Default: by the size of the images, up to 256; or that of the export before.
        calibrate: Fit a temperature on the validation images of a run, and answer with it.
            Probabilities change; the most probable classes do not. The card has the effect.
        quantize: Smaller or faster forms, each compared with Keras on the test images.
            int8 and float add LiteRT files for phones; int8 calculates with whole numbers.
            onnx adds an ONNX file in whole numbers.
            bfloat16 adds no file: it measures the server with --mixed_precision=bfloat16.
        quantize_loss: Points of accuracy that such a form may lose.
            If one loses more, nothing is exported.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    limits = {"--version": (version, 1, 2**63 - 1), "--top-k": (top_k, 1, 2**31 - 1)}
    check_number("--quantize-loss", quantize_loss, 0, 100)
    for flag, (value, least, most) in {**limits, "--tolerance": (tolerance, 0, 1)}.items():
        if value is not None:
            check_number(flag, value, least, most)
    formats = tuple(name.strip() for name in also.split(",") if name.strip())
    source = find_exportable(
        model, labels, repeats, recipe, calibrate=calibrate, quantize=bool(quantize)
    )
    out, exits = out or source.out, exits or source.exits
    from zoo.commands import refining
    from zoo.commands.predicting import read_images
    from zoo.saving import load_model
    from zoo.serving import card, converting, exporting

    converting.check_installed([*formats, *(form for form in quantize if form == "onnx")])
    run = Run(source.model)
    keras_file = run.most_complete_file if run.has_model else source.model
    trained = load_model(source.model, with_companions=exits, own_recipe=recipe)
    images = examples or sorted(source.examples.glob("*.png"))
    path = exporting.export_savedmodel(
        trained,
        source.labels,
        out,
        version=version,
        top_k=source.top_k if top_k is None else top_k,
        exits=exits,
        images=read_images(trained, images, card.resizing_of(source.record)),
        image_names=[image.stem for image in images] or None,
        record=card.source(keras_file) | source.record,
        keras_file=keras_file,
        tolerance=source.tolerance if tolerance is None else tolerance,
        max_batch=source.max_batch if max_batch is None else max_batch,
        **refining.refined(
            source,
            out,
            trained,
            recipe,
            calibrate=calibrate,
            forms=quantize,
            most_lost=quantize_loss,
        ),
        progress=say,
    )
    say(f"Exported and checked as a server would load it: {path}")
    refining.said(exports.card(path))
    for name in formats:
        converted, difference = converting.convert(path, name)
        say(f"{name}: {converted}. The largest difference from Keras is {difference:.1e}.")
    say(f"The card  {out / 'README.md'}")
    say(f"Next      {shell('zoo', 'verify', out)}    {shell('zoo', 'predict', out)} IMAGE...")


def verify(
    directory: Annotated[Positional[str], arg(metavar="EXPORT")],
    model: str | None = None,
    tolerance: float | None = None,
    timeout: float = 60.0,
    form: AsForm = FOR_PEOPLE,
) -> None:
    """Check an export without a server: load it as the server does, and send it requests.

    Exit code 0 if every check holds, 1 if one does not.

    Arguments:
        directory: An export: its name, the folder of its versions, or one version.
        model: The .keras file or run that was exported. Its answers are compared too.
        tolerance: Largest difference of a probability from Keras. Default: that of the export.
        timeout: Seconds to wait for an answer.
        form: How to print the checks.
    """
    check_number("--timeout", timeout, 0.001, MOST_SECONDS)
    if tolerance is not None:
        check_number("--tolerance", tolerance, 0, 1)
    export, source = models.find(directory), model and models.find(model)
    if not models.is_saved_model(export):
        raise UsageError(
            f"{export} is neither an export nor a folder of numbered exports. `zoo export "
            "MODEL` makes one."
        )
    with form.alone():
        import_tensorflow()
        from zoo.saving import load_model
        from zoo.serving import verifying

        version = exports.find_version(export)
        original = None
        if source:
            original = load_model(source, with_companions=bool(exports.card(version)["exits"]))
        checks = verifying.verify(version, model=original, tolerance=tolerance, timeout=timeout)
    wrong = sum(not check.passed for check in checks)
    columns = ("check", "passed", "found")
    rows = [(check.name, check.passed, check.found) for check in checks]
    if form.is_for_programs:
        listed = [dict(zip(columns, row, strict=True)) for row in rows]
        form.write({"export": str(version), "passed": not wrong, "checks": listed}, columns, rows)
    else:
        shown = [("right" if passed else "WRONG", name, found) for name, passed, found in rows]
        show(("", "check", "found"), shown, least_width=140)
        failed = f"{version}: {wrong} of {len(checks)} checks failed"
        say(failed if wrong else f"{version} can serve.")
    if wrong:
        sys.exit(1)


def reproduce(
    model: Annotated[Positional[str], arg(metavar="EXPORT")],
    seed: int | None = None,
    runs: Path = Path("runs"),
    checkpoint_seconds: float = 60.0,
    minutes: float | None = None,
) -> None:
    """Train an exported model again as its card says, and compare. The same command resumes.

    Exit code 0 if the error lies in the expected interval, 1 if it does not.

    Arguments:
        model: An export: its name in saved_models/, its folder, or one version.
        seed: Seed of the training. Default: that of the export.
        runs: Folder of the run folders. This run goes to its folder reproduced/.
        checkpoint_seconds: Seconds between two saves of the training state.
            It is also saved after each epoch.
        minutes: Stop after this many minutes, with the state saved and exit code 3.
            The same command resumes.
    """
    import_tensorflow()
    from zoo.experiments import reproducing
    from zoo.models import pretrained

    try:
        version, card = pretrained.read_card(model)
    except ValueError as error:  # it names the nearest export
        raise UsageError(str(error)) from None
    folder, results, (low, high, reason) = reproducing.reproduce(
        version, seed=seed, runs=runs, checkpoint_seconds=checkpoint_seconds, minutes=minutes
    )
    rows = []
    for known_seed, errors in zip(card["seeds"]["seeds"], card["seeds"]["errors"], strict=True):
        percent = 100 * errors / card["results"]["examples"]
        rows.append(("the card", known_seed, f"{percent:.2f} %", errors))
    now = card["training"]["seed"] if seed is None else seed
    rows.append(("now", now, f"{results['error_percent']:.2f} %", results["errors"]))
    show(("", "seeds", "test error", "errors"), rows)
    holds = low <= results["error_percent"] <= high
    say(
        f"{folder}: {'as' if holds else 'NOT as'} the card says, {low:.2f} to {high:.2f} % "
        f"({reason})."
    )
    if not holds:
        sys.exit(1)
