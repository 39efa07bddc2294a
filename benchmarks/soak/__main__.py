"""Attack the zoo for half an hour: what was tried, what held, and the seed that repeats a failure.

`make soak`, or `python benchmarks/soak [--only trainings] [--share 0.1] [--seed 7] [--out FILE]`.
A trial is repeated by `--only NAME --seed SEED --share 0`. Exit code 1 if anything fell.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conditions
import inputs
import kills
import mutations
import servers
import tyro
from processes import Command

from zoo.tables import Table
from zoo.terminal import say


@dataclass(frozen=True)
class Attack:
    """Trials of one kind. A trial is a function (folder, seed) -> (number tried, fault or "")."""

    what: str
    trial: Callable[[Path, int], tuple[int, str]]
    count: int
    at_once: int = 2


ATTACKS = {
    "trainings": Attack("kills of trainings on one device", kills.trainings, 185),
    "workers": Attack("kills of one of two workers, or of both", kills.two_workers, 15, 1),
    "tune": Attack("kills of zoo tune", kills.searches, 50),
    "figure": Attack("kills of zoo figure", kills.figures, 50),
    "export": Attack("kills of zoo export, with a reader", kills.export_kills, 60),
    "signals": Attack("SIGINT, SIGTERM, SIGHUP, or halted and continued", kills.signals, 20),
    "full": Attack("files that can get no longer", conditions.full_disks, 15),
    "small": Attack("a file system that is full", conditions.small_disks, 10),
    "read_only": Attack("a file system that is read-only", conditions.read_only, 6),
    "clock": Attack("a clock that jumps", conditions.clocks, 5),
    "requests": Attack("mutated requests, over all signatures", mutations.mutated_requests, 20000),
    "commands": Attack("bad inputs and commands", inputs.bad_commands, 500),
    "servers": Attack("hostile servers", servers.hostile, servers.COUNT, 4),
    "swaps": Attack("new versions under 32 clients", mutations.swaps, 20, 1),
}


@dataclass(frozen=True)
class Settings:
    only: tuple[str, ...] = ()
    """Names of attacks; default: all."""
    share: float = 1.0
    """Share of the trials; 0: one trial of each attack."""
    seed: int = 0
    """Seed of the first trial; the next one has the next number."""
    out: Path | None = None
    """Write the table to this Markdown file."""


def carry_out(attack: Attack, scratch: Path, settings: Settings) -> tuple[int, list[str], float]:
    """Return the number tried, what fell and the seconds."""
    begun, seed, tried, fell = time.monotonic(), settings.seed, 0, []
    with futures.ThreadPoolExecutor(attack.at_once) as pool:
        running: dict[Any, int] = {}
        while True:
            enough = tried >= attack.count * settings.share and seed > settings.seed
            while not enough and len(running) < attack.at_once:
                running[pool.submit(attack.trial, scratch, seed)] = seed
                seed += 1
                enough = not settings.share
            if not running:
                break
            done, _ = futures.wait(running, return_when="FIRST_COMPLETED")
            for trial in done:
                number = running.pop(trial)
                try:
                    count, problem = trial.result()
                except Exception as error:
                    count, problem = 1, f"{type(error).__name__}: {error}"
                tried += count
                if problem:
                    fell.append(f"seed {number}: {problem}")
                    say(f"  FELL  seed {number}: {problem}", error=True)
    return tried, fell, time.monotonic() - begun


def main(settings: Settings) -> None:
    rows, fallen = [], 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Command(["--version"], Path(folder, "log")).wait()  # TensorFlow is loaded now
    for name, attack in ATTACKS.items():
        if settings.only and name not in settings.only:
            continue
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            tried, fell, seconds = carry_out(attack, Path(folder), settings)
        fallen += len(fell)
        rows.append(
            (name, attack.what, tried, len(fell), f"{seconds:.0f}", "; ".join(fell)[:300] or "-")
        )
        say(f"{name}: {tried} {attack.what}; {len(fell)} fell; {seconds:.0f} s")
        sys.stdout.flush()
    columns = ("attack", "what", "tried", "trials that fell", "seconds", "seed and fault")
    table = Table(columns, tuple(rows)).markdown()
    say()
    for line in table.splitlines():
        say(line)
    say(f"{(time.monotonic() - begun) / 60:.0f} minutes, seed {settings.seed}")
    if settings.out:
        settings.out.write_text(table + "\n", encoding="utf-8")
    sys.exit(1 if fallen else 0)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(tyro.cli(Settings, description=__doc__))
