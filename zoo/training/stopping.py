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
    """The signal of this number stopped the training, and the state is saved."""

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
    """Collect the first SIGINT, SIGTERM or SIGHUP in a list, instead of stopping at once.

    A second SIGINT or SIGTERM acts as usual. A second SIGHUP does nothing: a terminal that closes
    sends it more than once. A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def receive(number, frame):
        received.append(number)
        for other, handler in handlers.items():
            signal.signal(other, signal.SIG_IGN if other == signal.SIGHUP else handler)

    if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            handlers[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for changed, handler in handlers.items():
            signal.signal(changed, handler)
