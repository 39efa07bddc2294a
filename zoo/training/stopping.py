"""The ways in which a training stops before its end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from zoo.errors import ZooError


class TrainingError(ZooError, RuntimeError):
    """The training cannot continue: the loss is not finite, or the net does not learn."""


class Interrupted(ZooError):
    """SIGINT or SIGTERM stopped the training, and the state is saved. `signal` is its number."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} and saved at step {step}; the same command resumes")
        self.signal, self.exit_code = number, 128 + number


class TimeUp(ZooError):
    """The minutes that were given are over, and the state is saved."""

    exit_code = 3

    def __init__(self, step: int) -> None:
        super().__init__(f"time is up; saved at step {step}, the same command resumes")


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM in a list, instead of stopping at once.

    A second signal acts as usual.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def restore_handlers():
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def receive(number, frame):
        received.append(number)
        restore_handlers()

    if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        restore_handlers()
