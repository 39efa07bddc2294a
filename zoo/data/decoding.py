"""Image files to pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.data.checks import DataError

# The formats that Pillow decodes itself. For some others it starts programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000


def read_image(file: str | Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Read an image file -> uint8 (height, width, channels).

    The image is converted to grey or RGB and resized to the shape.

    Arguments:
        file: the path of an image file.
        image_shape: (height, width, channels), with 1 or 3 channels.

    Raises:
        DataError: if the file is not an image.
    """
    height, width, channels = image_shape
    image = decode(file)
    if image.shape[-1] != channels:
        from PIL import Image

        grey = image.shape[-1] == 1
        converted = Image.fromarray(image[..., 0] if grey else image).convert(
            "RGB" if grey else "L"
        )
        image = np.asarray(converted).reshape(*image.shape[:2], channels)
    return image if image.shape[:2] == (height, width) else resize(image, (height, width))


def decode(file: str | Path) -> np.ndarray:
    """Decode one image file -> uint8 (height, width, 1 or 3), turned upright.

    Raises:
        DataError: if the file is not an image, or has more than 64 million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} is over {MAX_PIXELS:,} pixels")
            image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range; save 8 or 16 bits")
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow's convert would clip
        else:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # the decoders raise many types for a damaged file
        raise DataError(f"{file} is not an image to train on: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def resize(image: np.ndarray, image_size: Sequence[int]) -> np.ndarray:
    """Resize a uint8 image (h, w, c) -> (height, width, c), bilinear and antialiased."""
    from PIL import Image

    height, width = image_size
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[-1])
