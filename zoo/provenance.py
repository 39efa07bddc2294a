"""What a run needs to be understood later: what was run, with which precision, and on what."""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import keras

import zoo


def versions(recipe, deterministic, strategy):
    """What was run, and on what; `strategy` is what `zoo.distribute.described` says of it."""
    packages = ["keras", "numpy", "scikit-learn"]
    packages += {"tensorflow": ["tensorflow", "tensorflow-datasets"]}.get(
        keras.backend.backend(), [keras.backend.backend()]
    )
    here = Path(__file__).parent
    # Installed, it may lie in a folder of another repository, whose commit says nothing of it.
    commit = _git(here, "ls-files", "--error-unmatch", __file__) and _git(here, "rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages} | {"zoo": zoo.__version__},
        "backend": keras.backend.backend(),
        "strategy": strategy,
        "precision": dtype_policy(recipe.precision),
        "commit": commit,
        "dirty": bool(commit and _git(here, "status", "--porcelain")),
        "command": _command(sys.argv),
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


def _command(argv):
    program = Path(argv[0]).name
    program = ["python", "-m", "zoo"] if program == "__main__.py" else [program]
    return shlex.join([*program, *argv[1:]])


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [device.name for device in tf.config.list_physical_devices("GPU")]
    return [each for each in keras.distribution.list_devices() if not each.startswith("cpu")]


def dtype_policy(precision):
    """Of a recipe's precision, Keras' name; "auto" goes by what multiplies."""
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if _gpus() or _bfloat16_instructions() else "float32"


def _bfloat16_instructions(cpuinfo="/proc/cpuinfo"):
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


def processor(cpuinfo="/proc/cpuinfo"):
    """The processor's name, and its instructions that multiply in bfloat16: they set the speed."""
    lines = _read(cpuinfo).splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    multiply = ", ".join(_bfloat16_instructions(cpuinfo))
    return f"{name} ({multiply})" if multiply else name
