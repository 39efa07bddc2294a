"""The command `zoo demo`: a page on this machine on which a model answers."""

import contextlib
import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zoo.commands import models
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError, check_number


def demo(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    host: str = "127.0.0.1",
    port: int = 7860,
    labels: Path | None = None,
    recipe: Path | None = None,
) -> None:
    """Show a page on which a model answers to the images that you drop, draw or photograph.

    It needs the extra demo: pip install "keras-nin-zoo[demo]". Ctrl-C ends it.

    Arguments:
        model: A name from `zoo list`, a run folder, an export, or a .keras file.
        host: Address to listen at. 0.0.0.0 lets every machine of the network in.
        port: Port to listen at.
        labels: Text file with one class a line, for a .keras file.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    path = models.find(model)
    check_number("--port", port, 1, 65535)
    if importlib.util.find_spec("gradio") is None:
        raise UsageError('zoo demo needs Gradio: pip install "keras-nin-zoo[demo]"')
    with _listening(host, port) as opened:
        import_tensorflow()
        from zoo.commands import demo_page
        from zoo.commands.looking import Looking

        demo_page.serve(Looking(path, labels, recipe), path.name, opened)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Open a socket that listens, before the model is loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"The demo cannot listen at {host}, port {port}: {error.strerror}. Give another --host "
            "or --port."
        ) from None
    with opened:
        yield opened
