"""The bytes that `zoo predict` sends to an export or a server."""

from pathlib import Path


def png_or_jpeg(file: Path) -> bytes:
    """Return the bytes of a PNG or JPEG file as they are; a file of another format becomes a PNG.

    What is no image at all is returned as it is, since the export says what it takes.
    """
    content = file.read_bytes()
    if content.startswith((b"\x89PNG", b"\xff\xd8")):
        return content
    from zoo import data  # a client of PNG and JPEG files needs no NumPy

    try:
        return data.as_png(file)
    except data.DataError:
        return content
