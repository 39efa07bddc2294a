"""Both clients of a server share the form of its address, its errors, and repeated tries."""

import random
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import ZooError

EXPECTED = "http://HOST:8501/v1/models/NAME or grpc://HOST:8500/v1/models/NAME"


class ServerError(ZooError):
    """The server gave no answer, or none that a server with the model gives."""


class Refused(ServerError):
    """The server says that the request is wrong."""

    exit_code = 2


def retrying(ask: Callable[[], Any], retries: int) -> Any:
    """Return what `ask` returns. Call it again after a ServerError, but not after a Refused.

    Raises:
        ServerError: the last one, after all tries.
    """
    for turn in range(retries + 1):
        try:
            return ask()
        except Refused:
            raise
        except ServerError:
            if turn == retries:
                raise
            # Clients that a server has failed together should not all come back together.
            time.sleep(0.2 * 2**turn * random.uniform(0.5, 1.5))
