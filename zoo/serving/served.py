"""Read exports: their versions, their checksums, and a model as a client of a server sees it.

saved_models/NAME/VERSION/{saved_model.pb, variables/, assets.extra/, SHA256SUMS}
"""

import json
import pathlib

import numpy as np
import tensorflow as tf

from zoo import answers, files

LABELS = "assets.extra/labels.txt"
CARD = "assets.extra/card.json"
EXAMPLES = "assets.extra/examples"


class ExportError(ValueError):
    """A model that cannot be served, or an export that is not what was exported."""


class ServedModel:
    """An export as a client of the server sees it: its signatures, and no Keras.

    `directory` is a version, or the folder of the versions, of which the newest is taken. Every
    file is compared with its checksum before one is parsed. `labels` are in the order of the
    classes, `image_shape` is (h, w, c), `version` an integer, or None in a renamed folder.

    Raises:
        FileNotFoundError: where there is no export.
        ExportError: for a changed, missing or added file.
    """

    def __init__(self, directory):
        path = find_version(directory)
        verify_checksums(path)
        # Kept, because the signatures alone do not keep its variables alive.
        self._loaded = tf.saved_model.load(path)
        images = self._loaded.signatures["serving_default"].structured_input_signature[1]["images"]
        self.image_shape = tuple(images.shape[1:])
        self.labels = labels(path)
        self.version = int(path.name) if path.name.isdecimal() else None

    def predict(self, images):
        """Pixels in 0..255, (batch, h, w, c) -> the outputs by name, as NumPy arrays.

        Raises ValueError for another shape, an empty batch, NaN or infinity.
        """
        images = np.asarray(images, "float32")
        if images.shape[1:] != self.image_shape:
            expected = ("batch", *self.image_shape)
            raise ValueError(f"Received images of shape {images.shape}; expected {expected}.")
        return self._answer("serving_default", images=tf.constant(images))

    def predict_bytes(self, encoded):
        """The bytes of PNG or JPEG files, a list -> the same as `predict`.

        Raises ValueError for an empty list, or if one is no such image, damaged or too large.
        """
        if isinstance(encoded, bytes):
            raise ValueError("Received the bytes of one image; expected a list of them: [image].")
        return self._answer("predict_bytes", image_bytes=tf.constant(list(encoded), tf.string))

    def _answer(self, signature, **inputs):
        try:
            outputs = self._loaded.signatures[signature](**inputs)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{signature} refuses its input: {answers.reason(error.message)}"
            ) from error
        outputs = {name: output.numpy() for name, output in outputs.items()}
        return {**outputs, "classes": np.char.decode(outputs["classes"].astype(bytes), "utf-8")}


def labels(version):
    """The label names of a version, in the order of the classes."""
    return (version / LABELS).read_text(encoding="utf-8").splitlines()


def card(version):
    """What a version says of itself, a dictionary; `zoo.serving.card` makes it."""
    return json.loads((version / CARD).read_text(encoding="utf-8"))


def versions(base):
    """The versions in `base`, as TF Serving finds them: {number: path}."""
    paths = base.iterdir() if base.is_dir() else []
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def find_version(directory):
    """The newest version in `directory`, or `directory` if it is one; raises FileNotFoundError."""
    directory = pathlib.Path(directory).resolve()
    if (directory / "saved_model.pb").is_file():
        return directory
    found = versions(directory)
    if not found:
        raise FileNotFoundError(
            f"{directory} is neither an export nor a folder of numbered exports; "
            "export_savedmodel writes them."
        )
    return found[max(found)]


def checksums(directory):
    """The SHA-256 of every file but SHA256SUMS, by its path below `directory`."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {
        path.relative_to(directory).as_posix(): files.sha256(path)
        for path in found
        if path != directory / files.CHECKSUMS
    }


def write_checksums(directory):
    """Write SHA256SUMS, which `sha256sum -c` reads."""
    lines = (f"{digest}  {name}\n" for name, digest in checksums(directory).items())
    (directory / files.CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(directory):
    """The number of files, all as they were exported; raises ExportError."""
    if not (directory / files.CHECKSUMS).is_file():
        raise ExportError(f"{directory} has no {files.CHECKSUMS}; export_savedmodel writes one.")
    listed = files.listed_checksums(directory)
    found = checksums(directory)
    wrong = sorted(name for name in listed | found if listed.get(name) != found.get(name))
    if wrong:
        raise ExportError(
            f"Changed, missing or added in {directory} since its export: {', '.join(wrong)}. "
            "Nothing was loaded; copy or export it again."
        )
    return len(found)
