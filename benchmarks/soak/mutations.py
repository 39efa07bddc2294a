"""Mutated requests to exports in the runtime of a server, and new versions under load."""

import functools
import http.client
import json
import random
import shutil
import struct
import threading
import time
import zlib

import numpy as np
from shared_with_tests import ROOT, START, StandIn

from zoo import exports
from zoo.serving import example_requests, hostile_inputs, warmup
from zoo.serving._c_api import Stopped
from zoo.serving.server_runtime import ServerRuntime, feeds_of

MODELS = ("digits_nin_dsn", "mnist_student", "cifar10_student")
SECONDS = 2.0  # no request may take longer
MEMORY = 512 * 2**20
CHUNKS = (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"gAMA", b"IEND", b"eXIf", b"abcd")
TYPES = ["float16", "float64", "int8", "int32", "int64", "uint8", "bool", "complex64"]


@functools.cache
def new_export(scratch, name):
    """Return a version that this code exports from the model within the one that ships."""
    from processes import Command

    shipped, out = ROOT / "saved_models" / name, scratch / "exports" / name
    out.parent.mkdir(exist_ok=True)
    command = Command(["export", shipped, "--out", out], scratch / f"{name}.log")
    command.wait()
    assert command.code == 0, command.output
    return exports.newest(out)


_ONE_AT_A_TIME = threading.Lock()


def mutated_requests(scratch, seed, count=500):
    """Send `count` mutated requests to one export; it must refuse or answer each at once."""
    rng = random.Random(seed)
    name = MODELS[seed % len(MODELS)]
    with _ONE_AT_A_TIME:
        version = new_export(scratch, name)
    stored = example_requests.read(version / exports.EXAMPLES)
    good = {example.signature: feeds_of(example) for example in stored}
    files = list(good["predict_bytes"]["image_bytes"])
    images = good["serving_default"]["images"]
    files += [file for file, _ in hostile_inputs.decoded_by_pillow(images.shape[1:], {})]
    problems = []
    with ServerRuntime(version, timeout=30) as server:
        before = server.answer("serving_default", good["serving_default"])
        memory = server.runtime.peak
        for index in range(count):
            signature = rng.choice(sorted(server.signatures))
            feeds = {server.only_input(signature): _mutated(signature, images, files, rng)}
            begun = time.perf_counter()
            try:
                server(signature, feeds)
            except Stopped as stopped:
                return index + 1, f"{name} {signature}: {stopped}"
            if (seconds := time.perf_counter() - begun) > SECONDS:
                problems.append(f"{name} {signature}: request {index} took {seconds:.1f} s")
        after = server.answer("serving_default", good["serving_default"])
        if any(not np.array_equal(before[key], after[key]) for key in before):
            problems.append(f"{name}: another answer than before")
        if (grown := server.runtime.peak - memory) > MEMORY:
            problems.append(f"{name}: {grown / 2**20:.0f} MB more memory")
    return count, "; ".join(problems)


def _mutated(signature, images, files, rng):
    if signature in ("serving_default", "exits"):
        return _mutated_array(images, rng)
    batch = [_mutated_file(rng.choice(files), rng) for _ in range(rng.choice([1, 1, 1, 2, 5]))]
    if signature == "classify":
        batch = [warmup.example(file).SerializeToString() for file in batch]
        if rng.random() < 0.5:
            batch[0] = _mutated_bytes(batch[0], rng)
    array = np.array(batch, object)
    return (
        array if rng.random() < 0.9 else array.reshape(rng.choice([(1, -1), (-1, 1), (-1, 1, 1)]))
    )


def _mutated_array(images, rng):
    images = images[: rng.randint(0, len(images))].copy()
    for _ in range(rng.randint(1, 2)):
        kind = rng.choice(["type", "shape", "value", "rank", "size"])
        if kind == "type":
            with np.errstate(all="ignore"):  # NaN as a whole number
                images = images.astype(rng.choice(TYPES))
        elif kind == "value" and images.size and images.dtype.kind == "f":
            values = [np.nan, np.inf, -np.inf, 3e38, -1.0, 1e-45]
            images.reshape(-1)[rng.randrange(images.size)] = rng.choice(values)
        elif kind == "rank":
            images = images[rng.choice([0, None, ..., slice(None)])] if len(images) else images
        elif kind == "size":
            shape = [rng.choice([size, size + 1, max(size - 1, 0), 1]) for size in images.shape]
            images = np.resize(images, shape) if images.size else np.zeros(shape, images.dtype)
        elif images.ndim:
            images = np.moveaxis(images, rng.randrange(images.ndim), rng.randrange(images.ndim))
    return images


def _mutated_file(file, rng):
    if file.startswith(b"\x89PNG") and rng.random() < 0.5:
        return _mutated_chunks(file, rng)
    return _mutated_bytes(file, rng)


def _mutated_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        where = rng.randrange(len(content) + 1)
        kind = rng.choice(["flip", "flip", "cut", "insert", "repeat", "remove", "end"])
        if kind == "flip" and content:
            content[where % len(content)] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[where:]
        elif kind == "insert":
            content[where:where] = rng.randbytes(rng.choice([1, 4, 64, 4096]))
        elif kind == "repeat":
            content[where:where] = content[where : where + rng.choice([1, 16, 256])]
        elif kind == "remove":
            del content[where : where + rng.choice([1, 4, 16])]
        else:
            content += rng.randbytes(rng.choice([1, 1000]))
    return bytes(content)


def _mutated_chunks(file, rng):
    """Mutate a PNG's chunks and give them the right checksums, so that decoders read on."""
    chunks, at = [], 8
    while at + 8 <= len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        chunks.append([file[at + 4 : at + 8], bytearray(file[at + 8 : at + 8 + length])])
        at += length + 12
    for _ in range(rng.choice([1, 1, 3])):
        kind = rng.choice(["data", "data", "name", "order", "repeat", "drop", "new"])
        index = rng.randrange(len(chunks))
        if kind == "data" and chunks[index][1]:
            data = chunks[index][1]
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == "name":
            names = [
                b"IDAT",
                b"PLTE",
                b"tRNS",
                b"iCCP",
                b"zTXt",
                b"gAMA",
                b"IEND",
                b"eXIf",
                b"abcd",
            ]
            chunks[index][0] = rng.choice(names)
        elif kind == "order":
            chunks.insert(rng.randrange(len(chunks)), chunks.pop(index))
        elif kind == "repeat":
            chunks[index:index] = [chunks[index]] * rng.choice([1, 50])
        elif kind == "drop" and len(chunks) > 1:
            del chunks[index]
        else:
            content = zlib.compress(bytes(rng.choice([10, 10**6])))
            chunks.insert(index, [rng.choice([b"zTXt", b"iCCP", b"IDAT"]), bytearray(content)])
    encoded = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return file[:8] + b"".join(encoded)


def swaps(scratch, seed, count=20, clients=32):
    """New versions every second under 32 clients; every seventh version is damaged.

    Every good request must get Keras' answer, and a damaged version must never serve.
    """
    name = MODELS[0]
    with _ONE_AT_A_TIME:
        version = new_export(scratch, name)
    folder = scratch / f"swaps-{seed}" / name
    shutil.copytree(version, folder / "1")
    examples = [
        example
        for example in example_requests.read(version / exports.EXAMPLES)
        if example.method == "predict"
    ]
    labels = exports.labels(version)
    problems, answered, stop = [], [0] * clients, threading.Event()
    with StandIn({name: folder}, poll_seconds=0.1, xla=False) as server:
        path = f"/v1/models/{name}:predict"

        def ask(client):
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
            while not stop.is_set():
                example = examples[(client + answered[client]) % len(examples)]
                connection.request("POST", path, json.dumps(example.request))
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    problems.append(f"status {response.status}: {answer}")
                elif example_requests.difference(example, answer, labels) > 1e-4:
                    problems.append("a wrong answer")
                answered[client] += 1

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
        for thread in threads:
            thread.start()
        for number in range(2, count + 2):
            draft = folder / f".draft-{number}"
            shutil.copytree(version, draft)
            if number % 7 == 0:
                (draft / exports.PROGRAM).write_bytes(b"damaged")
            draft.rename(folder / str(number))
            deadline = time.monotonic() + 60
            states = server.models[name].states
            while states.get(number, (START,))[0] == START and time.monotonic() < deadline:
                time.sleep(0.05)
            serving = server.models[name].serving.version
            if (serving == number) == (number % 7 == 0):
                problems.append(f"version {serving} serves after number {number} came")
        stop.set()
        for thread in threads:
            thread.join()
    if min(answered) == 0:
        problems.append("a client had no answer")
    return count, "; ".join(dict.fromkeys(problems))
