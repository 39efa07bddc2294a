"""Export a model as a SavedModel that answers rightly, or with a clear error, whatever it is sent.

    saved_models/NAME/{README.md, card.json, labels.txt, examples/, VERSION/}
    VERSION/{saved_model.pb, variables/, assets.extra/, SHA256SUMS}

TF Serving loads a version as soon as its number appears, checks no shapes, and dies with a kernel
that aborts. So a version is written in a hidden folder, run there as the server will run it, and
renamed; and every check of an input is an operation of the graph.
"""

import contextlib
import pathlib
import shutil
import tempfile
import uuid

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2

from zoo import exports, files, models
from zoo.exports import ExportError
from zoo.models import pretrained
from zoo.precision import in_float32
from zoo.saving import shipped, supervised
from zoo.serving import card, examples, signatures, verifying, warmup
from zoo.serving.asked import Asked

# The runtime fuses operations that Keras runs one by one, and float32 rounds otherwise: on AVX-512
# by up to 1.5e-6 of a probability (benchmarks/serving.py), where 1e-6 refused a right export.
TOLERANCE = 1e-5


def export_savedmodel(
    model,
    labels,
    directory,
    *,
    version=None,
    top_k=5,
    exits=False,
    images=None,
    image_names=None,
    record=None,
    keras_file=None,
    tolerance=None,
):
    """Write `model` as a new version under `directory`, checked, and published by one rename.

    The signature `serving_default` takes `images`, (batch, h, w, c) float32 pixels in 0..255;
    `predict_bytes` takes `image_bytes`, (batch,) PNG or JPEG files, and resizes them to (h, w).
    Both give `probabilities` (batch, classes), and `class_ids`, `classes` (the labels) and
    `scores`, each (batch, k), of the k = min(top_k, classes) likeliest classes. `classify` takes
    `inputs`, tf.Examples with such a file as `image/encoded`, and gives `classes` and `scores`.
    They calculate in float32, also where the model does not, since processors round 16 bits each
    in its own way and some are slow with them.

    Beside the versions are a model card (README.md and card.json), labels.txt, and examples:
    requests and Keras' answers. They are those of the newest version.

    Arguments:
        model: a built functional model, pixels in, logits out; or anything with such a `trunk`, or
            a `student`.
        labels: one name a class, in the order of the logits.
        directory: of the model, such as saved_models/digits; it holds the versions.
        version: a positive integer; one more than the newest by default.
        exits: whether to add the signature `exits`: `images` to the probabilities of every depth
            of a `DeeplySupervised`, by the names of its layers and "output".
        images: (n, h, w, c) uint8, the examples; by default two of noise. `image_names` name their
            files.
        record: what the card tells of the training, as `zoo.serving.card.record` reads it from a
            run.
        keras_file: the `.keras` file of the model, to travel with the version: what
            `zoo.nin(weights=...)` reads. For the weights of companions, the one that has them.
        tolerance: how far a probability may be off Keras'; 1e-5 by default.

    Returns:
        The path of the version. Until it is complete, only a hidden `.export-*` is there.

    Raises:
        ExportError: for a model, labels or a version that cannot be served, a model in 16 bits that
            cannot be made again in 32, under a Keras backend other than TensorFlow, or when the
            written files do not answer as the model does.
        FileExistsError: for a version that exists; versions are never overwritten.
    """
    labels, base = list(labels), pathlib.Path(directory)
    model, every_exit = _parts(model, exits)
    _check_model(model)
    _check_labels(labels, model.output_shape[-1], top_k)
    _check_version(base, version)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ExportError(f"Received tolerance={tolerance}; expected it between 0 and 1, as 1e-5.")
    images, image_names = _check_images(model, images, image_names)
    probabilities, at_exits = _answers(model, every_exit, images)
    facts = card.facts(
        model,
        labels,
        record=record,
        weights=_factories(keras_file, images, probabilities),
        top_k=min(top_k, len(labels)),
        exits=list(every_exit.output) if every_exit else [],
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )

    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=base) as hidden:
        draft = pathlib.Path(hidden, "draft")
        module, functions = signatures.module(model, labels, top_k, every_exit)
        tf.saved_model.save(module, draft, signatures=functions)
        _name_by_content(draft)
        (draft / exports.LABELS).parent.mkdir()
        text = "".join(f"{label}\n" for label in labels)
        (draft / exports.LABELS).write_text(text, encoding="utf-8")
        folder = draft / exports.EXAMPLES
        examples.write(folder, images, image_names, probabilities, labels, top_k, at_exits)
        first = (folder / f"{image_names[0]}.png").read_bytes()
        warmup.write(draft, base.name, images[0], first, exits=every_exit is not None)
        if keras_file:
            shutil.copyfile(keras_file, draft / exports.MODEL)
        facts["fingerprint"] = card.fingerprint(draft)
        (draft / exports.CARD).write_text(card.as_json(facts), encoding="utf-8")
        exports.write_checksums(draft)
        speed = _check_answers(draft, images)
        path = _publish(draft, base, version)
    if int(path.name) == max(exports.versions(base)):
        _describe(path, speed)
    return path


def _name_by_content(draft):
    """Give the SavedModel an identifier of its hashes; at random, no two exports would be equal."""
    file = draft / "fingerprint.pb"
    found = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
    found.ClearField("uuid")
    content = found.SerializeToString(deterministic=True).hex()
    found.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, content).int)
    file.write_bytes(found.SerializeToString(deterministic=True))


def _check_answers(draft, images):
    """Seconds that the draft, found to answer as the model does, takes for a batch: {size: s}."""
    checks = [verifying.graph(draft)]
    with Asked(draft) as asked:
        if checks[0].passed:
            checks += verifying.answers(asked, draft)
        for check in checks:
            if not check.passed:
                hint = (
                    " If it is rounding, give a larger tolerance."
                    if "off by" in check.found
                    else ""
                )
                raise ExportError(f"The export does not hold; {check.name}: {check.found}.{hint}")
        return {batch: verifying.seconds(asked, images, batch) for batch in (1, 32)}


def _describe(version, speed):
    """Write the card, the labels and the examples of a version beside it, in `version.parent`."""
    base = version.parent
    with tempfile.TemporaryDirectory(prefix=".export-", dir=base) as hidden:
        copied = shutil.copytree(version / exports.EXAMPLES, pathlib.Path(hidden, "examples"))
        if (base / "examples").exists():
            (base / "examples").rename(pathlib.Path(hidden, "before"))
        copied.rename(base / "examples")
    files.write(base / "labels.txt", (version / exports.LABELS).read_bytes())
    told = card.of_version(version, exports.card(version), speed)
    files.write(base / "card.json", card.as_json(told))
    files.write(base / "README.md", card.page(base, told))


def _parts(model, exits):
    """(what ships of a model, {depth: logits} as a model or None), both in float32"""
    within = supervised(model)
    if not exits:
        return in_float32(shipped(model)), None
    if not (within and within.companions):
        raise ExportError(
            f"Received exits=True and {model!r}; expected a DeeplySupervised with companions, the "
            "classifiers of the other depths."
        )
    within = in_float32(within)
    return within.trunk, signatures.exits_of(within)


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
    half = [each.name for each in model.layers if each.compute_dtype in ("bfloat16", "float16")]
    if half:
        raise ExportError(
            f"The layers {', '.join(half)} calculate in 16 bits, and the model cannot be made "
            "again in float32; expected layers with a get_config, and none of them a Lambda."
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
    if not isinstance(version, int) or not 0 < version < 2**63:  # a server passes over others
        raise ExportError(f"Received version={version!r}; expected a positive integer below 2^63.")
    if version in exports.versions(base):
        raise FileExistsError(
            f"{base / str(version)} exists, and a server may be reading it. Leave version out to "
            "write the next one."
        )


def _check_images(model, images, names):
    shape = model.input_shape[1:]
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (2, *shape), "uint8")
        names = ["noise_0", "noise_1"]
    images = np.asarray(images)
    if not len(images) or images.dtype != "uint8" or images.shape[1:] != shape:
        raise ExportError(
            f"Received example images {images.dtype} {images.shape}; expected uint8 of "
            f"{('n', *shape)}, n of 1 or more."
        )
    if not names or len(set(names)) < len(images):
        names = [f"{index:02d}" for index in range(len(images))]
    return images, names


def _answers(model, every_exit, images):
    """Keras' probabilities for the examples, and those of every exit."""
    images = images.astype("float32")
    with tf.device("CPU"):
        logits = tf.cast(model(images, training=False), "float32").numpy()
        exits = every_exit and every_exit(images, training=False)
    if not np.isfinite(logits).all():
        raise ExportError("The model gives NaN or infinity for the examples. Did it diverge?")
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-2):
        raise ExportError(
            "The model gives probabilities; expected logits, to which the export adds the softmax. "
            "Export the model that ends before its own."
        )
    exits = exits and {depth: verifying.softmax(scores) for depth, scores in exits.items()}
    return verifying.softmax(logits), exits


def _factories(keras_file, images, probabilities):
    """Try which of `nin` and `nin_dsn` take the weights of the file by its name alone.

    Raises:
        ExportError: for a file that does not answer as the model that is exported does.
    """
    if keras_file is None:
        return []
    model = keras.models.load_model(keras_file, compile=False)
    found, _ = _answers(_parts(model, exits=False)[0], None, images)
    if found.shape != probabilities.shape or abs(found - probabilities).max() > TOLERANCE:
        raise ExportError(
            f"Received keras_file={str(keras_file)!r}, which does not answer as the model does; "
            "expected the file of the same trained model."
        )
    trained, fitting = pretrained.Trained(model, {}, pathlib.Path(keras_file)), []
    for factory in (models.nin, models.nin_dsn):
        if factory is models.nin_dsn and trained.trunk is model:
            continue
        with contextlib.suppress(ValueError):
            factory(weights=trained)
            fitting.append(factory.__name__)
    return fitting


def _publish(draft, base, version):
    for path in [*draft.rglob("*"), draft]:
        files.flush(path)
    target = base / str(version or max(exports.versions(base), default=0) + 1)
    # A rename fails over a version that appeared meanwhile, but not over an empty folder.
    if target.exists():
        raise FileExistsError(f"{target} appeared during the export and was left as it is.")
    draft.rename(target)
    files.flush(base)
    return target
