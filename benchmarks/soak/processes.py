"""Processes that run a `zoo` command and can be killed. TensorFlow is loaded when they start."""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = """
tensorflow zoo.commands.main zoo.training zoo.experiments.tuning zoo.experiments.studies
zoo.report.page zoo.serving.exporting zoo.serving.verifying
"""
FORKS.set_forkserver_preload(PRELOADED.split())


@dataclass(frozen=True)
class Conditions:
    """What is unusual about the process."""

    environment: dict = field(default_factory=dict)
    largest_file: int = 0
    """No file may get longer, in bytes: a disk that is full. 0: no limit."""
    clock: int = 0
    """time.time jumps back and forth by up to so many seconds."""
    study: str = ""
    """A study whose runs become as short as possible."""


class Command:
    """`zoo ARGUMENTS` in a process group of its own; what it prints is in a file."""

    def __init__(self, arguments, log, conditions=None, folder=None):
        self.log = Path(log)
        arguments = [str(argument) for argument in arguments]
        self.process = FORKS.Process(
            target=_run, args=(arguments, log, conditions or Conditions(), folder)
        )
        self.begun = time.monotonic()
        self.process.start()

    @property
    def code(self):
        return self.process.exitcode

    @property
    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def wait(self, seconds=None):
        """Wait for the end; True if it came within the time."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def send(self, number):
        """Send a signal to the process, and for SIGKILL to all of its group."""
        try:
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)
        except ProcessLookupError:
            self.process.kill() if number == signal.SIGKILL else None

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.join()


def _run(arguments, log, conditions, folder):
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.environ |= conditions.environment
    if folder:
        os.chdir(folder)
    if conditions.largest_file:
        limit = conditions.largest_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    if conditions.clock:
        _move_the_clock(conditions.clock)
    if conditions.study:
        _shorten(conditions.study)
    import zoo.commands.main

    sys.argv = ["zoo", *arguments]
    zoo.commands.main.main()


def _move_the_clock(seconds):
    real, state = time.time, {"calls": 0}

    def moved():
        state["calls"] += 1
        return real() + seconds * ((state["calls"] * 7919) % 21 - 10) / 10

    time.time = moved


def _shorten(name):
    study = importlib.import_module(f"zoo.experiments.studies.{name}")
    short = {"data": "digits", "epochs": 1, "steps_per_epoch": 3, "width": 0.1}
    study.RUNS = {label: {**fields, **short} for label, fields in study.RUNS.items()}
