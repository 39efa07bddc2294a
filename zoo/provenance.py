"""The code, packages, precision and hardware of a run, for its record."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras

import zoo
from zoo.markup import shell

CPUINFO = Path("/proc/cpuinfo")


def versions(recipe: Any, deterministic: bool, strategy: dict[str, Any] | None) -> dict[str, Any]:
    """Return the contents of versions.json.

    Arguments:
        recipe: a `zoo.recipe.Recipe`, for its precision and seed.
        deterministic: whether TensorFlow's operations repeat their bits.
        strategy: the strategy's description by `zoo.distribute.described`.
    """
    packages = ["keras", "numpy", "scikit-learn"]
    packages += {"tensorflow": ["tensorflow", "tensorflow-datasets"]}.get(
        keras.backend.backend(), [keras.backend.backend()]
    )
    here = Path(__file__).parent
    # An installed zoo may lie in the folder of another repository, whose commit is not ours.
    commit = _git(here, "ls-files", "--error-unmatch", __file__) and _git(here, "rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages} | {"zoo": zoo.__version__},
        "backend": keras.backend.backend(),
        "strategy": strategy,
        "precision": dtype_policy(recipe.precision),
        "commit": commit,
        "dirty": bool(commit and _git(here, "status", "--porcelain")),
        "command": command(sys.argv),
        "seed": recipe.seed,
        "deterministic": deterministic,
        "hardware": {
            "cpu": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "gpus": _gpus(),
        },
    }


def command(argv: list[str]) -> str:
    """Return the command line of this process, as a person would type it."""
    program = Path(argv[0]).name
    start = ["python", "-m", "zoo"] if program == "__main__.py" else [program]
    return shell(*start, *argv[1:])


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [device.name for device in tf.config.list_physical_devices("GPU")]
    devices = keras.distribution.list_devices()
    return [device for device in devices if not device.startswith("cpu")]


def dtype_policy(precision: str, cpuinfo: Path | str = CPUINFO) -> str:
    """Return the Keras dtype policy for a recipe's precision.

    "auto" becomes "mixed_bfloat16" if there is a GPU, or the processor multiplies in bfloat16;
    otherwise "float32".

    Arguments:
        precision: the recipe's precision.
        cpuinfo: the file in which Linux describes the processor.
    """
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if _gpus() or _bfloat16_instructions(cpuinfo) else "float32"


def _bfloat16_instructions(cpuinfo):
    return sorted({"avx512_bf16", "amx_bf16"} & set(_read(cpuinfo).split()))


def _read(cpuinfo):
    with contextlib.suppress(OSError):
        return Path(cpuinfo).read_text(encoding="utf-8")
    return ""


def _git(folder, *arguments):
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def processor(cpuinfo: Path | str = CPUINFO) -> str:
    """Return the processor's name and its bfloat16 instructions, which decide the speed.

    Arguments:
        cpuinfo: the file in which Linux describes the processor.
    """
    lines = _read(cpuinfo).splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    multiply = ", ".join(_bfloat16_instructions(cpuinfo))
    return f"{name} ({multiply})" if multiply else name
