"""Requests of real images and Keras' answers to them: for curl, for `zoo verify`, for a server.

    examples/{00000_zero.png, ..., predict.json, predict.expected.json, ...}

Each REQUEST.json is the body of a POST to TF Serving's REST API; REQUEST.expected.json beside it is
the answer of the Keras model, from which an answer of the server may differ in rounding alone.
"""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

# In predict.json, which spells out every pixel.
MAX_NUMBERS = 30_000


@dataclass(frozen=True)
class Example:
    """One request, and what Keras answers: bodies as the REST API has them."""

    name: str
    request: dict
    expected: dict

    @property
    def method(self):
        """The method of the REST API: predict or classify."""
        return "classify" if "examples" in self.request else "predict"

    @property
    def signature(self):
        """The signature that answers it."""
        return self.request.get("signature_name", "serving_default")


def write(folder, images, names, probabilities, labels, top_k, exits=None):
    """Write the examples to an empty `folder`.

    `images` are (n, h, w, c) uint8 and `names` those of their files; `probabilities` (n, classes)
    are Keras' for them, and so is every value of `exits`, {depth: (n, classes)}.
    """
    folder.mkdir(parents=True)
    files = [_png(image) for image in images]
    for name, file in zip(names, files, strict=True):
        (folder / f"{name}.png").write_bytes(file)
    answers = [answer(row, labels, top_k) for row in probabilities]
    encoded = [{"b64": base64.b64encode(file).decode()} for file in files]
    count = max(1, MAX_NUMBERS // images[0].size)
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


def read(folder):
    """The examples in a folder, a list; raises FileNotFoundError where there is none."""
    found = []
    for file in sorted(Path(folder).glob("*.expected.json")):
        name = file.name.removesuffix(".expected.json")
        request = json.loads(file.with_name(f"{name}.json").read_text(encoding="utf-8"))
        found.append(Example(name, request, json.loads(file.read_text(encoding="utf-8"))))
    if not found:
        raise FileNotFoundError(f"There are no examples (*.expected.json) in {folder}.")
    return found


def answer(probabilities, labels, top_k):
    """Return the server's answer for one image with these probabilities."""
    row = _rounded(probabilities)
    ids = sorted(range(len(row)), key=lambda index: -row[index])[:top_k]
    return {
        "probabilities": row,
        "class_ids": ids,
        "classes": [labels[index] for index in ids],
        "scores": [row[index] for index in ids],
    }


def difference(example, answered, labels):
    """The furthest that a number of an answer is off; infinite where it says something else.

    Of classes whose probabilities are equal but for rounding, either may come first.
    """
    expected, rows = _rows(example.expected), _rows(answered)
    if len(expected) != len(rows):
        return math.inf
    return max(_row_difference(*pair, labels) for pair in zip(expected, rows, strict=True))


def _rows(body):
    return body.get("predictions", body.get("results", ()))


def _row_difference(expected, row, labels):
    if isinstance(expected, list):  # of the Classify API: [label, score], ...
        expected = {"classes": [pair[0] for pair in expected], "scores": [p[1] for p in expected]}
        row = {"classes": [pair[0] for pair in row], "scores": [pair[1] for pair in row]}
    if expected.keys() != row.keys() or any(len(expected[k]) != len(row[k]) for k in expected):
        return math.inf
    off = [
        abs(a - b)
        for key in expected.keys() - {"class_ids", "classes"}
        for a, b in zip(expected[key], row[key], strict=True)
    ]
    if "classes" in expected:
        off += _ranking_difference(expected, row, labels)
    return math.inf if any(math.isnan(each) for each in off) else max(off)


def _ranking_difference(expected, row, labels):
    """Return the differences of the scores from those that Keras gives the classes."""
    if len(set(row["classes"])) != len(row["classes"]) or not set(row["classes"]) <= set(labels):
        return [math.inf]
    ids = [labels.index(name) for name in row["classes"]]
    if row.get("class_ids", ids) != ids:
        return [math.inf]
    of_class = dict(zip(expected["classes"], expected["scores"], strict=True))
    if "probabilities" in expected:
        of_class = dict(zip(labels, expected["probabilities"], strict=True))
    # A class that Keras has not among its first may have at most the score of the last of them.
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
