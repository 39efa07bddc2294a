"""Bad inputs and commands: each is refused in one line, with an honest code, and leaves nothing."""

import json
import os
import random

import numpy as np
from processes import Command
from shared_with_tests import ROOT

RUN = ("evaluate", "report", "export", "predict")
RECIPES = ("digits_nin_dsn", "nin_dsn", "small_net", "mnist_student")
NUMBERS = (
    "epochs",
    "batch-size",
    "learning-rate",
    "seed",
    "steps-per-epoch",
    "width",
    "validation",
)
BAD_NUMBERS = ("nan", "inf", "-inf", "-1", "1e308", "x", "", "0x10", "1,5", "\x1b[31m", "1" * 400)
BAD_URLS = ("", "ftp://x", "http://", "x", "http://[::1", "http://127.0.0.1:1", "grpc://")
BAD_NAMES = ("..", "/abs", "../../x", "", "a\nb", "x" * 300, "é" * 200, ".")


def bad_commands(scratch, seed, count=25):
    """Give `count` commands something that is wrong."""
    rng = random.Random(seed)
    folder = scratch / f"bad-{seed}"
    folder.mkdir()
    files = _bad_files(folder)
    before = sorted(path.name for path in folder.rglob("*"))
    for index in range(count):
        arguments = [str(argument) for argument in _bad(rng, files)]
        command = Command(arguments, scratch / f"bad-{seed}.log", folder=folder)
        if not command.wait(30):
            command.kill()
            return index + 1, f"{arguments} takes longer than 30 s"
        lines = command.output.splitlines()
        errors = [line for line in lines if line.startswith("zoo:")]
        errors += [line for line in lines if line.endswith("checks failed")]  # of `zoo verify`
        if command.code not in (1, 2) or len(errors) != 1 or "Traceback" in command.output:
            return index + 1, f"{arguments}: exit code {command.code}: {command.output[-300:]}"
        after = sorted(path.name for path in folder.rglob("*"))
        if after != before:
            return index + 1, f"{arguments} left {sorted(set(after) - set(before))}"
    return count, ""


def _bad_files(folder):
    """Return {kind: path} of things that are no run, no data, no image, no model."""
    paths = {"missing": folder / "missing", "empty": folder / "empty", "folder": folder / "folder"}
    paths["empty"].write_bytes(b"")
    paths["folder"].mkdir()
    for name, content in (("text.txt", b"text"), ("bad.keras", b"PK\3\4"), ("bad.npz", b"PK\3\4")):
        paths[name] = folder / name
        paths[name].write_bytes(content)
    paths["fifo"] = folder / "fifo"
    os.mkfifo(paths["fifo"])
    paths["image.png"] = folder / "image.png"
    paths["image.png"].write_bytes(b"\x89PNG\r\n\x1a\n")
    arrays = {
        "floats.npz": {"images": np.full((9, 4, 4), np.nan), "labels": np.arange(9) % 3},
        "labels.npz": {"images": np.zeros((9, 4, 4), "uint8"), "labels": np.arange(9) - 4},
        "objects.npz": {"images": np.array([None] * 3), "labels": np.arange(3)},
    }
    for name, content in arrays.items():
        paths[name] = folder / name
        np.savez(paths[name], **content)
    run = folder / "run"
    run.mkdir()
    for name, text in (("results", "{"), ("recipe", "[]"), ("versions", "null")):
        (run / f"{name}.json").write_text(text, encoding="utf-8")
    (run / "model.keras").write_bytes(b"PK\3\4")
    paths["run"] = run
    export = folder / "an_export" / "1"
    (export / "assets.extra").mkdir(parents=True)
    (export / "saved_model.pb").write_bytes(b"\x08\x01")
    (export / "SHA256SUMS").write_bytes(b"\xff\xfe")
    (export / "assets.extra" / "card.json").write_text(json.dumps({"labels": 3}))
    paths["export"] = folder / "an_export"
    return paths


def _bad(rng, files):
    anything = rng.choice(sorted(files))
    path = files[anything]
    recipe = rng.choice(RECIPES)
    good_export = ROOT / "saved_models" / "digits_nin_dsn"
    choices = [
        lambda: ["train", recipe, f"--{rng.choice(NUMBERS)}", rng.choice(BAD_NUMBERS)],
        lambda: ["train", "digits_nin_dsn", "--name", rng.choice(BAD_NAMES)],
        lambda: ["train", "nin_dsn", "--data", path, "--width", "0.05", "--epochs", "1"],
        lambda: ["train", "digits_nin_dsn", "--runs", files["empty"]],
        lambda: ["train", recipe, f"--{rng.choice(['minutes', 'checkpoint-seconds'])}", "nan"],
        lambda: ["train", "digits_nin_dsn", "--replicas", rng.choice(["-1", "999999", "x"])],
        lambda: ["train", "digits_nin_dsn", "--width", rng.choice(["1e6", "1e30", "0", "-2"])],
        lambda: [
            "train",
            "digits_nin_dsn",
            "--image-size",
            *rng.choice([("0", "8"), ("9" * 6,) * 2]),
        ],
        lambda: ["train", rng.choice(["trian", "", "../x.py", "\x1b[2J", str(path)])],
        lambda: ["tune", "digits_nin_dsn", "--trials", rng.choice(BAD_NUMBERS)],
        lambda: [rng.choice(RUN), path],
        lambda: ["verify", path],
        lambda: ["reproduce", path],
        lambda: ["verify", good_export, "--timeout", rng.choice(["nan", "-1", "0", "inf", "x"])],
        lambda: ["predict", good_export, path],
        lambda: ["predict", good_export, files["image.png"], "--top", rng.choice(["0", "-3", "x"])],
        lambda: ["predict", "--server", rng.choice(BAD_URLS), ROOT / "docs/confidence_maps.png"],
        lambda: ["figure", rng.choice(["", "..", "removl", "x" * 300])],
        lambda: ["figure", "removal", "--seeds", rng.choice(["0", "-1", "nan"])],
        lambda: [rng.choice(["", "lst", "--wrong", "\x1b[31m", "é"])],
        lambda: ["list", "extra"],
        lambda: ["pack", recipe, "--batch-size", rng.choice(BAD_NUMBERS)],
    ]
    return rng.choice(choices)()
