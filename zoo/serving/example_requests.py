"""Requests of real images, and Keras' answers to them.

    examples/{00000_zero.png, ..., predict.json, predict.expected.json, ...}

Each REQUEST.json is the body of a POST to TF Serving's REST API. REQUEST.expected.json beside it is
the answer of the Keras model. A server's answer may differ from it in rounding alone. `zoo verify`
and `zoo predict --check` compare them; curl can send them.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import exports
from zoo.exports import ExportError

if TYPE_CHECKING:
    import numpy as np

# predict.json spells out every pixel, so it holds as many images as have this many numbers.
MAX_NUMBERS = 30_000
_EXPECTED = ".expected.json"


@dataclass(frozen=True)
class Example:
    """One request, and Keras' answer: bodies as the REST API has them."""

    name: str
    request: dict[str, Any]
    expected: dict[str, Any]

    @property
    def method(self) -> str:
        """The method of the REST API: predict or classify."""
        return "classify" if "examples" in self.request else "predict"

    @property
    def signature(self) -> str:
        """The name of the signature that answers the request."""
        return self.request.get("signature_name", "serving_default")


def write(
    folder: Path,
    images: "np.ndarray",
    names: Sequence[str],
    probabilities: "np.ndarray",
    labels: Sequence[str],
    top_k: int,
    exits: "Mapping[str, np.ndarray] | None" = None,
    photograph: bytes | None = None,
) -> None:
    """Write the examples to a new folder.

    Arguments:
        folder: made here.
        images: (n, h, w, c) uint8.
        names: the names of their files, without `.png`.
        probabilities: Keras' (n, classes) for the images.
        labels: the label names, in the order of the classes.
        top_k: how many classes an answer names.
        exits: Keras' probabilities at every depth, {depth: (n, classes)}.
        photograph: a JPEG file with EXIF data. The probabilities have a row more, which is its own.
    """
    folder.mkdir(parents=True)
    files = [_png(image) for image in images]
    for name, file in zip(names, files, strict=True):
        (folder / f"{name}.png").write_bytes(file)
    if photograph:
        (folder / "photograph.jpg").write_bytes(photograph)
        files.append(photograph)
    answers = [answer(row, labels, top_k) for row in probabilities]
    encoded = [{"b64": base64.b64encode(file).decode()} for file in files]
    count = min(len(images), max(1, MAX_NUMBERS // images[0].size))
    pixels = images[:count].tolist()
    _save(folder, "predict", {"instances": pixels}, {"predictions": answers[:count]})
    request = {"signature_name": "predict_bytes", "instances": encoded}
    _save(folder, "predict_bytes", request, {"predictions": answers})
    request = {"signature_name": "classify", "examples": [{"image/encoded": e} for e in encoded]}
    pairs = [zip(row["classes"], row["scores"], strict=True) for row in answers]
    _save(folder, "classify", request, {"results": [list(map(list, row)) for row in pairs]})
    if exits:
        depths = {depth: [_rounded(row) for row in rows] for depth, rows in exits.items()}
        rows = [dict(zip(depths, row, strict=True)) for row in zip(*depths.values(), strict=True)]
        request = {"signature_name": "exits", "instances": pixels}
        _save(folder, "exits", request, {"predictions": rows[:count]})


def photograph(image: "np.ndarray", form: str = "JPEG") -> "tuple[bytes, np.ndarray]":
    """Return (file, pixels): an image as a camera on its side writes it, with EXIF orientation 6.

    Arguments:
        image: (h, w, c) uint8.
        form: JPEG or PNG.

    Returns:
        The bytes of the file, and the upright pixels (h, w, c) that Pillow reads from it.
    """
    import numpy as np
    from PIL import Image, ImageOps

    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    lying = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    lying.transpose(Image.Transpose.ROTATE_90).save(file, form, exif=exif)
    with Image.open(file) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened)).reshape(image.shape)
    return file.getvalue(), pixels


def find(folder: Path) -> Path:
    """Return the folder of examples: `folder` itself, or that of the newest version of an export.

    Raises:
        FileNotFoundError: if there are no examples.
        ExportError: if a file of the export was changed, removed or added.
    """
    if any(folder.glob(f"*{_EXPECTED}")):
        return folder
    try:
        version = exports.find_version(folder)
        exports.verify_checksums(version)
        examples = version / exports.EXAMPLES
    except FileNotFoundError:
        examples = folder
    if not any(examples.glob(f"*{_EXPECTED}")):
        raise FileNotFoundError(
            f"There are no examples (*{_EXPECTED}) in {examples}; expected an export, one of its "
            "versions, or a folder of examples."
        )
    return examples


def read(folder: Path) -> list[Example]:
    """Return the examples of an export, of a version, or of a folder of examples.

    Raises:
        FileNotFoundError: if there are no examples.
        ExportError: if an example is damaged.
    """
    examples = []
    for file in sorted(find(folder).glob(f"*{_EXPECTED}")):
        name = file.name.removesuffix(_EXPECTED)
        pair = file.with_name(f"{name}.json"), file
        try:
            request, expected = (json.loads(part.read_text(encoding="utf-8")) for part in pair)
            if not (isinstance(request, dict) and _is_answer(expected)):
                raise ValueError("it is no request, or no answer of Keras")
        except (ValueError, RecursionError) as error:
            raise ExportError(
                f"The example {name} in {file.parent} is damaged: {error}. Export the model again."
            ) from error
        examples.append(Example(name, request, expected))
    return examples


def _is_answer(body):
    """Return whether JSON is an answer, so that `difference` can compare it with others."""
    rows = _rows(body) if isinstance(body, dict) else None
    return isinstance(rows, list) and bool(rows) and all(map(_is_row, rows))


def _is_row(row):
    if isinstance(row, list):
        pairs = row and all(isinstance(pair, list) and len(pair) == 2 for pair in row)
        return bool(pairs) and _is_row(_in_columns(row))
    if not isinstance(row, dict):
        return False
    kinds = ((values, str if key == "classes" else (int, float)) for key, values in row.items())
    return (
        all(isinstance(v, list) and v and all(isinstance(i, k) for i in v) for v, k in kinds)
        and bool(row.keys() - {"class_ids", "classes"})
        and len(row.get("classes", ())) == len(row.get("scores", ()))
    )


def _in_columns(pairs):
    """Return a row of the Classify API, [[label, score], ...], as one of Predict."""
    return {"classes": [label for label, _ in pairs], "scores": [score for _, score in pairs]}


def answer(probabilities: "np.ndarray", labels: Sequence[str], top_k: int) -> dict[str, Any]:
    """Return the server's answer for one image with these probabilities, (classes,)."""
    row = _rounded(probabilities)
    ids = sorted(range(len(row)), key=lambda index: -row[index])[:top_k]
    return {
        "probabilities": row,
        "class_ids": ids,
        "classes": [labels[index] for index in ids],
        "scores": [row[index] for index in ids],
    }


def difference(example: Example, answer: Mapping[str, Any], labels: Sequence[str]) -> float:
    """Return the largest difference of a number in an answer from Keras'.

    It is infinite if the answer has other fields or names other classes. Two classes whose
    probabilities are equal but for rounding may come in either order.
    """
    expected, rows = _rows(example.expected), _rows(answer)
    if len(expected) != len(rows):
        return math.inf
    return max(_row_difference(*pair, labels) for pair in zip(expected, rows, strict=True))


def _rows(body):
    return body.get("predictions", body.get("results", ()))


def _row_difference(expected, row, labels):
    if isinstance(expected, list):
        expected, row = _in_columns(expected), _in_columns(row)
    if expected.keys() != row.keys() or any(len(expected[k]) != len(row[k]) for k in expected):
        return math.inf
    differences = [
        abs(a - b)
        for key in expected.keys() - {"class_ids", "classes"}
        for a, b in zip(expected[key], row[key], strict=True)
    ]
    if "classes" in expected:
        differences += _ranking_differences(expected, row, labels)
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def _ranking_differences(expected, row, labels):
    """Return the differences of the scores from those that Keras gives the classes."""
    if len(set(row["classes"])) != len(row["classes"]) or not set(row["classes"]) <= set(labels):
        return [math.inf]
    ids = [labels.index(name) for name in row["classes"]]
    if row.get("class_ids", ids) != ids:
        return [math.inf]
    of_class = dict(zip(expected["classes"], expected["scores"], strict=True))
    if "probabilities" in expected:
        of_class = dict(zip(labels, expected["probabilities"], strict=True))
    # A class that is not among Keras' first has at most the score of the last of them.
    last = expected["scores"][-1]
    pairs = zip(row["classes"], row["scores"], strict=True)
    return [abs(of_class.get(name, last) - score) for name, score in pairs]


def _rounded(row):
    return [round(float(value), 9) for value in row]


def _png(image):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _save(folder, name, request, expected):
    for suffix, body in (("", request), (".expected", expected)):
        text = json.dumps(body, ensure_ascii=False)
        (folder / f"{name}{suffix}.json").write_text(text + "\n", encoding="utf-8")
