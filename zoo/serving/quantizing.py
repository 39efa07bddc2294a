"""Smaller and faster forms of an export: LiteRT and ONNX files, and the server in bfloat16.

    VERSION/assets.extra/{model.int8.tflite, model.tflite, model.int8.onnx}

The files take pixels and give probabilities. For bfloat16 there is no file: TensorFlow Serving
rounds the SavedModel itself, with a flag. Each form is compared with Keras on test images, and one
that loses too much accuracy is refused.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from zoo import exports
from zoo.exports import ExportError
from zoo.serving import converting, litert, onnx_int8
from zoo.serving.server_runtime import ServerRuntime
from zoo.text import percent

FILES = {
    "int8": "assets.extra/model.int8.tflite",
    "float": "assets.extra/model.tflite",
    "onnx": "assets.extra/model.int8.onnx",
}
FORMS = (*FILES, "bfloat16")
SERVER_FLAG = "--mixed_precision=bfloat16"
"""The flag of TensorFlow Serving for the form "bfloat16"."""
REPRESENTATIVE = 200
"""Number of training images that the ranges of the whole numbers are taken from."""
MOST_LOST = 1.0
"""Points of accuracy that a form may lose, if nothing else is said."""
_BATCH = 32
"""Images in a request to the server. Each export allows as many."""


class Quantizing(NamedTuple):
    """The forms to make, and the images that they are made with and compared on."""

    forms: tuple[str, ...]
    """Names in `FORMS`."""
    representative: np.ndarray
    """Training images, (n, h, w, c) uint8. int8 takes the ranges of its numbers from them."""
    images: Any
    """Test images, (n, h, w, c) uint8, an array or what can be cut into arrays."""
    labels: np.ndarray
    """The true classes of the test images, (n,)."""
    logits: np.ndarray
    """Keras' logits of the test images, (n, classes)."""
    most_lost: float = MOST_LOST
    """Points of accuracy that a form may lose, 0..100."""


def write(
    draft: Path, model: keras.Model, quantizing: Quantizing, temperature: float = 1.0
) -> dict[str, Any]:
    """Write the files into a version that is not published yet; return the facts for the card.

    Arguments:
        draft: the folder of the version.
        model: pixels (batch, h, w, c) -> logits (batch, classes), in float32.
        quantizing: the forms to make, and the images.
        temperature: what the logits are divided by.

    Returns:
        {form: its accuracy, the points lost, and the share of the answers that are Keras'}. For
        a file also its path and bytes. For bfloat16 the server's flag, and the milliseconds for
        32 images with and without it.

    Raises:
        ExportError: if the form is not known, the model cannot be converted, the processor
            has no bfloat16, or a form loses more accuracy than is allowed.
    """
    facts = {}
    for form in dict.fromkeys(quantizing.forms):
        if form not in FORMS:
            raise ExportError(f"Received the form {form!r}; expected one of {', '.join(FORMS)}.")
        if form == "bfloat16":
            facts[form] = _served(draft, quantizing)
            continue
        file = draft / FILES[form]
        file.parent.mkdir(parents=True, exist_ok=True)
        answer = _make(form, file, model, quantizing.representative, temperature)
        size = {"file": FILES[form], "bytes": file.stat().st_size}
        facts[form] = {**size, **_compared(form, answer, quantizing)}
    return facts


def _make(form, file, model, representative, temperature):
    """Write a file; return the function that asks it."""
    if form == "onnx":
        file.write_bytes(onnx_int8.convert(model, representative, temperature))
        return converting.Onnx(file)
    file.write_bytes(litert.convert(model, form, representative, temperature))
    answer = litert.LiteRT(file)
    if form == "int8" and answer.pixel != (1.0, 0):
        raise ExportError(f"int8 takes pixels as {answer.pixel}; expected (1, 0): a fault of ours.")
    return answer


def _served(draft, quantizing):
    """Return the facts of the SavedModel as the server answers with its flag for bfloat16."""
    with ServerRuntime(draft) as exact, ServerRuntime(draft, mixed_precision="bfloat16") as rounded:

        def ask(server, images):
            return server.answer("serving_default", {"images": images})["probabilities"]

        images = np.asarray(quantizing.images[:_BATCH], "float32")
        images = np.resize(images, (_BATCH, *images.shape[1:]))
        if np.array_equal(ask(exact, images), ask(rounded, images)):
            raise ExportError(
                "bfloat16 changes no answer on this processor, which has no instructions for it. "
                "Leave it out of --quantize, or export where the model is served."
            )
        seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(7):
            for name, server in (("float32", exact), ("bfloat16", rounded)):
                begun = time.perf_counter()
                ask(server, images)
                seconds[name].append(time.perf_counter() - begun)
        return {
            "server_flag": SERVER_FLAG,
            "milliseconds_for_32": {
                name: round(1000 * min(each), 2) for name, each in seconds.items()
            },
            **_compared(
                "bfloat16", lambda part: ask(rounded, part.astype("float32")), quantizing, _BATCH
            ),
        }


def _compared(
    form: str, answer: Callable[[np.ndarray], np.ndarray], quantizing: Quantizing, batch: int = 256
) -> dict[str, Any]:
    """Return the accuracy of a form and what it lost, or raise ExportError if that is too much."""
    labels = np.asarray(quantizing.labels)
    parts = range(0, len(labels), batch)
    answers = np.concatenate(
        [answer(quantizing.images[start : start + batch]).argmax(axis=1) for start in parts]
    )
    keras_answers = quantizing.logits.argmax(axis=1)
    of_keras, accuracy = (float((each == labels).mean()) for each in (keras_answers, answers))
    lost = 100 * (of_keras - accuracy)
    if lost > quantizing.most_lost:
        raise ExportError(
            f"The form {form} loses {lost:.2f} points of accuracy: {percent(of_keras)} "
            f"become {percent(accuracy)} of {len(labels)} test images. {quantizing.most_lost:g} "
            f"are allowed. Leave {form} out, or allow more: --quantize-loss POINTS (in Python: "
            "most_lost)."
        )
    return {
        "test_images": len(labels),
        "accuracy": accuracy,
        "accuracy_of_keras": of_keras,
        "points_lost": lost,
        "agreement": float((keras_answers == answers).mean()),
    }


def check(version: Path, card: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Compare the LiteRT and ONNX files of a version with its card; None if there are none.

    They are not loaded: their runtimes are no place for a file of a stranger.

    Returns:
        Whether they are those of the card, and what was found.
    """
    told = card.get("quantized", {})
    names = sorted(
        path.relative_to(version).as_posix()
        for ending in ("tflite", "onnx")
        for path in version.rglob(f"*.{ending}")
    )
    if not told and not names:
        return None
    if not isinstance(told, Mapping):
        return False, "the card says nothing of its LiteRT and ONNX files that can be read"
    expected: dict[str, int] = {}
    for form, row in told.items():
        if form == "bfloat16":
            continue
        if not isinstance(row, Mapping) or "bytes" not in row:
            return False, "the card says nothing of its LiteRT and ONNX files that can be read"
        expected[FILES.get(form, str(form))] = row["bytes"]
    if set(names) != expected.keys():
        return False, f"the LiteRT and ONNX files are {names}; the card has {sorted(expected)}"
    for name in names:
        exports.refuse_odd(version / name)
        size = (version / name).stat().st_size
        with open(version / name, "rb") as file:
            head = file.read(8)
        # ONNX begins with the field 1 of a protocol buffer, the version of its format.
        kind = head[:1] == b"\x08" if name.endswith(".onnx") else head[4:] == b"TFL3"
        if size != expected[name] or not kind:
            return False, f"{name} is not the file of {expected[name]} bytes of the card"
    if not names:
        return None
    return True, f"{', '.join(names)}, as the card says; not run"
