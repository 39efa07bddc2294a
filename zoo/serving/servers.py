"""Both clients of a server share the form of its address, its errors, and repeated tries."""

import random
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import ZooError
from zoo.text import one_line

EXPECTED = (
    "http://HOST:8501/v1/models/NAME or grpc://HOST:8500/v1/models/NAME, with TLS https:// or "
    "grpcs://"
)
_MAX_TEXT = 400


class ServerError(ZooError):
    """The server gave no answer, or none that a server with the model gives."""


class NoAnswer(ServerError):
    """There is no answer yet. The server starts, is full or is gone, and may be asked again."""


class Refused(ServerError):
    """The server says that the request is wrong."""

    exit_code = 2


def untrusted(url: str, reason: str) -> ServerError:
    """Return the error for a certificate that is not trusted."""
    return ServerError(
        f"The certificate of {url} is not trusted: {shown(reason)}. Give the certificate of the "
        "authority that signed it, with --ca FILE."
    )


def retrying(ask: Callable[[float], Any], retries: int, timeout: float) -> Any:
    """Return what `ask` returns, and call it again after a NoAnswer.

    Arguments:
        ask: a function of the seconds that are left for the answer.
        retries: how often it is called again.
        timeout: seconds for all calls together, and for the pauses between them.

    Raises:
        ServerError: any other one at once; the last NoAnswer, after all tries.
    """
    end = time.monotonic() + timeout
    for turn in range(retries + 1):
        try:
            return ask(end - time.monotonic())
        except NoAnswer:
            # Clients that a server has failed together should not all come back together.
            pause = 0.2 * 2**turn * random.uniform(0.5, 1.5)
            if turn == retries or time.monotonic() + pause >= end:
                raise
            time.sleep(pause)


def shown(text: object) -> str:
    """Return a server's text as it may stand in an error: one short line, with nothing hidden."""
    line = one_line(str(text)[: 4 * _MAX_TEXT])
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]} ..."
