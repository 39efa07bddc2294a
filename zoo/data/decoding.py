"""Image files to pixels."""

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError:  # a machine that trains with JAX
    tf = None

from zoo.data.checks import DataError

# The formats that Pillow decodes itself; for some others it starts programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000


def read_image(file, image_shape):
    """An image file -> uint8 (height, width, channels): grey or RGB and resized as asked.

    Raises:
        DataError: for a file that is not an image.
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


def decode(file):
    """Decode one image file: uint8 (height, width, 1 or 3), turned upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} is over {MAX_PIXELS:,} pixels")
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range; save 8 or 16 bits")
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image) >> 8).astype(np.uint8)  # where Pillow's convert would clip
        else:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # a damaged file raises whatever its decoder stumbles on
        raise DataError(f"{file} is not an image to train on: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def resize(image, image_size):
    """Resize a uint8 image (h, w, c) to (height, width), bilinear and antialiased."""
    from PIL import Image

    height, width = image_size
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[-1])
