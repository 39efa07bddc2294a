"""Check an export without a server: load it as TF Serving does, and send it requests.

The checks need the folder alone. They run in the order of the table that `zoo verify` prints.
Nothing is loaded until the checksums agree and the graph is known.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from zoo import exports, files, measures, programs
from zoo.errors import ZooError
from zoo.exports import ExportError
from zoo.precision import in_float32
from zoo.saving import shipped, supervised
from zoo.serving import calibrating, example_requests, hostile_inputs, quantizing, warmup
from zoo.serving._c_api import Stopped
from zoo.serving.server_runtime import Arrays, ServerRuntime, body_of, feeds_of

# More memory than this may not be held after the largest files; 48 to 110 MB were measured.
MEMORY = 256 * 2**20
# An error is clear if it holds one of these.
_CLEAR = (
    *("not compatible with expected shape", "Expects arg[0] to be float", "the batch is empty"),
    *("Expects arg[0] to be string", "the images hold NaN or infinity", "Could not parse example"),
    *("image/encoded", "not a PNG or JPEG image", "an image of", "Invalid PNG", "Invalid JPEG"),
)


@dataclass(frozen=True)
class Check:
    """One line of the table: the name of the check, whether it passed, and what was found."""

    name: str
    passed: bool
    found: str


def verify(
    directory: Path | str,
    *,
    model: keras.Model | None = None,
    tolerance: float | None = None,
    timeout: float = 60,
) -> list[Check]:
    """Check a version, or the newest one in a folder. It can serve if all checks passed.

    Arguments:
        directory: a version, or the folder of the versions.
        model: the Keras model that was exported. Its answers are compared too, beside those that
            Keras gave at the export.
        tolerance: largest difference of a probability. By default that of the card.
        timeout: seconds. A later answer counts as none.

    Raises:
        FileNotFoundError: if there is no export.
    """
    version = exports.find_version(directory)
    checks = [_check("checksums", _checksums, version)]
    if not checks[0].passed:
        return checks
    checks.append(graph(version))
    if not checks[1].passed:
        return checks
    with ServerRuntime(version, timeout=timeout) as server:
        checks += [loads(server), _check("card", _card, server, version)]
        if not all(check.passed for check in checks):
            return checks
        checks += answers(server, version, model=model, tolerance=tolerance)
        checks += _hostile(server, version)
        checks += _bounds(server, version)
    if found := quantizing.check(version, exports.card(version)):
        checks.append(Check("quantized files", *found))
    if version.name.isdecimal():
        checks.append(beside(version))
    return checks


def graph(version: Path) -> Check:
    """Check the operations of the graph, without loading it."""
    return _check("graph", _graph, version)


def loads(server: ServerRuntime) -> Check:
    """Check that the server's runtime loads the version; later checks need it."""
    return _check("loads", _loads, server)


def beside(version: Path) -> Check:
    """Check that the files beside the versions describe the newest version."""
    return _check("beside it", _beside, version)


def answers(
    server: ServerRuntime,
    version: Path,
    *,
    model: keras.Model | None = None,
    tolerance: float | None = None,
) -> list[Check]:
    """Run the checks that compare right answers; see `verify`. `server` has loaded `version`."""
    tolerance = exports.card(version)["tolerance"] if tolerance is None else tolerance
    labels = exports.labels(version)
    stored = example_requests.read(version / exports.EXAMPLES)
    checks = [
        _check(f"Keras, {example.name}", _example, server, example, labels, tolerance)
        for example in stored
    ]
    if model is not None:
        model = in_float32(model)  # as the export does
        temperature = calibrating.temperature_of(exports.card(version).get("calibration"))
        checks.append(_check("Keras, the model", _model, server, model, tolerance, temperature))
    checks.append(_check("warm-up", _warm_up, server, version))
    images = _pixels(stored)
    checks.append(_check("batches", _batches, server, images, tolerance))
    claims = exports.card(version)["input"]
    checks.append(_check("PNG and JPEG", _decoding, server, images.shape[1:], claims, tolerance))
    return checks


def seconds(server: ServerRuntime, images: np.ndarray, batch: int, budget: float = 0.3) -> float:
    """Return the shortest time in which `serving_default` answered a batch, in seconds.

    It is asked three times, and up to ten times while the sum is below `budget` seconds.
    """
    images = np.resize(images, (batch, *images.shape[1:])).astype("float32")
    times: list[float] = []
    while len(times) < 3 or (len(times) < 10 and sum(times) < budget):
        begun = time.perf_counter()
        server.answer("serving_default", {"images": images})
        times.append(time.perf_counter() - begun)
    return min(times)


def _check(name: str, function: Callable[..., tuple[bool, str]], *arguments: object) -> Check:
    try:
        passed, found = function(*arguments)
    except (ZooError, Stopped, OSError, ValueError, KeyError) as error:
        passed, found = False, " ".join(str(error).split())[:600]
    return Check(name, bool(passed), found)


def _checksums(version):
    return True, f"{exports.verify_checksums(version)} files as they were exported"


def _graph(version):
    graph = programs.read(version)
    half = [
        f"{name}/{output}"
        for name, signature in graph.signature_def.items()
        for output, tensor in signature.outputs.items()
        if not name.startswith("__") and tf.as_dtype(tensor.dtype).name in ("bfloat16", "float16")
    ]
    if half:
        return False, f"a server without flags cannot write {', '.join(sorted(half))}"
    bodies = [graph.graph_def.node, *(body.node_def for body in graph.graph_def.library.function)]
    operations = {node.op for nodes in bodies for node in nodes}
    count = sum(map(len, bodies))
    return True, f"{count} nodes of {len(operations)} operations, all of which only calculate"


def _loads(server):
    begun = time.perf_counter()
    server.runtime.ask({}, [])
    seconds = time.perf_counter() - begun
    return True, f"through the C API, on the CPU, XLA off, in {seconds:.1f} s"


def _card(server, version):
    if not (version / exports.CARD).is_file():
        return False, f"there is no {exports.CARD}: an export of an older zoo; export it again"
    facts, labels = exports.card(version), exports.labels(version)
    expected = {"serving_default", "predict_bytes", "classify"}
    if facts["exits"]:
        expected.add("exits")
    if set(server.signatures) != expected:
        return False, f"the signatures are {sorted(server.signatures)}, not {sorted(expected)}"
    found = f"{len(labels)} labels, {len(expected)} signatures, tolerance {facts['tolerance']:.0e}"
    return len(facts["labels"]) == len(labels), found


def _example(server, example, labels, tolerance):
    answer = server.answer(example.signature, feeds_of(example))
    difference = example_requests.difference(example, body_of(answer), labels)
    count = len(next(iter(answer.values())))
    return difference <= tolerance, f"{count} images, {_of(difference)}; {tolerance:.0e} allowed"


def _model(server, model, tolerance, temperature):
    """Compare with the model itself: noise, black, white, and every exit."""
    trunk = shipped(model)
    shape = trunk.input_shape[1:]
    images = np.random.default_rng(2).integers(0, 256, (8, *shape)).astype("float32")
    images = np.concatenate([images, [np.zeros(shape, "float32"), np.full(shape, 255.0)]])
    images = images.astype("float32")
    answer = server.answer("serving_default", {"images": images})
    expected = probabilities(trunk, images, temperature)
    differences = [np.abs(answer["probabilities"] - expected).max()]
    if "exits" in server.signatures:
        if not (within := supervised(model)):
            return False, "the export has exits; the model has no companions"
        exits = within.exits_model()(images, training=False)
        depths = server.answer("exits", {"images": images})
        for depth, logits in exits.items():
            expected = softmax(logits, temperature if depth == "output" else 1)
            differences.append(np.abs(depths[depth] - expected).max())
    largest = np.max(differences)
    return largest <= tolerance, f"{len(images)} images, {_of(largest)}"


def _of(difference: float) -> str:
    return f"largest difference {difference:.1e}"


def probabilities(model: keras.Model, images: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return Keras' probabilities, on the CPU: float32 pixels (n, h, w, c) -> (n, classes)."""
    # A GPU multiplies in TensorFloat-32, which is right to three digits.
    with tf.device("CPU"):
        return softmax(model(images, training=False), temperature)


def softmax(logits: object, temperature: float = 1.0) -> np.ndarray:
    """Return softmax(logits / temperature), float64 in NumPy: (n, classes) -> (n, classes).

    The logits may be a tensor of any type.
    """
    scores: np.ndarray = keras.ops.convert_to_numpy(keras.ops.cast(logits, "float32"))
    return measures.softmax(scores / np.float32(temperature))


def _warm_up(server, version):
    requests = warmup.read(version)
    for signature, feeds in requests:
        answer = server(signature, feeds)
        if isinstance(answer, str):
            return False, f"the server would not load it: {signature} refuses a record: {answer}"
    return 0 < len(requests) <= 1000, f"{len(requests)} requests replayed"


def _pixels(stored):
    """Return the images of the examples, (n, h, w, c) float32."""
    return next(feeds_of(e)["images"] for e in stored if e.signature == "serving_default")


def _batches(server, images, tolerance):
    """Check that an image has the same answer alone as in a batch, as a server makes them."""
    images = np.resize(images, (max(3, len(images)), *images.shape[1:]))
    images = images + np.arange(len(images), dtype="float32")[:, None, None, None]
    together = server.answer("serving_default", {"images": images})["probabilities"]
    alone = [server.answer("serving_default", {"images": image[None]}) for image in images]
    separate = np.concatenate([answer["probabilities"] for answer in alone])
    difference = np.abs(together - separate).max()
    # Another batch has another order of sums, which costs little. An answer that depends on the
    # other images differs by a thousand times the tolerance.
    found = f"{len(images)} images alone and together, {_of(difference)}"
    return difference <= 10 * tolerance, found


def _decoding(server, shape, claims, tolerance):
    """Compare the pixels of files with Pillow's, as far as the card says how they are read."""
    pairs = hostile_inputs.decoded_by_pillow(shape, claims)
    differences = []
    for file, pixels in pairs:
        decoded = server.answer("serving_default", {"images": pixels[None].astype("float32")})
        encoded = server.answer("predict_bytes", {"image_bytes": np.array([file], object)})
        differences.append(np.abs(decoded["probabilities"] - encoded["probabilities"]).max())
    largest = np.max(differences)
    return largest <= tolerance, f"{len(pairs)} files, {_of(largest)} from Pillow's pixels"


def _hostile(server, version):
    """Check that bad requests are refused, and that good ones are answered after them."""
    images = _pixels(example_requests.read(version / exports.EXAMPLES))
    shape = images.shape[1:]
    png, _ = hostile_inputs.decoded_by_pillow(shape)[0]
    try:
        before = server.answer("serving_default", {"images": images})
    except (ExportError, Stopped) as error:
        return [Check("hostile inputs", False, f"not sent: {error}")]
    memory = server.runtime.peak
    tensors = [
        (signature, {server.only_input(signature): array})
        for signature, array in hostile_inputs.wrong_tensors(shape, png)
    ]
    files = hostile_inputs.malformed_images(shape[-1]).values()
    requests = []
    for file in files:
        # The good image beside the bad one must not hide it, and must not be answered alone.
        requests.append(("predict_bytes", {"image_bytes": np.array([png, file], object)}))
        serialized = [warmup.example(image).SerializeToString() for image in (file, png)]
        requests.append(("classify", {"inputs": np.array(serialized, object)}))
    return [
        refused("wrong shapes, ranks, types", server, tensors),
        refused(f"{len(files)} malformed images", server, requests),
        _check("after all that", _unharmed, server, images, before, memory),
    ]


def _bounds(server, version):
    """Check how much may be asked at once, if the card says so; an older zoo's says nothing."""
    claims = exports.card(version)["input"]
    if "max_batch" not in claims:
        return []
    batches = hostile_inputs.largest_batches
    return [
        _check("largest batches", batches, server, tuple(claims["shape"]), claims["max_batch"]),
        _check("costly files", hostile_inputs.costs, server),
    ]


def refused(name: str, server: ServerRuntime, requests: Iterable[tuple[str, Arrays]]) -> Check:
    """Check that every request, (signature, {input: array}), gets an error.

    The error must say why. No request may end the process or hang.
    """
    return _check(name, _refused, server, requests)


def _refused(server, requests):
    aborts, hangs, answered, unclear, slowest = [], [], [], [], 0.0
    for signature, feeds in requests:
        begun = time.perf_counter()
        try:
            answer = server(signature, feeds)
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


def _unharmed(server, images, before, memory):
    after = server.answer("serving_default", {"images": images})
    same = all(np.array_equal(before[name], after[name]) for name in before)
    grown = server.runtime.peak - memory
    answers = "the first answer again, to the bit" if same else "another answer than before"
    return same and grown < MEMORY, f"{answers}; {grown / 2**20:.0f} MB more memory at most"


def _beside(version):
    """Check that the card beside the versions, and an older zoo's copies, are of the newest one."""
    base = version.parent
    newest = max(exports.versions(base))
    if not any((base / name).exists() for name in (*exports.BESIDE, files.CHECKSUMS)):
        return True, f"not checked: {base} has no card; the next `zoo export` there writes one"
    if newest != int(version.name):
        return True, f"not checked: the card beside the versions describes version {newest}"
    copies = {"labels.txt": exports.LABELS, "examples": exports.EXAMPLES}
    for name, source in copies.items():
        copy = base / name
        if copy.exists() and _content(copy) != _content(version / source):
            return False, (
                f"{copy} differs from {version / source}. An older zoo put it there, and nothing "
                "reads it: delete it"
            )
    try:
        has_checksums = exports.verify_beside(base)
        facts, title = exports.card_beside(base), exports.title_beside(base)
        expected = {**exports.card(version), "version": newest}
        wrong = [name for name, value in expected.items() if facts.get(name) != value]
        wrong += [] if f"version {newest}" in title else ["the title of README.md"]
    except (ExportError, FileNotFoundError) as error:
        wrong = [str(error)]
    if wrong:
        return False, (
            f"the card beside the versions is not that of version {newest}: {', '.join(wrong)}. "
            f"An export was killed, or it was changed: `zoo export {base}` writes the next version "
            "and its card"
        )
    without = "" if has_checksums else "; an older zoo wrote no checksums for it"
    return True, f"the card describes version {newest}{without}"


def _content(path):
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return path.read_bytes()
