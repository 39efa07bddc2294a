"""Export a model as a SavedModel that answers rightly, or with a clear error, whatever it is sent.

    saved_models/NAME/VERSION/{saved_model.pb, variables/, assets.extra/labels.txt, SHA256SUMS}

TF Serving loads a version as soon as its number appears, checks no shapes, and dies with a kernel
that aborts. So a version is written in a hidden folder, run there as the server will run it, and
renamed; and every check of an input is an operation of the graph.
"""

import hashlib
import os
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from zoo import _c_api

LABELS = "assets.extra/labels.txt"
CHECKSUMS = "SHA256SUMS"
MAX_BYTES = 16 * 2**20
MAX_PIXELS = 4096 * 4096
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
JPEG_START = b"\xff\xd8\xff"


class ExportError(ValueError):
    """A model that cannot be served, or an export that is not what was exported."""


def export_savedmodel(model, labels, directory, *, version=None, top_k=5):
    """Write `model` as a new version under `directory`, checked, and published by one rename.

    The signature `serving_default` takes `images`, (batch, h, w, c) float32 pixels in 0..255;
    `predict_bytes` takes `image_bytes`, (batch,) PNG or JPEG files, and resizes them to (h, w).
    Both give `probabilities` (batch, classes), and `class_ids`, `classes` (the labels) and
    `scores`, each (batch, k), of the k = min(top_k, classes) likeliest classes.

    Arguments:
        model: a built functional model, pixels in, logits out; or anything with such a `trunk`.
        labels: one name a class, in the order of the logits.
        directory: of the model, such as saved_models/digits; it holds the versions.
        version: a positive integer; one more than the newest by default.

    Returns:
        The path of the version. Until it is complete, only a hidden `.export-*` is there.

    Raises:
        ExportError: for a model, labels or a version that cannot be served, under a Keras backend
            other than TensorFlow, or when the written files do not answer as the model does.
        FileExistsError: for a version that exists; versions are never overwritten.
    """
    model, labels, base = getattr(model, "trunk", model), list(labels), pathlib.Path(directory)
    _check_model(model)
    _check_labels(labels, model.output_shape[-1], top_k)
    _check_version(base, version)
    images, logits = _examples(model)

    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=base) as hidden:
        draft = pathlib.Path(hidden, "draft")
        tf.saved_model.save(module, draft, signatures=_signatures(model, labels, top_k))
        (draft / LABELS).parent.mkdir()
        (draft / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        _check_answers(draft, model, images, logits)
        sums = "".join(f"{digest}  {name}\n" for name, digest in _checksums(draft).items())
        (draft / CHECKSUMS).write_text(sums)
        return _publish(draft, base, version)


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
        path = _find_version(pathlib.Path(directory).resolve())
        _verify_checksums(path)
        # Kept, because the signatures alone do not keep its variables alive.
        self._loaded = tf.saved_model.load(path)
        images = self._loaded.signatures["serving_default"].structured_input_signature[1]["images"]
        self.image_shape = tuple(images.shape[1:])
        self.labels = (path / LABELS).read_text(encoding="utf-8").splitlines()
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
            # The reason is the line before the one that names the node.
            reason = error.message.partition("\n\t [[")[0].splitlines()[-1]
            raise ValueError(f"{signature} refuses its input: {reason}") from error
        outputs = {name: output.numpy() for name, output in outputs.items()}
        return {**outputs, "classes": np.char.decode(outputs["classes"].astype(bytes), "utf-8")}


def run_as_a_server(directory, requests, *, signature="serving_default", output="probabilities"):
    """What TF Serving's runtime answers to each request: an array, or the error as a string.

    A child process loads the version `directory` through TensorFlow's C API, on the CPU, with XLA
    off; half a second. Nothing but the graph checks a request, an array of any shape and type;
    images in bytes are an array of `np.void`.

    Raises:
        RuntimeError: when the version does not load, or a request ends the process, as it would
            end the server.
    """
    graph = pathlib.Path(directory, "saved_model.pb").read_bytes()
    signatures = saved_model_pb2.SavedModel.FromString(graph).meta_graphs[0].signature_def
    (feed,) = signatures[signature].inputs.values()
    fetch = signatures[signature].outputs[output]
    return _c_api.ask(tf.sysconfig.get_lib(), str(directory), feed.name, fetch.name, requests)


def verify_as_a_server(directory, images, expected, *, signature="serving_default", tolerance=1e-5):
    """The probabilities that `run_as_a_server` gives for `images`, compared with the expected ones.

    Raises:
        ExportError: for an error, or a probability further off than `tolerance`.
    """
    (answer,) = run_as_a_server(directory, [images], signature=signature)
    if isinstance(answer, str):
        raise ExportError(f"{signature} of {directory} fails where the model answers:\n{answer}")
    difference = np.abs(answer - expected).max()
    if not difference <= tolerance:
        raise ExportError(
            f"{signature} of {directory} differs from the model by {difference:.2g} in a "
            f"probability; at most {tolerance:.2g} was expected."
        )
    return answer


def _check_model(model):
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"The Keras backend is {backend}; expected tensorflow, since the server has XLA off. "
            "Save the model and export it under KERAS_BACKEND=tensorflow."
        )
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or len(inputs) != 1 or len(outputs) != 1:
        raise ExportError(
            f"Received {model!r}; expected a built functional model of one input and one output. "
            "Build it, or make one: keras.Model(images, logits)."
        )
    _, *image = inputs[0].shape
    if len(image) != 3 or None in image or image[-1] not in (1, 3):
        raise ExportError(
            f"The model takes images {inputs[0].shape}; expected (None, height, width, channels) "
            "with fixed sizes and 1 or 3 channels. Build it with an input_shape."
        )
    if len(outputs[0].shape) != 2 or outputs[0].shape[-1] is None:
        raise ExportError(
            f"The model gives {outputs[0].shape}; expected logits, (None, classes). Pool or "
            "flatten what is left of the image."
        )


def _check_labels(labels, classes, top_k):
    if len(labels) != classes:
        raise ExportError(f"Received {len(labels)} labels; expected {classes}, one for each class.")
    for label in labels:
        if not isinstance(label, str) or label.splitlines() != [label]:
            raise ExportError(f"Received the label {label!r}; expected one line of text.")
    if len(set(labels)) < classes:
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise ExportError(f"Received the labels {twice} more than once; give each class its own.")
    if top_k < 1:
        raise ExportError(f"Received top_k={top_k}; expected 1 or more.")


def _check_version(base, version):
    if base.name.isdecimal():
        raise ExportError(
            f"Received the directory {base}; expected that of the versions, {base.parent}, with "
            f"version={base.name} or none."
        )
    if version is None:
        return
    if not isinstance(version, int) or version < 1:
        raise ExportError(f"Received version={version!r}; expected a positive integer.")
    if version in _versions(base):
        raise FileExistsError(
            f"{base / str(version)} exists, and a server may be reading it. Leave version out to "
            "write the next one."
        )


def _examples(model):
    """Two images of noise, and the model's logits for them."""
    images = np.random.default_rng(0).integers(0, 256, (2, *model.input_shape[1:]), "uint8")
    # Like the check: a GPU multiplies in TensorFloat-32, right to three digits.
    with tf.device("CPU"):
        logits = tf.cast(model(images.astype("float32"), training=False), "float32").numpy()
    if not np.isfinite(logits).all():
        raise ExportError("The model gives NaN or infinity for an image of noise. Did it diverge?")
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-2):
        raise ExportError(
            "The model gives probabilities; expected logits, to which the export adds the softmax. "
            "Export the model that ends before its own."
        )
    return images, logits


def _check_answers(draft, model, images, logits):
    # Rounding moves a logit by so much of its size, and a probability by no more than its logit.
    exact = all(layer.compute_dtype == "float32" for layer in [model, *model.layers])
    tolerance = (1e-5 if exact else 1e-2) * max(1, np.abs(logits).max())
    expected = tf.nn.softmax(logits).numpy()
    verify_as_a_server(draft, images.astype("float32"), expected, tolerance=tolerance)
    png = np.array([np.void(tf.io.encode_png(images[0]).numpy())])
    verify_as_a_server(draft, png, expected[:1], signature="predict_bytes", tolerance=tolerance)


def _signatures(model, labels, top_k):
    height, width, channels = model.input_shape[1:]
    images_spec = tf.TensorSpec((None, height, width, channels), tf.float32, "images")

    def answer(images):
        images = _refuse_unless(tf.shape(images)[0] > 0, "the batch is empty", images)
        images = tf.debugging.check_numerics(images, "the images hold NaN or infinity")
        logits = tf.cast(model(images, training=False), tf.float32)
        logits = tf.debugging.check_numerics(logits, "the model overflows on these images")
        probabilities = tf.nn.softmax(logits)
        scores, ids = tf.math.top_k(probabilities, min(top_k, len(labels)))
        # Every output starts with the batch, without which a server neither batches nor answers
        # by rows.
        return {
            "probabilities": probabilities,
            "class_ids": ids,
            "classes": tf.gather(tf.constant(labels), ids),
            "scores": scores,
        }

    @tf.function(input_signature=[images_spec])
    def serving_default(images):
        # A server does not check the input signature. Convolutions abort on another rank, and
        # give a plausible answer for another size.
        return answer(tf.ensure_shape(images, images_spec.shape))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def predict_bytes(image_bytes):
        def decode(encoded):
            pixels = _decode(encoded, channels)
            return tf.image.resize(pixels, (height, width), "bilinear", antialias=True)

        image_bytes = tf.ensure_shape(image_bytes, [None])
        image = tf.TensorSpec(images_spec.shape[1:], tf.float32)
        # Of the images in the making, each may hold 50 MB of pixels.
        images = tf.map_fn(decode, image_bytes, parallel_iterations=4, fn_output_signature=image)
        return answer(images)

    return {"serving_default": serving_default, "predict_bytes": predict_bytes}


def _decode(encoded, channels):
    """A PNG or JPEG file -> (height, width, channels) uint8.

    A megabyte can declare a gigabyte of pixels, so the size is read first, from the header.
    """
    small = tf.strings.length(encoded) <= MAX_BYTES
    encoded = _refuse_unless(small, f"an image of more than {MAX_BYTES} bytes", encoded)
    header = len(PNG_START) + 8
    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
    is_png &= tf.strings.length(encoded) >= header
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START
    encoded = _refuse_unless(is_png | is_jpeg, "not a PNG or JPEG image", encoded)

    def png_size():
        size = tf.strings.substr(encoded, len(PNG_START), 8)
        return tf.io.decode_raw(size, tf.int32, little_endian=False)

    size = tf.cond(is_png, png_size, lambda: tf.image.extract_jpeg_shape(encoded)[:2])
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    small = tf.reduce_all(size > 0) & (pixels <= MAX_PIXELS)
    encoded = _refuse_unless(small, f"an image of 0 or more than {MAX_PIXELS} pixels", encoded)
    # It decodes PNG as well. The default, a faster DCT, is up to three grey levels off.
    return tf.io.decode_jpeg(encoded, channels=channels, dct_method="INTEGER_ACCURATE")


def _refuse_unless(condition, message, value):
    """`value`, which nothing sees before the condition is known to hold."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def _checksums(directory):
    """The SHA-256 of every file but SHA256SUMS, by its path below `directory`."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(directory).as_posix()] = digest
    return digests


def _verify_checksums(directory):
    if not (directory / CHECKSUMS).is_file():
        raise ExportError(f"{directory} has no {CHECKSUMS}; export_savedmodel writes one.")
    lines = (directory / CHECKSUMS).read_text().splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _checksums(directory)
    wrong = sorted(name for name in listed | found if listed.get(name) != found.get(name))
    if wrong:
        raise ExportError(
            f"Changed, missing or added in {directory} since its export: {', '.join(wrong)}. "
            "Nothing was loaded; copy or export it again."
        )


def _versions(base):
    """The versions in `base`, as TF Serving finds them: {number: path}."""
    paths = base.iterdir() if base.is_dir() else []
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def _find_version(directory):
    if (directory / "saved_model.pb").is_file():
        return directory
    versions = _versions(directory)
    if not versions:
        raise FileNotFoundError(
            f"{directory} is neither an export nor a folder of numbered exports; "
            "export_savedmodel writes them."
        )
    return versions[max(versions)]


def _publish(draft, base, version):
    for path in [*draft.rglob("*"), draft]:
        _sync(path)
    target = base / str(version or max(_versions(base), default=0) + 1)
    # A rename fails over a version that appeared meanwhile, but not over an empty folder.
    if target.exists():
        raise FileExistsError(f"{target} appeared during the export and was left as it is.")
    draft.rename(target)
    _sync(base)
    return target


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
