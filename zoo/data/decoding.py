"""Image files to pixels."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zoo.data.checks import DataError, refuse_special_file

if TYPE_CHECKING:
    from PIL import Image, ImageFile

# The formats that Pillow decodes itself. For some others it starts programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
NO_IMAGE = " is not an image to train on: "  # between the file and the reason
Resizing = Literal["squash", "crop", "pad"]
_GREY = ("1", "L", "LA")
# By the orientation in EXIF data. Another one leaves an image as it is.
_TURNS = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"},
    **{6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"},
}


def read_image(
    file: str | Path, image_shape: tuple[int, int, int], resizing: Resizing = "squash"
) -> np.ndarray:
    """Read an image file -> uint8 (height, width, channels).

    The image is converted to grey or RGB and resized to the shape.

    Arguments:
        file: the path of an image file.
        image_shape: (height, width, channels), with 1 or 3 channels.
        resizing: the way to another aspect ratio; see `resize`.

    Raises:
        DataError: if the file is not an image.
    """
    image = with_channels(decode(file), image_shape[-1])
    return image if image.shape == tuple(image_shape) else resize(image, image_shape[:2], resizing)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert a uint8 image (h, w, 1 or 3) to grey or RGB -> (h, w, channels)."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]


def is_colour(file: str | Path) -> bool | None:
    """Return whether `decode` gives RGB, by the header of a file; None if it has no image's."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as opened:
            return opened.mode not in _GREY and opened.mode[0] not in "IF"
    except Exception:  # the decoders raise many types for a damaged file
        return None


def decode(file: str | Path) -> np.ndarray:
    """Decode one image file -> uint8 (height, width, 1 or 3), turned upright and laid on white.

    An export decodes PNG and JPEG files to the same pixels; see `zoo.serving.decoding`.

    Raises:
        DataError: if the file is not an image, is damaged, or has more than 64 million pixels.
    """
    from PIL import Image

    refuse_special_file(file)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} is over {MAX_PIXELS:,} pixels")
            if opened.format == "PNG":
                _check_png(opened, file)
            image = _upright(opened)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range; save 8 or 16 bits")
        is_grey = image.mode in _GREY
        if image.mode.startswith("I;16"):
            values = np.asarray(image)
            pixels = (values >> 8).astype(np.uint8)  # Pillow's convert would clip
            pixels[values == image.info.get("transparency", -1)] = 255
        elif image.has_transparency_data:
            pixels = _on_white(np.asarray(image.convert("RGBA")))[..., : 1 if is_grey else 3]
        else:
            pixels = np.asarray(image.convert("L" if is_grey else "RGB"))
    except Exception as error:  # the decoders raise many types for a damaged file
        raise DataError(f"{file}{NO_IMAGE}{error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def encode(file: str | Path, form: Literal["PNG", "JPEG"]) -> bytes:
    """Decode an image file of any of the formats -> the bytes of a PNG or JPEG, for an export.

    Raises:
        DataError: if the file is not an image.
    """
    from PIL import Image

    pixels, encoded = decode(file), io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(encoded, form, quality=95, subsampling=0)  # PNG has neither
    return encoded.getvalue()


def _check_png(opened: "ImageFile.ImageFile", file: str | Path) -> None:
    """Refuse wrong checksums, as a server does, and make a transparent level one of 8 bits."""
    from PIL import Image

    with Image.open(file, formats=FORMATS) as unread:
        unread.verify()
    packing = opened.tile[0].args if opened.tile else None
    if "transparency" in opened.info:
        if packing == "RGB;16B":
            raise ValueError("16 bits with a transparent colour; save it with 8 bits")
        if packing in ("L;2", "L;4"):
            opened.info["transparency"] *= {"L;2": 85, "L;4": 17}[packing]


def _upright(opened: "Image.Image") -> "Image.Image":
    """Return an image turned as its EXIF data say. Other data are not asked."""
    from PIL import Image

    opened.load()
    for other in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        opened.info.pop(other, None)
    try:
        orientation = opened.getexif().get(0x0112)
    except Exception:  # damaged EXIF data do not damage the image
        orientation = None
    if not isinstance(orientation, int) or orientation not in _TURNS:
        return opened.copy()
    return opened.transpose(Image.Transpose[_TURNS[orientation]])


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Lay an image on white: (height, width, 4) uint8 -> (height, width, 3) uint8."""
    colours, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def resize(
    image: np.ndarray, image_size: Sequence[int], resizing: Resizing = "squash"
) -> np.ndarray:
    """Resize a uint8 image (h, w, c) -> (height, width, c), bilinear and antialiased.

    An export does the same in its graph; see `zoo.serving.decoding`.

    Arguments:
        image: the image.
        image_size: (height, width) in pixels.
        resizing: what happens to an image of another aspect ratio. "squash" stretches it. "crop"
            cuts off two sides, and keeps the centre. "pad" adds black at two sides.
    """
    from PIL import Image

    margins = [(0, 0), (0, 0), (0, 0)]
    if resizing == "crop":
        top, left = _margins(image.shape, image_size)
        image = image[top : image.shape[0] - top, left : image.shape[1] - left]
    elif resizing == "pad":
        top, left = _margins(image_size, image.shape)
        margins = [(top, top), (left, left), (0, 0)]
        image_size = image_size[0] - 2 * top, image_size[1] - 2 * left
    height, width = image_size
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    scaled = pixels.resize((width, height), Image.Resampling.BILINEAR)
    resized = np.asarray(scaled).reshape(height, width, image.shape[-1])
    return np.pad(resized, margins) if resizing == "pad" else resized


def _margins(outer: Sequence[int], inner: Sequence[int]) -> tuple[int, int]:
    """Return (rows above and below, columns left and right) of what `outer` has too much.

    They surround its largest part with the aspect ratio of `inner`. Opposite margins are equal, so
    that a mirror image has the same.
    """
    (height, width), (rows, columns) = outer[:2], inner[:2]
    part_height = (2 * width * rows + columns) // (2 * columns)  # rounded
    part_width = (2 * height * columns + rows) // (2 * rows)
    surplus = height - max(1, part_height), width - max(1, part_width)
    return max(0, surplus[0]) // 2, max(0, surplus[1]) // 2
