"""Image files as cameras, scanners and web sites write them, and damaged ones."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
ADAM7 += [(0, 1, 1, 2)]


def scene(height=20, width=24, channels=3):
    """Soft colours and a corner of noise, uint8. No turn leaves it alone."""
    y, x = np.mgrid[:height, :width]
    waves = [120 + 100 * np.sin(x / (3 + c) + y / (5 - c) + c) for c in range(channels)]
    image = np.stack(waves, axis=-1)
    corner = image[: height // 3, : width // 3]
    corner[...] = np.random.default_rng(0).integers(0, 256, corner.shape)
    return image.astype("uint8")


def encode(image, form, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation, order="<", kind=3, before=(), **changed):
    """The bytes of EXIF data: a TIFF header and one folder of tags."""
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    entries = [*before, (0x0112, kind, 1, value)]
    header = {"<": b"II*\0", ">": b"MM\0*"}[order]
    rows = b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    count = changed.get("count", len(entries))
    offset = changed.get("offset", 8)
    return header + struct.pack(order + "IH", offset, count) + rows + bytes(4)


def segment(marker, content):
    return struct.pack(">BBH", 255, marker, len(content) + 2) + content


def with_exif(jpeg, data):
    """The JPEG with EXIF data behind its first segment, as some cameras write them."""
    return insert(jpeg, segment(0xE1, b"Exif\0\0" + data))


def insert(jpeg, content):
    end = 4 + struct.unpack(">H", jpeg[4:6])[0]
    return jpeg[:end] + content + jpeg[end:]


def without(jpeg, marker):
    """The JPEG without its segments of this marker."""
    kept, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        kept += b"" if jpeg[at + 1] == marker else jpeg[at:end]
        at = end
    return kept + jpeg[at:]


def chunk(name, data):
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows, size, depth, colour, *before, interlaced=0):
    """A PNG file of packed rows; `before` are chunks that stand before the pixels."""
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_of(values, colour, *before):
    """A PNG file of an array (height, width) or (height, width, channels), uint8 or uint16."""
    depth = 8 * values.itemsize
    rows = [row.astype(f">u{values.itemsize}").tobytes() for row in values]
    return png(rows, values.shape[:2], depth, colour, *before)


def interlaced(values):
    rows = []
    for left, top, across, down in ADAM7:
        rows += [row.tobytes() for row in values[top::down, left::across] if row.size]
    return png(rows, values.shape[:2], 8, 2, interlaced=1)


def odd_files():
    """{name: bytes}; the names are those of the table in docs/guides/data.md."""
    colour = scene()
    grey, alpha = colour[..., 0], scene(channels=4)
    deep = np.where(colour > 9, 257 * colour.astype("uint16") - 60, 0).astype("uint16")
    jpeg = encode(colour, "JPEG", quality=90)
    cmyk = encode(Image.fromarray(colour).convert("CMYK"), "JPEG", quality=95)
    palette = Image.fromarray(colour).quantize(16)
    seen_through = bytes(range(0, 256, 16))
    two_bits = [bytes([0b00011011, 0b11100100] * 3)] * 20
    one_bit = [bytes([0b01100101, 0b10110011, 0b00001111])] * 20
    thumbnail = encode(colour[:8, :8], "JPEG")
    files = {
        f"JPEG, EXIF orientation {turn}": with_exif(jpeg, exif(turn, "<>"[turn % 2]))
        for turn in range(1, 9)
    }
    files |= {
        "JPEG, EXIF orientation 6, written as 32 bits": with_exif(jpeg, exif(6, ">", kind=4)),
        "JPEG, EXIF with a thumbnail": with_exif(
            jpeg, exif(3, before=[(0x010F, 2, 3, b"Co\0\0")]) + thumbnail
        ),
        "JPEG, EXIF orientation 9": with_exif(jpeg, exif(9)),
        "JPEG, EXIF cut off": with_exif(jpeg, exif(6)[:12]),
        "JPEG, EXIF that points outside": with_exif(jpeg, exif(6, offset=2**32 - 1)),
        "JPEG, EXIF of 65,535 tags": with_exif(jpeg, exif(6, count=65535)),
        "JPEG, EXIF without a TIFF header": with_exif(jpeg, b"text" + bytes(40)),
        "JPEG, orientation in XMP alone": insert(
            jpeg, segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')
        ),
        "JPEG, grey": encode(grey, "JPEG"),
        "JPEG, colours not subsampled (4:4:4)": encode(colour, "JPEG", subsampling=0),
        "JPEG, colours subsampled (4:2:0)": encode(colour, "JPEG", subsampling=2),
        "JPEG, 37x23 pixels, subsampled": encode(scene(23, 37), "JPEG", subsampling=2),
        "JPEG, one pixel": encode(colour[:1, :1], "JPEG"),
        "JPEG, progressive": encode(colour, "JPEG", progressive=True),
        "JPEG, stored as RGB": encode(colour, "JPEG", keep_rgb=True),
        "JPEG, CMYK with Adobe's marker": cmyk,
        "JPEG, CMYK without Adobe's marker": without(cmyk, 0xEE),
        "JPEG, YCCK": cmyk.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2"),
        "JPEG, two pictures in one file (MPO)": encode(
            colour, "MPO", save_all=True, append_images=[Image.fromarray(alpha[..., :3])]
        ),
        "JPEG, more bytes at the end": jpeg + b"\0more",
        "JPEG, its last two bytes gone": jpeg[:-2],
        "JPEG, half of it": jpeg[: len(jpeg) // 2],
        "JPEG, header of 65,000 x 65,000": jpeg.replace(
            struct.pack(">HH", 20, 24), struct.pack(">HH", 65000, 65000), 1
        ),
        "PNG, RGB": encode(colour, "PNG"),
        "PNG, grey": encode(grey, "PNG"),
        "PNG, grey of 16 bits": png_of(deep[..., 0], 0),
        "PNG, black and white (1 bit)": png(one_bit, (20, 24), 1, 0),
        "PNG, grey of 2 bits": png(two_bits, (20, 24), 2, 0),
        "PNG, RGB of 16 bits": png_of(deep, 2),
        "PNG, palette": encode(palette, "PNG"),
        "PNG, palette, transparent": encode(palette, "PNG", transparency=seen_through),
        "PNG, grey, transparent": png_of(alpha[..., 2:], 4),
        "PNG, RGB, transparent": png_of(alpha, 6),
        "PNG, RGB of 16 bits, transparent": png_of(scene(channels=4).astype("uint16") * 257, 6),
        "PNG, RGB with a transparent colour": png_of(
            colour, 2, chunk(b"tRNS", struct.pack(">3H", *colour[3, 4]))
        ),
        "PNG, grey with a transparent level": png_of(
            grey, 0, chunk(b"tRNS", struct.pack(">H", grey[3, 4]))
        ),
        "PNG, grey of 16 bits with a transparent level": png_of(
            deep[..., 0], 0, chunk(b"tRNS", struct.pack(">H", deep[3, 4, 0]))
        ),
        "PNG, black and white, white transparent": png(
            one_bit, (20, 24), 1, 0, chunk(b"tRNS", b"\0\1")
        ),
        "PNG, grey of 2 bits with a transparent level": png(
            two_bits, (20, 24), 2, 0, chunk(b"tRNS", b"\0\1")
        ),
        "PNG, RGB of 16 bits with a transparent colour": png_of(
            deep, 2, chunk(b"tRNS", struct.pack(">3H", *deep[3, 4]))
        ),
        "PNG, interlaced": interlaced(colour),
        "PNG, with gamma and a colour profile": png_of(
            colour,
            2,
            chunk(b"gAMA", struct.pack(">I", 100000)),
            chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(128))),
        ),
        "PNG, EXIF orientation 6": png_of(colour, 2, chunk(b"eXIf", exif(6, ">"))),
        "PNG, EXIF without a TIFF header": png_of(colour, 2, chunk(b"eXIf", b"text" + bytes(40))),
        "PNG, EXIF cut off": png_of(colour, 2, chunk(b"eXIf", exif(6)[:12])),
        "PNG, animated": encode(
            colour, "PNG", save_all=True, append_images=[Image.fromarray(alpha[..., :3])]
        ),
        "PNG, more bytes at the end": encode(colour, "PNG") + b"\0more",
        "PNG, half of it": encode(colour, "PNG")[:800],
        "PNG, a bit of its pixels flipped": flipped(encode(colour, "PNG"), 90),
        "PNG, a wrong checksum": flipped(encode(colour, "PNG"), -13),
        "PNG, header of 20,000 x 20,000": png([], (20000, 20000), 8, 2),
        "no bytes": b"",
        "text": b"cat.png",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
    }
    for form in ("BMP", "GIF", "PPM", "TIFF", "WEBP"):
        files[form] = encode(colour, form, **({"lossless": True} if form == "WEBP" else {}))
    return files


def flipped(content, index):
    changed = bytearray(content)
    changed[index] ^= 4
    return bytes(changed)
