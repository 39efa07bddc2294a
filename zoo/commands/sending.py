"""`zoo predict` sends the bytes of an image to an export or to a server."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError

# Compressed data can hide work, so an export counts them: it takes up to 7 million pixels in so
# many bytes, and fewer pixels in more.
LARGEST_PNG = 2**19


def ask_server(
    url: str,
    images: Sequence[Path],
    top: int,
    *,
    check: Path | None = None,
    tolerance: float | None = None,
    timeout: float = 10.0,
    retries: int = 2,
    ca: Path | None = None,
    token_file: Path | None = None,
    show: Callable[..., None] | None = None,
) -> tuple[list[str], bool]:
    """Print a server's answers.

    The arguments are the flags of `zoo predict`, and `show` of `client.show_predictions`.

    Returns:
        A message for each image that was refused; and whether the answers to the examples of
        `check` are those of Keras.

    Raises:
        UsageError: for a wrong URL, token or certificate.
        zoo.serving.client.ServerError: if the server gives no answer, or a wrong one.
    """
    if url.startswith("grpc"):
        # gRPC reads this when it is imported. Else it adds lines of its own to our error.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import_tensorflow()
    from zoo.serving import client

    token = _token(token_file)
    try:
        server = client.connect(url, timeout=timeout, retries=retries, token=token, ca=ca)
    except ValueError as error:
        raise UsageError(str(error)) from error
    refused = client.show_predictions(server, images, top, png_or_jpeg, show)
    return refused, not check or client.check(server, check, tolerance)


def _token(file: Path | None) -> str | None:
    """Return the token in the file, or in the variable ZOO_TOKEN; None if there is none.

    A token of the command line would be in the list of processes, and in the shell's history.
    """
    if file is None:
        return os.environ.get("ZOO_TOKEN") or None
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r} with a token.")
    try:
        return file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{file} holds no token: expected one line of ASCII.") from None


def png_or_jpeg(file: Path) -> bytes:
    """Return the bytes of a PNG or JPEG file as they are; a file of another format becomes a PNG.

    A PNG of more than `LARGEST_PNG` bytes becomes a JPEG, which changes pixels by a few levels.
    What is no image at all is returned as it is, since the export says what it takes.
    """
    content = file.read_bytes()
    is_png = content.startswith(b"\x89PNG")
    if content.startswith(b"\xff\xd8") or (is_png and len(content) <= LARGEST_PNG):
        return content
    from zoo import data  # a client of PNG and JPEG files needs no NumPy

    try:
        png = content if is_png else data.encode(file, "PNG")
        return png if len(png) <= LARGEST_PNG else data.encode(file, "JPEG")
    except data.DataError:
        return content
