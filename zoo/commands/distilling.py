"""The command `zoo distill`: a small student of your own model, on your own images."""

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, check_number
from zoo.markup import shell
from zoo.runs import name_of
from zoo.terminal import say, show
from zoo.text import percent

if TYPE_CHECKING:
    from zoo.data import ImageData
    from zoo.training.families.students import TaughtRecipe

RECIPE = "student"
_COLUMNS = ("model", "accuracy", "95 % interval", "parameters", "MB", "1 image, ms")


@dataclass(frozen=True)
class DistillOptions:
    """The flags of `zoo distill` that are not fields of the recipe."""

    size: str | None = None
    """Most parameters of the student, such as 120k or 1.2M. Default: a tenth of the teacher's."""
    latency_ms: float | None = None
    """Most milliseconds for one image on this machine, which sets the size of the student."""
    quantize: bool = True
    """Also write the better student as an int8 file for phones, and measure it."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    name: str | None = None
    """Name of the folder with both trainings. Default: built from the flags you set.
    The same name resumes."""
    minutes: float | None = None
    """Stop after this many minutes, with the state saved and exit code 3.
    The same command resumes."""
    force: bool = False
    """Begin even if the data, the net or a step seem too large for the memory."""


def distill() -> None:
    """Make a small student of your model: `zoo distill --data FOLDER --teacher MODEL.keras`.

    The student is trained twice, taught and alone, and compared with the teacher on one page: what
    they get right, their calibration, size and speed. See `zoo distill --help` for the flags.
    """
    raise UsageError("zoo distill takes --data FOLDER and --teacher MODEL: see zoo distill --help")


def in_full(flags: Sequence[str]) -> list[str]:
    """Return the flags with --teachers for --teacher, and --help if there are none."""
    flags = [re.sub("^--teacher(?=$|=)", "--teachers", flag) for flag in flags]
    return flags or ["--help"]


def carry_out(
    recipe: "TaughtRecipe", file: Path, options: DistillOptions, flags: Sequence[str]
) -> None:
    """Distill, write the page, and say what was found.

    Arguments:
        recipe: the recipe of the student.
        file: the recipe's file.
        options: the other flags.
        flags: the command line, which shows whether the width was given.

    Raises:
        UsageError: if two flags set the size of the student, or one of them is no size.
    """
    from zoo.experiments import distilling
    from zoo.report import comparison as page

    settings = _settings_of_the_size(options, flags)
    if not recipe.soft_weight:
        raise UsageError(
            "--soft-weight is more than 0, so that the teacher is heard. To train a student alone: "
            "zoo train student --soft-weight 0"
        )
    if options.latency_ms is not None:
        check_number("--latency-ms", options.latency_ms, 0.001, 1e6)
    distilled = distilling.distill(
        recipe,
        file,
        parameters=_number(options.size),
        milliseconds=options.latency_ms,
        follow_teacher=not settings,
        runs=options.runs,
        name=options.name or _name(recipe, options),
        minutes=options.minutes,
        force=options.force,
    )
    comparison = distilled.comparison
    better = {"taught": distilled.taught, "alone": distilled.alone}[comparison["better"]]
    if options.quantize:
        comparison["rows"].append(_quantized(better, comparison["better"], *recipe.datasets()))
    verdict = distilling.in_words(comparison)
    file = page.write(
        distilled.taught.parent,
        comparison,
        teachers=recipe.teachers,
        data_name=Path(recipe.data).name,
        verdict=verdict,
    )
    _show(comparison)
    say()
    say(verdict)
    say()
    say(f"The page   {file}")
    say(f"Next       {shell('zoo', 'export', better, *['--quantize', 'int8'] * options.quantize)}")


def _settings_of_the_size(options: DistillOptions, flags: Sequence[str]) -> list[str]:
    """Return the flags that set the student's size, at most one."""
    given_width = any(flag.split("=")[0] == "--width" for flag in flags)
    settings = [
        name
        for name, given in (
            ("--width", given_width),
            ("--size", options.size),
            ("--latency-ms", options.latency_ms),
        )
        if given
    ]
    if len(settings) > 1:
        raise UsageError(f"{' and '.join(settings)} both set the student's size: give one of them.")
    return settings


def _quantized(
    run: Path, which: str, training: "ImageData", judging: "ImageData"
) -> dict[str, Any]:
    """Return the row of a student as an int8 file, as `zoo export --quantize int8` writes it."""
    import numpy as np

    from zoo.experiments import distilling
    from zoo.precision import in_float32
    from zoo.saving import load_model
    from zoo.serving import litert, quantizing

    model = in_float32(load_model(run))
    some = training.subset(min(training.examples, quantizing.REPRESENTATIVE)).images[:]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.tflite")
        file.write_bytes(litert.convert(model, "int8", some))
        answer, size = litert.LiteRT(file, threads=1), file.stat().st_size
    probabilities = np.concatenate(
        [answer(judging.images[start : start + 256]) for start in range(0, judging.examples, 256)]
    )
    seconds = []
    for image in judging.images[:50]:
        begun = time.perf_counter()
        answer(image[np.newaxis])
        seconds.append(time.perf_counter() - begun)
    return {
        "model": f"student {which}, int8",
        # The largest of 256 steps is 1 - 1/256, and the least 0, which has no logarithm.
        **distilling.quality(np.log(np.maximum(probabilities, 1 / 512)), judging.labels),
        "parameters": model.count_params(),
        "megabytes": size / 1e6,
        "milliseconds": 1000 * float(np.median(seconds)),
        "images_a_second": None,
    }


def _number(size: str | None) -> float | None:
    """Return the number of parameters of --size."""
    from zoo.experiments import distilling

    try:
        return None if size is None else distilling.size(size)
    except ValueError:
        raise UsageError(
            f"--size is a number of parameters, such as 120k or 1.2M; received {size}."
        ) from None


def _name(recipe: "TaughtRecipe", options: DistillOptions) -> str:
    """Return the name of the folder: the flags that were set."""
    sizes = [f"size={options.size}"] if options.size else []
    sizes += [f"latency_ms={options.latency_ms}"] if options.latency_ms else []
    return ",".join([name_of(recipe), *sizes])


def _show(comparison: dict[str, Any]) -> None:
    say()
    show(
        _COLUMNS,
        [
            (
                row["model"],
                percent(row["accuracy"], 2),
                f"{percent(row['low'], 1)} to {percent(row['high'], 1)}",
                f"{row['parameters']:,}",
                f"{row['megabytes']:.2f}",
                f"{row['milliseconds']:.2f}",
            )
            for row in comparison["rows"]
        ],
        title=f"{comparison['examples']:,} {comparison['evaluated_on']} images",
        right=_COLUMNS[1:],
        unbroken=_COLUMNS,
        least_width=88,
    )
