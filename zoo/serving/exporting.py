"""Export a model as a SavedModel that answers rightly, or with a clear error, whatever it is sent.

`zoo.exports` describes the files. TF Serving loads a version as soon as its number appears, checks
no shapes, and dies with a kernel that aborts. So a version is written in a hidden folder, run there
as the server will run it, and renamed. Every check of an input is an operation of the graph.
"""

import contextlib
import pathlib
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2

from zoo import exports, models
from zoo.exports import ExportError
from zoo.markup import python, shell
from zoo.models import pretrained
from zoo.precision import in_float32
from zoo.saving import shipped, supervised
from zoo.serving import (
    calibrating,
    card,
    example_requests,
    publishing,
    quantizing,
    signatures,
    verifying,
    warmup,
)
from zoo.serving.server_runtime import ServerRuntime

# The runtime fuses operations that Keras runs one by one, so float32 rounds otherwise. On AVX-512
# a probability differs by up to 1.5e-6 (benchmarks/serving.py), and 1e-6 refused a right export.
TOLERANCE = 1e-5


def export_savedmodel(
    model: keras.Model,
    labels: Sequence[str],
    directory: pathlib.Path | str,
    *,
    version: int | None = None,
    top_k: int = 5,
    exits: bool = False,
    images: np.ndarray | None = None,
    image_names: Sequence[str] | None = None,
    record: dict[str, Any] | None = None,
    keras_file: pathlib.Path | str | None = None,
    tolerance: float | None = None,
    max_batch: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    quantized: quantizing.Quantizing | None = None,
    progress: Callable[[str], object] | None = None,
) -> pathlib.Path:
    """Write `model` as a new version under `directory`, check it, and publish it by one rename.

    The signature `serving_default` takes `images`, (batch, h, w, c) float32 pixels in 0..255.
    `predict_bytes` takes `image_bytes`, (batch,) PNG or JPEG files, and resizes them to (h, w).
    Both return `probabilities` (batch, classes), and for the k = min(top_k, classes) most probable
    classes `class_ids`, `classes` (the labels) and `scores`, each (batch, k). `classify` takes
    `inputs`, (batch,) tf.Examples with a file as `image/encoded`, and returns `classes` and
    `scores`. All calculate in float32, also if the model does not: each processor rounds 16 bits in
    its own way, and some are slow with them.

    A model card lies beside the versions: README.md and card.json. It describes the newest version.

    Arguments:
        model: a built functional model, pixels in, logits out; or a `DeeplySupervised` or
            `Distiller` that trained one.
        labels: one name for each class, in the order of the logits.
        directory: the folder of the versions, such as saved_models/digits.
        version: a positive integer. Default: one more than the newest.
        exits: whether to add the signature `exits`. It takes `images`, and returns the
            probabilities of every depth of a `DeeplySupervised` by the names of its layers and
            "output".
        images: (n, h, w, c) uint8 examples. Default: two images of noise.
        image_names: the names of the examples' files, without `.png`.
        record: the facts of the training for the card, as `zoo.serving.card.record` reads them
            from a run. Files are resized as they were then; without a record they are stretched.
        keras_file: the `.keras` file of the model. It travels with the version, and
            `zoo.nin(weights=...)` reads it. Give the file with companions to keep their weights.
        tolerance: largest difference of a probability from Keras, in (0, 1). Default: 1e-5.
        max_batch: how many images a request may have, at least 32. Default: 256, or the power of
            two of which the images have 2^18 pixels together.
        calibration: the temperature that the logits are divided by, and how it was found, as
            `zoo.serving.calibrating.calibration` returns it; {"temperature": 2.4} is enough.
            Default: 1. Signatures answer with these probabilities; of `exits`, "output" does.
        quantized: the quantized forms to make, and the images to compare them on.
        progress: a function that gets a line of text at the begin of each step that takes seconds.

    Returns:
        The path of the version. Until it is complete, there is only a hidden folder `.export-*`.

    Raises:
        ExportError: if the model, the labels, the temperature or the version cannot be served; if a
            model in 16 bits cannot be made again in 32; under a Keras backend other than
            TensorFlow; if the written files do not answer as the model does; if a quantized form
            loses too much accuracy; if the newest version in `directory` has other labels, another
            image shape or other data. Nothing is written then.
        FileExistsError: if the version exists. Versions are never overwritten.
    """
    labels, base = list(labels), pathlib.Path(directory)
    say = progress or (lambda line: None)
    model, every_exit = _parts(model, exits)
    _check_model(model)
    _check_labels(labels, model.output_shape[-1], top_k)
    _check_version(base, version)
    trained_on = ((record or {}).get("recipe") or {}).get("fields", {}).get("data")
    publishing.refuse_another(base, labels, model.input_shape[1:], trained_on)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ExportError(f"Received tolerance={tolerance}; expected a number between 0 and 1.")
    max_batch = signatures.checked_max_batch(max_batch, model.input_shape[1:])
    temperature = calibrating.temperature_of(calibration)
    images, image_names = _check_images(model, images, image_names, max_batch)
    photograph, upright = example_requests.photograph(images[0])
    shown = np.concatenate([images, upright[np.newaxis]])
    probabilities, at_exits = _answers(model, every_exit, shown, keras_file, temperature)
    facts = card.facts(
        model,
        labels,
        record=record,
        weights=_factories(keras_file, shown, probabilities, temperature),
        top_k=min(top_k, len(labels)),
        exits=list(every_exit.output) if every_exit else [],
        tolerance=TOLERANCE if tolerance is None else tolerance,
        max_batch=max_batch,
    )
    if calibration:
        facts["calibration"] = dict(calibration)

    with publishing.hidden(base) as hidden:
        say("Tracing the signatures ...")
        draft = hidden / "draft"
        module, functions = signatures.module(
            model,
            labels,
            top_k,
            every_exit,
            max_batch=max_batch,
            resizing=card.resizing_of(record),
            temperature=temperature,
        )
        _save(module, functions, draft)
        _write_labels(draft, labels)
        folder = draft / exports.EXAMPLES
        example_requests.write(
            folder, images, image_names, probabilities, labels, top_k, at_exits, photograph
        )
        first = (folder / f"{image_names[0]}.png").read_bytes()
        warmup.write(draft, base.name, images[0], first, exits=every_exit is not None)
        if keras_file:
            shutil.copyfile(keras_file, draft / exports.MODEL)
        if quantized:
            say(f"Making and measuring {', '.join(quantized.forms)} ...")
            facts["quantized"] = quantizing.write(draft, model, quantized, temperature)
        facts["fingerprint"] = card.fingerprint(draft)
        (draft / exports.CARD).write_text(card.as_json(facts), encoding="utf-8")
        exports.write_checksums(draft)
        say("Checking the answers as a server would ...")
        speed = _check_answers(draft, images)
        return publishing.publish(draft, base, version, speed)


def _write_labels(draft, labels):
    (draft / exports.LABELS).parent.mkdir()
    text = "".join(f"{label}\n" for label in labels)
    (draft / exports.LABELS).write_text(text, encoding="utf-8")


def _save(module, functions, draft):
    """Write the SavedModel, named by its content.

    The functions are traced even where TensorFlow would run them eagerly. Then the operations that
    save the weights would lie in the graph itself, where `zoo.programs` refuses them.
    """
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        tf.saved_model.save(module, draft, signatures=functions)
    finally:
        tf.config.run_functions_eagerly(eagerly)
    _name_by_content(draft)


def _name_by_content(draft):
    """Name the SavedModel by its hashes. With the random name, no two exports would be equal."""
    file = draft / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
    fingerprint.ClearField("uuid")
    content = fingerprint.SerializeToString(deterministic=True).hex()
    fingerprint.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, content).int)
    file.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _check_answers(draft, images):
    """Check that the draft answers as the model does; return {batch size: seconds for a batch}."""
    checks, speed = [verifying.graph(draft)], {}
    if checks[0].passed:
        with ServerRuntime(draft) as server:
            checks += verifying.answers(server, draft)
            if all(check.passed for check in checks):
                speed = {batch: verifying.seconds(server, images, batch) for batch in (1, 32)}
    for check in checks:
        if not check.passed:
            hint = ""
            if "largest difference" in check.found:
                hint = " If it is rounding, give a larger tolerance."
            raise ExportError(f"The export failed the check {check.name!r}: {check.found}.{hint}")
    return speed


def _parts(model, exits):
    """Return (the model that ships, a model to {depth: logits} or None), both in float32."""
    within = supervised(model)
    if not exits:
        return in_float32(shipped(model)), None
    if not (within and within.companions):
        raise ExportError(
            f"Received exits=True and {model!r}; expected a DeeplySupervised with companions. They "
            "are the classifiers of the other depths."
        )
    within = in_float32(within)
    return within.trunk, within.exits_model()


def _check_model(model):
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"The Keras backend is {backend}; expected tensorflow, since a server has XLA off. "
            "Save the model and export it under KERAS_BACKEND=tensorflow."
        )
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    one = inputs and len(inputs) == 1 and len(outputs) == 1
    if not one or isinstance(model.compute_output_shape(inputs[0].shape), (dict, list)):
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
    half = [
        layer.name
        for layer in model.layers
        if layer.compute_dtype in ("bfloat16", "float16")
        # It calculates nothing, and always has the policy of the moment.
        and not isinstance(layer, keras.layers.InputLayer)
    ]
    if half:
        raise ExportError(
            f"The layers {', '.join(half)} calculate in 16 bits, and the model cannot be made "
            "again in float32. Every layer needs a get_config, and none may be a Lambda."
        )
    if len(outputs[0].shape) != 2 or outputs[0].shape[-1] is None:
        raise ExportError(
            f"The model gives {outputs[0].shape}; expected logits, (None, classes). End it with a "
            "pooling or Flatten layer and a Dense layer."
        )


def _check_labels(labels, classes, top_k):
    if len(labels) != classes:
        raise ExportError(f"Received {len(labels)} labels; expected {classes}, one for each class.")
    for label in labels:
        if not isinstance(label, str) or label.splitlines() != [label]:
            raise ExportError(f"Received the label {label!r}; expected one line of text.")
    if len(set(labels)) < classes:
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        raise ExportError(
            f"Received the labels {repeated} more than once; give each class its own."
        )
    if top_k < 1:
        raise ExportError(f"Received top_k={top_k}; expected 1 or more.")


def _check_version(base, version):
    if base.name.isdecimal():
        raise ExportError(
            f"Received the directory {base}, which is a version; expected the folder of the "
            f"versions, {base.parent}. {publishing.VERSION_CHOICE}"
        )
    if version is None:
        return
    if not isinstance(version, int) or not 0 < version < 2**63:  # a server ignores others
        raise ExportError(f"Received version={version!r}; expected a positive integer below 2^63.")
    if version in exports.versions(base):
        raise FileExistsError(
            f"{base / str(version)} exists, and a server may be reading it. "
            f"{publishing.VERSION_CHOICE}"
        )


def _check_images(model, images, names, max_batch):
    shape = model.input_shape[1:]
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (2, *shape), "uint8")
        names = ["noise_0", "noise_1"]
    images = np.asarray(images)
    if not len(images) or images.dtype != "uint8" or images.shape[1:] != shape:
        raise ExportError(
            f"Received example images {images.dtype} {images.shape}; expected uint8 "
            f"{('n', *shape)} with n >= 1."
        )
    if len(images) >= max_batch:  # a photograph is added
        raise ExportError(
            f"Received {len(images)} example images; a request may have {max_batch}, with one "
            "photograph more. Give fewer examples, or a larger max_batch."
        )
    if not names or len(set(names)) < len(images):
        names = [f"{index:02d}" for index in range(len(images))]
    return images, names


def _answers(model, every_exit, images, keras_file=None, temperature=1.0):
    """Return Keras' probabilities for the examples, and those of every exit."""
    images = images.astype("float32")
    with tf.device("CPU"):
        logits = tf.cast(model(images, training=False), "float32").numpy()
        exits = every_exit and every_exit(images, training=False)
    if not np.isfinite(logits).all():
        raise ExportError(
            "The model gives NaN or infinity for the examples. Did its training diverge?"
        )
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-2):
        raise ExportError(_probabilities_told(model, keras_file))
    probabilities = verifying.softmax(logits, temperature)
    exits = exits and {
        depth: verifying.softmax(scores, temperature if depth == "output" else 1)
        for depth, scores in exits.items()
    }
    return probabilities, exits


def _probabilities_told(model, keras_file):
    """Return the error for a model with a softmax, and the line that takes it out."""
    file = pathlib.Path(keras_file or "model.keras")
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax) or last.get_config().get("activation") is None:
        without = "m = keras.Model(m.input, m.layers[-1].input)"
    else:
        without = "m.layers[-1].activation = keras.activations.linear"
    logits = file.with_name(f"{file.stem}_logits.keras")
    program = (
        f"import zoo, keras; m = keras.models.load_model({python(str(file))}, compile=False); "
        f"{without}; m.save({python(str(logits))})"
    )
    return (
        "The model gives probabilities; expected logits, since the export adds a softmax. Make a "
        f"file without the softmax, and export that: {shell('python', '-c', program)}"
    )


def _factories(keras_file, images, probabilities, temperature):
    """Return which of "nin" and "nin_dsn" take the weights of the file without further arguments.

    Raises:
        ExportError: if the file does not answer as the model that is exported.
    """
    if keras_file is None:
        return []
    model = keras.models.load_model(keras_file, compile=False)
    of_file, _ = _answers(_parts(model, exits=False)[0], None, images, temperature=temperature)
    if of_file.shape != probabilities.shape or abs(of_file - probabilities).max() > TOLERANCE:
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
