"""Prove an export without a server: load it as TF Serving does, and ask it everything.

The checks run from the folder alone, in the order of the table that `zoo verify` prints. Until the
checksums agree and the graph is known, nothing is loaded.
"""

import itertools
import json
import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from zoo import exports, measures
from zoo.exports import ExportError
from zoo.precision import in_float32
from zoo.saving import shipped, supervised
from zoo.serving import examples, hostile, signatures, warmup
from zoo.serving._c_api import Stopped
from zoo.serving.asked import Asked, body_of, feeds_of, read_graph

# TensorFlow's own, but not what a classifier does: Python, files, and XLA, which a server has off.
REFUSED = ("PyFunc", "Xla", "ReadFile", "WriteFile", "Print", "PyCall")
# Of the largest files, and what the allocator keeps of them; 48 to 110 MB were measured.
MEMORY = 256 * 2**20
_INTERNAL = {"_Arg", "_Retval"}
_CLEAR = (
    *("not compatible with expected shape", "Expects arg[0] to be float", "the batch is empty"),
    *("Expects arg[0] to be string", "the images hold NaN or infinity", "Could not parse example"),
    *("image/encoded", "not a PNG or JPEG image", "an image of", "Invalid PNG", "Invalid JPEG"),
)


@dataclass(frozen=True)
class Check:
    """One line of the table: what was looked at, whether it holds, and what was found."""

    name: str
    passed: bool
    found: str


def verify(directory, *, model=None, tolerance=None, timeout=60):
    """A list of `Check`, of a version or of the newest in a folder; all passed means it can serve.

    Answers are compared with those that Keras gave at the export, and with `model`, a Keras model,
    if it is given: probabilities may differ by `tolerance`, by default what the card says. An
    answer that takes longer than `timeout` seconds counts as none.

    Raises:
        FileNotFoundError: where there is no export.
    """
    version = exports.find_version(directory)
    checks = [_check("checksums", _checksums, version)]
    if not checks[0].passed:
        return checks
    checks.append(graph(version))
    if not checks[1].passed:
        return checks
    with Asked(version, timeout=timeout) as asked:
        checks += [loads(asked), _check("card", _card, asked, version)]
        if not all(check.passed for check in checks):
            return checks
        checks += answers(asked, version, model=model, tolerance=tolerance)
        checks += _hostile(asked, version)
    if version.name.isdecimal() and (version.parent / "card.json").is_file():
        checks.append(beside(version))
    return checks


def graph(version):
    """Check the operations of the graph, without loading it."""
    return _check("graph", _graph, version)


def loads(asked):
    """Check that the server's runtime loads the version; later checks need it."""
    return _check("loads", _loads, asked)


def beside(version):
    """Check that card, labels and examples in the folder are those of its newest version."""
    return _check("beside it", _beside, version)


def answers(asked, version, *, model=None, tolerance=None):
    """Run the checks that compare right answers; `asked` is the version."""
    tolerance = exports.card(version)["tolerance"] if tolerance is None else tolerance
    labels = exports.labels(version)
    stored = examples.read(version / exports.EXAMPLES)
    checks = [
        _check(f"Keras, {each.name}", _example, asked, each, labels, tolerance) for each in stored
    ]
    if model is not None:
        model = in_float32(model)  # as the export does
        checks.append(_check("Keras, the model", _model, asked, model, tolerance))
    checks.append(_check("warm-up", _warm_up, asked, version))
    images = _pixels(stored)
    checks.append(_check("batches", _batches, asked, images, tolerance))
    checks.append(_check("PNG and JPEG", _decoding, asked, images.shape[1:], tolerance))
    return checks


def seconds(asked, images, batch, budget=0.3):
    """The shortest time in which `serving_default` answered a batch, in three tries to ten."""
    images = np.resize(images, (batch, *images.shape[1:])).astype("float32")
    times = []
    while len(times) < 3 or (len(times) < 10 and sum(times) < budget):
        begun = time.perf_counter()
        asked.answer("serving_default", {"images": images})
        times.append(time.perf_counter() - begun)
    return min(times)


def _check(name, function, *arguments):
    try:
        passed, found = function(*arguments)
    except (ExportError, Stopped, FileNotFoundError, ValueError, KeyError) as error:
        passed, found = False, " ".join(str(error).split())[:600]
    return Check(name, bool(passed), found)


def _checksums(version):
    return True, f"{exports.verify_checksums(version)} files as they were exported"


def _graph(version):
    read = read_graph(version)
    functions = read.graph_def.library.function
    nodes = [*read.graph_def.node, *itertools.chain(*(each.node_def for each in functions))]
    operations = {node.op for node in nodes} - {each.signature.name for each in functions}
    custom = [op for op in operations - _INTERNAL if not hasattr(tf.raw_ops, op)]
    wrong = [op for op in operations if any(word in op for word in REFUSED)]
    wrong += [key for each in functions for key in each.attr if "XlaMustCompile" in key]
    half = [
        f"{name}/{output}"
        for name, signature in read.signature_def.items()
        for output, tensor in signature.outputs.items()
        if not name.startswith("__") and tf.as_dtype(tensor.dtype).name in ("bfloat16", "float16")
    ]
    if custom or wrong or half:
        named = ", ".join(sorted({*custom, *wrong, *half}))
        return False, f"a server without flags cannot run or write {named}"
    return True, f"{len(nodes)} nodes of {len(operations)} operations, all of TensorFlow's own"


def _loads(asked):
    begun = time.perf_counter()
    asked.runtime.ask({}, [])
    seconds = time.perf_counter() - begun
    return True, f"through the C API, on the CPU, XLA off, in {seconds:.1f} s"


def _card(asked, version):
    if not (version / exports.CARD).is_file():
        return False, f"there is no {exports.CARD}: an export of an older zoo; export it again"
    told, labels = exports.card(version), exports.labels(version)
    expected = {"serving_default", "predict_bytes", "classify"}
    if told["exits"]:
        expected.add("exits")
    if set(asked.signatures) != expected:
        return False, f"the signatures are {sorted(asked.signatures)}, not {sorted(expected)}"
    found = f"{len(labels)} labels, {len(expected)} signatures, tolerance {told['tolerance']:.0e}"
    return len(told["labels"]) == len(labels), found


def _example(asked, example, labels, tolerance):
    answer = asked.answer(example.signature, feeds_of(example))
    off = examples.difference(example, body_of(answer), labels)
    count = len(next(iter(answer.values())))
    return off <= tolerance, f"{count} images, off by {off:.1e} at most; {tolerance:.0e} allowed"


def _model(asked, model, tolerance):
    """Compare with the model itself: noise, black, white, and every exit."""
    trunk = shipped(model)
    shape = trunk.input_shape[1:]
    images = np.random.default_rng(2).integers(0, 256, (8, *shape)).astype("float32")
    images = np.concatenate([images, [np.zeros(shape, "float32"), np.full(shape, 255.0)]])
    images = images.astype("float32")
    answer = asked.answer("serving_default", {"images": images})
    off = [np.abs(answer["probabilities"] - probabilities(trunk, images)).max()]
    if "exits" in asked.signatures:
        if not (within := supervised(model)):
            return False, "the export has exits; the model has no companions"
        expected = signatures.exits_of(within)(images, training=False)
        depths = asked.answer("exits", {"images": images})
        for depth, logits in expected.items():
            off.append(np.abs(depths[depth] - softmax(logits)).max())
    return np.max(off) <= tolerance, f"{len(images)} images, off by {np.max(off):.1e} at most"


def probabilities(model, images):
    """Keras' own: float32 pixels (n, h, w, c) -> (n, classes)."""
    # Like the check: a GPU multiplies in TensorFloat-32, right to three digits.
    with tf.device("CPU"):
        return softmax(model(images, training=False))


def softmax(logits):
    """Logits (n, classes), a tensor of any type -> probabilities, float64 and in NumPy."""
    return measures.softmax(keras.ops.convert_to_numpy(keras.ops.cast(logits, "float32")))


def _warm_up(asked, version):
    requests = warmup.read(version)
    for signature, feeds in requests:
        answer = asked(signature, feeds)
        if isinstance(answer, str):
            return False, f"the server would not load it: {signature} refuses a record: {answer}"
    return 0 < len(requests) <= 1000, f"{len(requests)} requests replayed"


def _pixels(stored):
    """The images of the examples, (n, h, w, c) float32."""
    return next(feeds_of(e)["images"] for e in stored if e.signature == "serving_default")


def _batches(asked, images, tolerance):
    """An image has the same answer alone as among others, which a server batches."""
    images = np.resize(images, (max(3, len(images)), *images.shape[1:]))
    images = images + np.arange(len(images), dtype="float32")[:, None, None, None]
    together = asked.answer("serving_default", {"images": images})["probabilities"]
    alone = [asked.answer("serving_default", {"images": image[None]}) for image in images]
    off = np.abs(together - np.concatenate([answer["probabilities"] for answer in alone])).max()
    # Another batch is another order of sums; what depends on the others is off by a thousand times.
    return off <= 10 * tolerance, f"{len(images)} images alone and together, off by {off:.1e}"


def _decoding(asked, shape, tolerance):
    pairs = hostile.decoded_by_pillow(shape)
    off = []
    for file, pixels in pairs:
        decoded = asked.answer("serving_default", {"images": pixels[None].astype("float32")})
        encoded = asked.answer("predict_bytes", {"image_bytes": np.array([file], object)})
        off.append(np.abs(decoded["probabilities"] - encoded["probabilities"]).max())
    return np.max(
        off
    ) <= tolerance, f"{len(pairs)} files, off by {np.max(off):.1e} from Pillow's pixels"


def _hostile(asked, version):
    """The checks that send what must be refused, and then what must still be answered."""
    images = _pixels(examples.read(version / exports.EXAMPLES))
    shape = images.shape[1:]
    png, _ = hostile.decoded_by_pillow(shape)[0]
    try:
        before = asked.answer("serving_default", {"images": images})
    except (ExportError, Stopped) as error:
        return [Check("hostile inputs", False, f"not sent: {error}")]
    memory = asked.runtime.peak
    tensors = [(s, {asked.only_input(s): a}) for s, a in hostile.wrong_tensors(shape, png)]
    files = hostile.malformed_images(shape[-1]).values()
    requests = []
    for file in files:
        # The good image beside it must not be answered alone, nor hide the bad one.
        requests.append(("predict_bytes", {"image_bytes": np.array([png, file], object)}))
        serialized = [warmup.example(each).SerializeToString() for each in (file, png)]
        requests.append(("classify", {"inputs": np.array(serialized, object)}))
    return [
        refused("wrong shapes, ranks, types", asked, tensors),
        refused(f"{len(files)} malformed images", asked, requests),
        _check("after all that", _unharmed, asked, images, before, memory),
    ]


def refused(name, asked, requests):
    """The check of that name that every request, (signature, {input: array}), has an error.

    The error must say why, and none may end the process or hang.
    """
    return _check(name, _refused, asked, requests)


def _refused(asked, requests):
    aborts, hangs, answered, unclear, slowest = [], [], [], [], 0.0
    for signature, feeds in requests:
        begun = time.perf_counter()
        try:
            answer = asked(signature, feeds)
        except Stopped as stopped:
            (hangs if "no answer in" in str(stopped) else aborts).append(signature)
            continue
        slowest = max(slowest, time.perf_counter() - begun)
        if not isinstance(answer, str):
            answered.append(signature)
        elif not any(words in answer for words in _CLEAR):
            unclear.append(answer[:80])
    wrong = {"aborts": aborts, "hangs": hangs, "answered": answered, "unclear": unclear}
    counts = ", ".join(f"{len(some)} {what}" for what, some in wrong.items())
    first = next((f"; first: {some[0]}" for some in wrong.values() if some), "")
    passed = not any(wrong.values())
    return passed, f"{len(requests)} requests: {counts}; slowest {1000 * slowest:.0f} ms{first}"


def _unharmed(asked, images, before, memory):
    after = asked.answer("serving_default", {"images": images})
    same = all(np.array_equal(before[name], after[name]) for name in before)
    grown = asked.runtime.peak - memory
    answers = "the first answer again, to the bit" if same else "another answer than before"
    return same and grown < MEMORY, f"{answers}; {grown / 2**20:.0f} MB more memory at most"


def _beside(version):
    """Check that the files beside the versions are those of the newest version."""
    newest = max(exports.versions(version.parent))
    if newest != int(version.name):
        return True, f"not looked at: they are those of version {newest}"
    pairs = {"labels.txt": exports.LABELS, "examples": exports.EXAMPLES}
    for name, source in pairs.items():
        if _content(version.parent / name) != _content(version / source):
            return False, f"{version.parent / name} is not that of version {newest}"
    told = json.loads((version.parent / "card.json").read_text(encoding="utf-8"))["version"]
    return told == newest, f"card, labels and examples are those of version {told}"


def _content(path):
    if path.is_dir():
        return {each.name: each.read_bytes() for each in path.iterdir()}
    return path.read_bytes()
