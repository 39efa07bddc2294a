"""The ways in which a training stops before its end."""

import contextlib
import signal
import threading

from zoo.errors import ZooError


class TrainingError(ZooError, RuntimeError):
    """A training that cannot go on: a loss that is not finite, or a net that does not learn."""


class Interrupted(ZooError):
    """SIGINT or SIGTERM came; the state is saved. `signal` is its number."""

    def __init__(self, number, step):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} and saved at step {step}; the same command resumes")
        self.signal, self.exit_code = number, 128 + number


class TimeUp(ZooError):
    """The sitting's minutes are over; the state is saved."""

    exit_code = 3

    def __init__(self, step):
        super().__init__(f"time is up; saved at step {step}, the same command goes on")


@contextlib.contextmanager
def stop_signals():
    """A list that receives the first SIGINT or SIGTERM; the second one acts as ever."""
    received, before = [], {}

    def note(number, frame):
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
