"""A full disk, a disk that cannot be written, and a clock that jumps."""

import contextlib
import random
import subprocess

from kills import _compared, left_alone, state, train_arguments, trained_alone
from processes import Command, Conditions


def full_disks(scratch, seed):
    """Train where no file may be longer than so many bytes; then without the limit."""
    expected, _ = left_alone(trained_alone, scratch)
    runs, log = scratch / f"full-{seed}", scratch / f"full-{seed}.log"
    limit = int(10 ** random.Random(seed).uniform(2, 6.5))
    command = Command(train_arguments(scratch, runs), log, Conditions(largest_file=limit))
    command.wait()
    if "Traceback" in command.output:
        return 1, f"a limit of {limit} bytes: a traceback: {command.output[-300:]}"
    if command.code not in (0, 1):
        return 1, f"a limit of {limit} bytes: exit code {command.code}"
    again = Command(train_arguments(scratch, runs), log)
    again.wait()
    problem = _compared(again, runs / "small" / "run", expected)
    return 1, problem and f"a limit of {limit} bytes: {problem}"


@contextlib.contextmanager
def file_system(place, options):
    """A file system in memory; it needs the rights of root."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def small_disks(scratch, seed):
    """Train on a file system that is too small for a run; then on a larger one."""
    expected, _ = left_alone(trained_alone, scratch)
    size = int(10 ** random.Random(seed).uniform(3.8, 6.6))
    place, log = scratch / f"small-{seed}", scratch / f"small-{seed}.log"
    with file_system(place, f"size={size}"):
        command = Command(train_arguments(scratch, place), log)
        command.wait()
        if "Traceback" in command.output or command.code not in (0, 1):
            return 1, f"{size} bytes: exit code {command.code}: {command.output[-300:]}"
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        again = Command(train_arguments(scratch, place), log)
        again.wait()
        problem = _compared(again, place / "small" / "run", expected)
    return 1, problem and f"{size} bytes: {problem}"


def read_only(scratch, seed):
    """Commands on a run that cannot be written are refused in one line, and change nothing."""
    left_alone(trained_alone, scratch)
    place = scratch / f"read-only-{seed}"
    commands = {
        "train": train_arguments(scratch, place),
        "export": ["export", scratch / "alone" / "small" / "run", "--out", place / "out"],
        "evaluate": ["evaluate", scratch / "alone" / "small" / "run"],
    }
    name = random.Random(seed).choice(sorted(commands))
    with file_system(place, "size=64m,ro"):
        command = Command(commands[name], scratch / f"read-only-{seed}.log")
        command.wait()
    if name == "evaluate":
        return 1, "" if command.code == 0 else command.output[-300:]
    errors = [line for line in command.output.splitlines() if line.startswith("zoo:")]
    refused = command.code in (1, 2) and len(errors) == 1 and "Traceback" not in command.output
    return 1, "" if refused else f"{name}: exit code {command.code}: {command.output[-300:]}"


def clocks(scratch, seed):
    """Train while the clock jumps by up to a year, back and forth."""
    expected, _ = left_alone(trained_alone, scratch)
    runs = scratch / f"clock-{seed}"
    seconds = random.Random(seed).randint(60, 3 * 10**7)
    command = Command(
        train_arguments(scratch, runs), scratch / f"clock-{seed}.log", Conditions(clock=seconds)
    )
    command.wait()
    if command.code != 0:
        return 1, f"exit code {command.code}: {command.output[-300:]}"
    # Times of day are in no result.
    same = state(runs / "small" / "run")[:3] == expected[:3]
    return 1, "" if same else "another end than with a steady clock"
