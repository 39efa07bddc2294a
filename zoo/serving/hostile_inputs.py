"""Bad requests. An export must refuse them, and must not hang or end the process."""

import base64
import io
import os
import random
import struct
import zlib
from collections.abc import Container
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo.serving import example_requests, warmup
from zoo.serving.decoding import JPEG_START, MAX_BYTES, MAX_CHUNKS
from zoo.serving.server_runtime import ServerRuntime
from zoo.serving.signatures import IMAGE_FEATURE

# Seconds of one core. The costliest files that are answered have a quarter of what is allowed.
_MOST_SECONDS = 1.0


def wrong_tensors(image_shape: tuple[int, int, int], png: bytes) -> list[tuple[str, np.ndarray]]:
    """Return [(signature, array)] with wrong shapes, ranks, types and values.

    Arguments:
        image_shape: the (h, w, c) that the export takes.
        png: a file that it answers.
    """
    h, w, c = image_shape
    right = np.ones((1, h, w, c), "float32")
    shapes = [
        *[(), (w,), (h, w), (h, w, c), (1, 1, h, w, c), (1, 1, 1, h, w, c)],
        *[(1, h + 1, w, c), (1, h, w + 1, c), (1, 2 * h, 2 * w, c), (2, h + 1, w, c)],
        *[(1, h + 8, w + 8, c), (8, 3 * h, w, c), (1, h, 5 * w, c), (1, 7 * h, 7 * w, c)],
        *[(1, h, w, c + 1), (1, h, w, c + 3), (8, h, w, c + 1), (1, c, h + 1, w), (c, h, w + 1, 1)],
        *[(1, h * w * c), (1, h * w, c), (1, h, w * c), (h * w * c,), (1, h, w, c, 1)],
        *[(0,), (0, 0, 0, 0), (0, h, w, c), (0, h, w, c + 1)],
        *[(1, 0, w, c), (1, h, 0, c), (1, h, w, 0), (1, 0, 0, c)],
    ]
    # For a grey image some are equal, and some would be right.
    shapes = [shape for shape in dict.fromkeys(shapes) if shape[1:] != (h, w, c) or not shape[0]]
    images = [np.ones(shape, "float32") for shape in shapes]
    types = "float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 bool complex64"
    images += [right.astype(dtype) for dtype in types.split()]
    images.append(np.full(right.shape, b"1", object))
    for value in (np.nan, np.inf, -np.inf):
        for place in ((0, 0, 0, 0), (2, h - 1, w - 1, c - 1)):
            batch = np.ones((3, h, w, c), "float32")
            batch[place] = value
            images.append(batch)
    images.append(np.full(right.shape, np.nan, "float32"))

    strings = [_strings(()), _strings((1, 1)), _strings((1, 1, 1)), _strings((0,))]
    strings += [np.ones(3, dtype) for dtype in ("float32", "uint8", "int64", "bool")]
    features = [
        {},
        {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))},
        {IMAGE_FEATURE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[png, png]))},
        {IMAGE_FEATURE: tf.train.Feature(bytes_list=tf.train.BytesList())},
        {IMAGE_FEATURE: tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))},
        {IMAGE_FEATURE: tf.train.Feature(float_list=tf.train.FloatList(value=[1.0]))},
    ]
    examples = [tf.train.Example(features=tf.train.Features(feature=f)) for f in features]
    wrong_examples = [png, b"text", *(example.SerializeToString() for example in examples)]
    return [
        *(("serving_default", image) for image in images),
        *(("predict_bytes", batch) for batch in strings),
        *(("classify", batch) for batch in strings),
        *(("classify", np.array([example], object)) for example in wrong_examples),
    ]


# The header of another scan of the first channel, without data.
_EMPTY_SCAN = b"\xff\xda\0\x08\1\1\0\1\x3f\0"


def malformed_images(channels: int) -> dict[str, bytes]:
    """Return {name: bytes} of files that are no PNG or JPEG, damaged, or larger than they look."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, channels), "uint8")
    image = Image.fromarray(noise[..., 0] if channels == 1 else noise)
    png, jpeg = _encode(image, "PNG"), _encode(image, "JPEG")
    progressive = _encode(image, "JPEG", progressive=True)
    size_in_jpeg = struct.pack(">HH", 24, 20)
    files = {
        "nothing": b"",
        "text": b"cat.png",
        "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "a PDF": b"%PDF-1.7\n",
        "zeros": bytes(100),
        "noise": random.Random(0).randbytes(1000),
        "base64": base64.b64encode(png),
        "a data URL": b"data:image/png;base64," + base64.b64encode(png),
        "JPEG XL": b"\xff\x0a" + bytes(30),
        "PNG of more than 16 MiB": png + bytes(MAX_BYTES),
        "JPEG of more than 16 MiB": jpeg + bytes(MAX_BYTES),
    }
    for form in ("GIF", "BMP", "WEBP", "TIFF", "ICO", "PPM", "TGA", "PCX"):
        files[form] = _encode(image, form)
    files["animated GIF"] = _encode(image, "GIF", save_all=True, append_images=[image.rotate(90)])
    for cut in (1, 8, 20, 30, 40, len(png) // 2, len(png) - 20):
        files[f"PNG, {cut} bytes of it"] = png[:cut]
    for cut in (2, 3, 4, 20, 150, len(jpeg) // 2, len(jpeg) - 40):
        files[f"JPEG, {cut} bytes of it"] = jpeg[:cut]
    for width, height in (
        *((0, 8), (8, 0), (20000, 20000), (4097, 4096)),
        *((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (2**16, 2**16)),
    ):
        files[f"PNG, header of {width} x {height}"] = _png_header(width, height) + png[33:]
    for height, width in ((8000, 8000), (65535, 65535), (0, 20)):
        files[f"JPEG, header of {width} x {height}"] = jpeg.replace(
            size_in_jpeg, struct.pack(">HH", height, width), 1
        )
    files |= {
        "PNG, first byte gone": png[1:],
        "PNG, text in front": b"\n" + png,
        "PNG, a bit of its pixels flipped": png[:60] + bytes([png[60] ^ 255]) + png[61:],
        "PNG, another chunk first": png[:8] + _chunk(b"teSt", struct.pack(">II", 12, 12)) + png[8:],
        "PNG, bit depth 3": _png_header(20, 24, depth=3) + png[33:],
        "PNG, colour type 5": _png_header(20, 24, colour=5) + png[33:],
        "PNG, no pixels": _png_header(20, 24) + _chunk(b"IEND", b""),
        "PNG, pixels that are not deflated": _png_header(20, 24) + _chunk(b"IDAT", bytes(99)),
        "JPEG of a thousand scans": progressive[:-2] + _EMPTY_SCAN * 1000 + progressive[-2:],
        "JPEG, start and end alone": JPEG_START[:2] + b"\xff\xd9",
        "JPEG, start and then noise": JPEG_START + random.Random(1).randbytes(500),
    }
    return files


def largest_batches(
    server: ServerRuntime, image_shape: tuple[int, int, int], most: int
) -> tuple[bool, str]:
    """Send `most` images to every signature, and one more; return (passed, what was found).

    The first must be answered, and the second refused.
    """
    blank = np.zeros(image_shape, "uint8")
    png = _encode(Image.fromarray(blank[..., 0] if image_shape[-1] == 1 else blank), "PNG")
    rows = {"predict_bytes": png, "classify": warmup.example(png).SerializeToString()}
    before, wrong = server.runtime.peak, []
    for signature in server.signatures:
        for count in (most + 1, most):
            if signature in rows:
                batch = np.full((count,), rows[signature], object)
            else:
                batch = np.zeros((count, *image_shape), "float32")
            answer = server(signature, {server.only_input(signature): batch})
            refusal = f"a batch of {count} images; this model takes at most {most}"
            right = refusal in answer if count > most else not isinstance(answer, str)
            wrong += [] if right else [f"{count} images to {signature}: {str(answer)[:80]}"]
    grown = (server.runtime.peak - before) / 2**20
    return not wrong, "; ".join(wrong) or (
        f"{most} images answered with {grown:.0f} MB more memory, {most + 1} refused"
    )


def costs(server: ServerRuntime) -> tuple[bool, str]:
    """Send files that take long for their size; return (passed, what was found)."""
    slowest, wrong = 0.0, []
    requests = costly_requests()
    for name, (files, is_allowed) in requests.items():
        begun = _processor_seconds(server)
        answer = server("predict_bytes", {"image_bytes": np.array(files, object)})
        seconds = _processor_seconds(server) - begun
        slowest = max(slowest, seconds)
        refused = isinstance(answer, str) and ("an image of" in answer or "images of" in answer)
        if refused == is_allowed or seconds > _MOST_SECONDS:
            wrong.append(f"{name}: {seconds:.2f} s, {'refused' if refused else 'not refused'}")
    found = f"{len(requests)} requests, {slowest:.2f} s of a core at most"
    return not wrong, "; ".join([found, *wrong])


def costly_requests() -> dict[str, tuple[list[bytes], bool]]:
    """Return {name: (files, whether they are allowed)} of files that take long for their size.

    A file that is allowed may be damaged, where the damage comes after the work.
    """
    header, rows = _png_header(8, 8), (b"\0" + bytes(24)) * 8
    pixels = _chunk(b"IDAT", zlib.compress(rows))
    text = _chunk(b"zTXt", b"a\0\0" + _bomb(8))
    small, large = (Image.new("RGB", (side, side)) for side in (512, 2048))
    tables = b"\x78\x9c" + _EMPTY_BLOCKS * 7000
    row = b"\4" + bytes(4 * 1024)  # each pixel is predicted from three others
    return {
        "PNG, 200 MB more than its pixels": ([header + _chunk(b"IDAT", _bomb(200))], False),
        "PNG, compressed texts": ([header + text * 100 + pixels + _chunk(b"IEND", b"")], True),
        "PNG, many chunks": ([header + _chunk(b"teSt", b"") * MAX_CHUNKS + pixels], False),
        "PNG, tables of codes": ([_png_header(900, 900) + _chunk(b"IDAT", tables)], True),
        "PNG, more tables": ([_png_header(900, 900) + _chunk(b"IDAT", tables * 4)], False),
        "PNG, transparent": ([_png(1024, 1536, 6, row * 1536)], True),
        "PNG, wide": ([_png(125_000, 16, 0, bytes(125_001 * 16))], True),
        "PNG, two of nine million pixels": ([_png(3000, 3000, 0, bytes(9_003_000))] * 2, False),
        "JPEG, 256 scans": ([_of_scans(small, 256)], True),
        "JPEG, eight of 480 scans": ([_of_scans(small, 480)] * 8, False),
        "JPEG, 16 scans": ([_of_scans(large, 16)], True),
    }


# A block of deflate's format, bit by bit: tables of codes, and the code for its end.
_BLOCK = (
    "0010000000000011100000010000000000000000000000000000000000000000000010011111111101010110001"
)
_EMPTY_BLOCKS = np.packbits([int(bit) for bit in 8 * _BLOCK], bitorder="little").tobytes()
# A table with one code, for the end of 16,384 blocks or more; and a scan that says so for 4 million
# pixels, so that all of them are refined by nothing.
_RUNS = b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"
_REFINING_SCAN = b"\xff\xda\0\x08\1\1\0\1\x3f\x10" + bytes(8)


def _of_scans(image, count):
    """Return a progressive JPEG, of 10 scans, with more scans that refine nothing."""
    file = _encode(image, "JPEG", progressive=True)
    return file[:-2] + _RUNS + _REFINING_SCAN * (count - 10) + file[-2:]


def _bomb(megabytes):
    """Return compressed zeros, a thousandth of their size."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\x9c" + block * megabytes


def _processor_seconds(server):
    """Return how long the server's runtime has kept a core busy."""
    fields = Path(f"/proc/{server.runtime.child.pid}/stat").read_text("utf-8").rpartition(")")[2]
    return sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def decoded_by_pillow(
    image_shape: tuple[int, int, int], claims: Container[str] = ()
) -> list[tuple[bytes, np.ndarray]]:
    """Return [(file, pixels)]: kinds of PNG and JPEG files, and the pixels that Pillow reads.

    Arguments:
        image_shape: the (h, w, c) of the pixels.
        claims: what the card says of files: "orientation", "transparency", "grey". The kinds of
            files are left out of which it says nothing, as an older zoo's cards do.
    """
    h, w, channels = image_shape
    noise = np.random.default_rng(1).integers(0, 256, (h, w, 4), "uint8")
    grey, colour = Image.fromarray(noise[..., 0]), Image.fromarray(noise[..., :3])
    own = grey if channels == 1 else colour
    files = [_encode(grey, "PNG"), _encode(grey, "JPEG", quality=80)]
    if channels == 3 or "grey" in claims:
        files += [_encode(colour, "PNG"), _encode(colour.convert("CMYK"), "JPEG")]
        files.append(_encode(colour.quantize(16), "PNG"))
        for quality, subsampling, progressive in ((30, 2, False), (90, 1, True), (95, 0, False)):
            options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
            files.append(_encode(colour, "JPEG", **options))
    mode = "L" if channels == 1 else "RGB"
    pairs = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            pairs.append((file, np.asarray(image.convert(mode)).reshape(image_shape)))
    if "orientation" in claims:
        pixels = noise[..., :channels]
        pairs += [example_requests.photograph(pixels, form) for form in ("JPEG", "PNG")]
    if "transparency" in claims:
        transparent = own.copy()
        transparent.putalpha(Image.fromarray(noise[..., 3]))
        values, alpha = (np.asarray(part).astype(int) for part in (own, noise[..., 3:]))
        on_white = (values.reshape(image_shape) * alpha + 255 * (255 - alpha) + 127) // 255
        pairs.append((_encode(transparent, "PNG"), on_white.astype("uint8")))
    return pairs


def _strings(shape):
    return np.full(shape, b"text", object)


def _encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _chunk(name, data):
    crc = zlib.crc32(name + data)
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", crc)


def _png(width, height, colour, rows):
    pixels = _chunk(b"IDAT", zlib.compress(rows, 1))
    return _png_header(width, height, colour=colour) + pixels + _chunk(b"IEND", b"")


def _png_header(width, height, *, depth=8, colour=2):
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", fields)
