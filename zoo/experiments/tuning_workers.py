"""The processes of one search: keras-tuner's environment variables, and the way to the chief.

KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT are the chief's address. KERASTUNER_TUNER_ID names
this process; an id with "chief" in it makes it the chief.
"""

import contextlib
import os
import socket

from zoo.recipe import RecipeError


def role():
    """Return what this process is: "alone", "chief" or "tuner".

    Raises:
        RecipeError: if one of the variables is missing or wrong, or the chief's port is taken.
        ConnectionError: if this process is a tuner and no chief answers.
    """
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if not os.environ.get(name):
            raise RecipeError(f"KERASTUNER_ORACLE_IP is set, so {name} must be set too.")
    if not os.environ["KERASTUNER_ORACLE_PORT"].isdecimal():
        port = os.environ["KERASTUNER_ORACLE_PORT"]
        raise RecipeError(f"KERASTUNER_ORACLE_PORT is a port number; received {port!r}.")
    if "chief" not in tuner_id():
        reach_chief()
        return "tuner"
    with contextlib.suppress(ConnectionRefusedError, TimeoutError):
        _connection().close()
        raise RecipeError(f"{_address()} is taken: a chief needs a port of its own.")
    return "chief"


def tuner_id():
    """Return the name of this process among those of the search."""
    return os.environ["KERASTUNER_TUNER_ID"]


def reach_chief():
    """Check that the chief is there. keras-tuner would wait an hour for one that is gone.

    Raises:
        ConnectionError: if no chief answers.
    """
    try:
        _connection().close()
    except OSError as error:
        raise ConnectionError(
            f"No chief answers at {_address()} ({error}). Start it first: the same command with "
            "KERASTUNER_TUNER_ID=chief; then this one again."
        ) from error


def _connection(seconds=5):
    host, port = _address().rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=seconds)


def _address():
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
