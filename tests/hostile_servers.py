"""Servers that answer as no server should.

Tests ask them within their process; `make soak` asks them with `zoo predict --server`.

`HTTP` is the list: whatever the client receives, it ends with one line and the exit code of the
entry, in time, and in little memory.
"""

import contextlib
import gzip
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 0.4  # seconds that a client should wait for a server of this list
PATH = "/v1/models/animals"
PICTURE = bytes.fromhex(  # 1 x 1
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63600000000200014821bc330000000049454e44ae426082"
)
ROW = {"probabilities": [0.75, 0.25], "class_ids": [0], "classes": ["cat"], "scores": [0.75]}
EVIL = "\x1b[31mred\x1b]0;title\x07 [bold]x[/red] \r\n second line \u202egnp.exe"


class Hostile(NamedTuple):
    """A server, and what the client should say of it."""

    answer: bytes | Callable[[socket.socket], None]
    """The bytes after a request; or a function of a connection, before anything is read."""
    said: str
    """A regular expression."""
    code: int = 1
    """The exit code of `zoo predict`."""


def response(body, status="200 OK", *headers):
    """A complete answer, with the length that it has."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def head(*headers):
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode()


def row(**changes):
    return response({"predictions": [{**ROW, **changes}]})


def raw(value):
    """A row whose first probability is written as `value`."""
    body = json.dumps({"predictions": [ROW]}).replace("[0.75, 0.25]", f"[{value}, 0.25]")
    return response(body.encode())


def read_request(connection):
    """Read a request with its body, as its header says."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65536)):
            return
        received += part
    header, _, body = received.partition(b"\r\n\r\n")
    _, _, length = header.lower().partition(b"content-length:")
    missing = int(length.split(b"\r\n")[0] or 0) - len(body)
    while missing > 0 and (part := connection.recv(65536)):
        missing -= len(part)


def then(start, *parts, times=10**9, pause=0.0, hold=True):
    """Send `start` after the request, and then the parts again and again."""

    def answer(connection):
        read_request(connection)
        connection.sendall(start)
        for _ in range(times if parts else 0):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        if hold:
            connection.recv(65536)

    return answer


def reset(connection):
    connection.recv(65536)
    # Without this wait for unsent data, closing is a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


BOMB = gzip.compress(bytes(50 * 2**20))
NO_ROW = "expected the labels, scores and probabilities of one image"
NOT_JSON = "is not JSON"
LATE = "timed out"
CHUNKED = head("Transfer-Encoding: chunked")

HTTP = {
    # JSON that no export of the zoo answers
    "an empty object": Hostile(response({}), NO_ROW),
    "no predictions": Hostile(response({"predictions": []}), NO_ROW),
    "a stock export": Hostile(response({"predictions": [[0.1, 0.9]]}), "zoo export"),
    "a number": Hostile(response({"predictions": [0.5]}), NO_ROW),
    "predictions as an object": Hostile(response({"predictions": {"a": ROW}}), NO_ROW),
    "predictions as text": Hostile(response({"predictions": "x"}), NO_ROW),
    "predictions as null": Hostile(response({"predictions": None}), NO_ROW),
    "two images": Hostile(response({"predictions": [ROW, ROW]}), NO_ROW),
    "labels that are numbers": Hostile(row(classes=[7]), NO_ROW),
    "labels that are lists": Hostile(row(classes=[["cat"]]), NO_ROW),
    "labels as text": Hostile(row(classes="c"), NO_ROW),
    "no labels": Hostile(row(classes=[], scores=[]), NO_ROW),
    "fewer scores than labels": Hostile(row(classes=["cat", "dog"]), NO_ROW),
    "more labels than classes": Hostile(row(classes=["c"] * 3, scores=[0.3] * 3), NO_ROW),
    "scores that are text": Hostile(row(scores=["0.75"]), NO_ROW),
    "scores that are true": Hostile(row(scores=[True]), NO_ROW),
    "NaN": Hostile(raw("NaN"), NO_ROW),
    "infinity": Hostile(raw("Infinity"), NO_ROW),
    "1e999": Hostile(raw("1e999"), NO_ROW),
    "a negative number": Hostile(raw("-0.25, 1.0"), NO_ROW),
    "a sum of 0.35": Hostile(raw("0.1"), NO_ROW),
    "an integer of 4000 digits": Hostile(raw("1" * 4000), NO_ROW),
    "an integer of 5000 digits": Hostile(raw("1" * 5000), NOT_JSON),
    "lists in lists": Hostile(response(b"[" * 10**5 + b"]" * 10**5), NOT_JSON),
    "objects in objects": Hostile(response(b'{"a":' * 10**5), NOT_JSON),
    "lists in lists, within bounds": Hostile(
        response(b'{"predictions": ' + b"[" * 900 + b"]" * 900 + b"}"), NO_ROW
    ),
    "a field twice": Hostile(response(b'{"predictions": [], "predictions": []}'), "twice"),
    "a list": Hostile(response([ROW]), "expected an object"),
    "null": Hostile(response(b"null"), "expected an object"),
    "an error with success": Hostile(response({"error": EVIL}), NO_ROW),
    "megabytes of brackets": Hostile(
        response(b'{"predictions": [' + b"[]," * 600_000 + b"0]}"), NO_ROW
    ),
    # no JSON
    "nothing": Hostile(response(b""), NOT_JSON),
    "HTML": Hostile(response(b"<html>hello"), NOT_JSON),
    "not UTF-8": Hostile(response(b'{"predictions": "\xff"}'), NOT_JSON),
    "UTF-16": Hostile(response(json.dumps({"predictions": [ROW]}).encode("utf-16")), NOT_JSON),
    "a byte-order mark": Hostile(response(b"\xef\xbb\xbf{}"), NOT_JSON),
    "half of it": Hostile(response(b'{"predictions": [{"prob'), NOT_JSON),
    "a picture": Hostile(response(PICTURE, "200 OK", "Content-Type: image/png"), NOT_JSON),
    # other statuses
    "a wrong request": Hostile(response({"error": "no"}, "400 Bad"), "400: no", 2),
    "a page that is not there": Hostile(response(b"<html>", "404 Not Found"), "404: Not Found", 2),
    "codes in an error": Hostile(response({"error": EVIL}, "400 Bad"), "second line", 2),
    "codes in a status": Hostile(response(b"", f"400 {EVIL[:20]}"), "400: ", 2),
    "an error that is no text": Hostile(response({"error": {"a": [1]}}, "401 No"), "401: ", 2),
    "an error of a megabyte": Hostile(
        response({"error": "x" * 10**6}, "400 Bad"), r"xxx \.\.\.", 2
    ),
    "deep lists in an error": Hostile(response(b"[" * 10**5, "500 Oh"), "500: Oh"),
    "a page about the server": Hostile(response(b"<html>", "503 Busy"), "503: Busy"),
    "busy": Hostile(response({"error": "full"}, "429 Many"), "429: full"),
    "no content": Hostile(response(b"", "204 None"), "204"),
    "status 999": Hostile(response(b"", "999 What"), "999"),
    "status 42": Hostile(response(b"", "42 What"), "No answer"),
    "a redirect to a file": Hostile(
        response(b"", "302 Found", "Location: file:///etc/passwd"), "points to file:///etc/passwd"
    ),
    "a redirect to itself": Hostile(
        response(b"", "307 Again", f"Location: {PATH}:predict"), "follows no redirect"
    ),
    "a redirect with codes": Hostile(
        response(b"", "301 Moved", "Location: http://\x1b[2Jx/[bold]"), "follows no redirect"
    ),
    "a redirect to nowhere": Hostile(response(b"", "301 Moved"), "points to nowhere"),
    # no HTTP
    "closed at once": Hostile(lambda connection: None, "No answer"),
    "closed after the request": Hostile(b"", "No answer"),
    "a reset": Hostile(reset, "No answer"),
    "an SSH banner": Hostile(
        lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "No answer"
    ),
    "an alert of TLS": Hostile(b"\x15\x03\x01\x00\x02\x02\x46", "No answer"),
    "HTTP/0.9": Hostile(b'{"predictions": []}', "No answer"),
    "HTTP/9.9": Hostile(b"HTTP/9.9 200 OK\r\n\r\n{}", "No answer"),
    "zeros": Hostile(bytes(10**6), "No answer"),
    "codes before HTTP": Hostile(EVIL.encode() + b"\r\n\r\n", "No answer"),
    "a header without a colon": Hostile(head("nothing") + b"{}", NO_ROW),
    "a long header": Hostile(head("a: " + "b" * 10**6), "No answer"),
    # the body and its length
    "less than its length": Hostile(head("Content-Length: 99") + b"{}", "97 bytes are missing"),
    "more than its length": Hostile(head("Content-Length: 1") + b"{}", NOT_JSON),
    "a negative length": Hostile(head("Content-Length: -5") + b"{}", NO_ROW),
    "a length that is no number": Hostile(head("Content-Length: x") + b"{}", NO_ROW),
    "a length of 10^30": Hostile(head(f"Content-Length: {10**30}") + b"{}", "missing"),
    "a chunk of no size": Hostile(CHUNKED + b"zz\r\n{}", "No answer"),
    "a chunk of 10^18": Hostile(CHUNKED + b"de0b6b3a7640000\r\n{}", "No answer"),
    "chunks that end too early": Hostile(CHUNKED + b"2\r\n{}\r\n", "No answer"),
    "gzip": Hostile(response(BOMB, "200 OK", "Content-Encoding: gzip"), "compressed"),
    "deflate": Hostile(response(BOMB, "200 OK", "Content-Encoding: deflate"), "compressed"),
    "a gigabyte": Hostile(
        then(head(f"Content-Length: {2**30}"), bytes(2**20), times=2**10, hold=False), "more than"
    ),
    "chunks for ever": Hostile(then(CHUNKED, b"10000\r\n" + bytes(2**16) + b"\r\n"), "more than"),
    "bytes for ever": Hostile(then(head(), bytes(2**20)), "more than"),
    "a page of an error for ever": Hostile(then(b"HTTP/1.1 500 X\r\n\r\n", bytes(2**20)), "500"),
    "header lines for ever": Hostile(then(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), "100 headers"),
    "one header line for ever": Hostile(then(b"HTTP/1.1 200 OK\r\na: ", bytes(2**16)), "No answer"),
}
# These hold the client until its time is over.
SLOW = {
    "silence": Hostile(then(b""), LATE),
    "a status for ever": Hostile(then(b"HTTP/1.1 200 ", b"x", pause=0.02), LATE),
    "headers by the byte": Hostile(then(head()[:-2], b"a", b":", b"b", pause=0.02), LATE),
    "a body by the byte": Hostile(then(head(), b" ", pause=0.02), LATE),
    "a longer length": Hostile(then(head("Content-Length: 99") + b"{}"), LATE),
    "chunks without an end": Hostile(then(CHUNKED + b"2\r\n{}\r\n"), LATE),
    "chunks by the byte": Hostile(then(CHUNKED, b"1\r\n \r\n", pause=0.02), LATE),
    "trailers for ever": Hostile(then(CHUNKED + b"0\r\n", b"a: b\r\n", pause=0.001), LATE),
    "continue for ever": Hostile(then(b"", b"HTTP/1.1 100 Go on\r\n\r\n", pause=0.001), LATE),
}


@contextlib.contextmanager
def serving(answer, tls=None):
    """A server that gives every connection this answer; yields its port.

    `answer` is that of a Hostile, and `tls` an ssl.SSLContext.
    """
    stop, connections = threading.Event(), []

    def talk(connection):
        with contextlib.suppress(OSError, ValueError), connection:
            if tls:
                connection = tls.wrap_socket(connection, server_side=True)
            if callable(answer):
                answer(connection)
            else:
                read_request(connection)
                connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)  # else closing could be a reset

    def accept():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                connections.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            for waiting in (listening, *connections):
                with contextlib.suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def grpc_serving(answer, credentials=None):
    """A gRPC server that gives every call this answer; yields its port.

    `answer` is the bytes of a message, or a function of the context of a call that returns them.
    """
    from concurrent import futures

    import grpc

    class Anything(grpc.GenericRpcHandler):
        def service(self, _):
            def call(_, call_context):
                return answer(call_context) if callable(answer) else answer

            return grpc.unary_unary_rpc_method_handler(call)

    unlimited = [("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(2), options=unlimited)
    server.add_generic_rpc_handlers((Anything(),))
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def tensors(**changes):
    """The bytes of a PredictResponse that is right but for the changes: {output: what it is}.

    A change of None leaves the output out.
    """
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import predict_pb2

    answer = predict_pb2.PredictResponse()
    for name, value in ({name: [values] for name, values in ROW.items()} | changes).items():
        if value is not None:
            ready = isinstance(value, tensor_pb2.TensorProto)
            answer.outputs[name].CopyFrom(value if ready else tf.make_tensor_proto(value))
    return answer.SerializeToString()


def tensor_answers():
    """{name: the bytes of an answer over gRPC}. None is that of an export."""
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

    def claiming(dtype, *sides, **content):
        dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=side) for side in sides]
        shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
        return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape, **content)

    float32, text, resource = 1, 7, 20
    half = [0.5, 0.5]
    return {
        "nothing": b"",
        "no message": b"\xff" * 100,
        "a stock export": tensors(
            probabilities=None, class_ids=None, classes=None, scores=None, dense=[[0.1, 0.9]]
        ),
        "no labels": tensors(classes=None),
        "two images": tensors(**{name: [values] * 2 for name, values in ROW.items()}),
        "another number of images": tensors(scores=[[0.75], [0.5]]),
        "labels that are numbers": tensors(classes=[[7]]),
        "labels without a batch": tensors(classes=["cat"]),
        "labels that are not UTF-8": tensors(classes=[[b"\xff"]]),
        "scores without a batch": tensors(scores=0.75),
        "scores that are text": tensors(scores=[["0.75"]]),
        "NaN": tensors(probabilities=[[float("nan"), 0.5]]),
        "a shape of 10^10": tensors(probabilities=claiming(float32, 10**10, float_val=[0.5])),
        "labels of 10^5 x 10^5": tensors(classes=claiming(text, 10**5, 10**5, string_val=[b"x"])),
        "sides of 2^62": tensors(probabilities=claiming(float32, 2**62, 4, float_val=[0.5])),
        "a negative side": tensors(probabilities=claiming(float32, -1, 2, float_val=half)),
        "no side": tensors(probabilities=claiming(float32, 1, 0)),
        "bytes of another shape": tensors(
            probabilities=claiming(float32, 1, 2, tensor_content=b"a")
        ),
        "a resource": tensors(scores=claiming(resource, 1, 1)),
        "type 9999": tensors(scores=claiming(9999, 1, 1)),
        "9 megabytes": tensors(more=claiming(float32, 1, 2, tensor_content=bytes(9 * 2**20))),
    }


def fault_of(hostile, picture):
    """Ask a server with the command; return what is wrong, or ""."""
    with serving(hostile.answer) as port:
        begun = time.monotonic()
        code, said, memory = _predict(port, picture)
        seconds = time.monotonic() - begun
    # A second or two of them for Python's start.
    right = code == hostile.code and said.count("\n") == 1 and memory < 150
    right &= seconds < TIMEOUT + 4
    return "" if right else f"exit code {code}, {seconds:.1f} s, {memory:.0f} MB: {said[-300:]}"


# The peak of a process that TensorFlow's memory is not in: that of its starter counts in rusage.
_PROGRAM = """
import sys, zoo.commands.main
try:
    zoo.commands.main.main(sys.argv[2:])
finally:
    with open("/proc/self/status") as status, open(sys.argv[1], "w") as file:
        file.writelines(line for line in status if line.startswith("VmHWM"))
"""


def _predict(port, picture):
    """Return the command's (exit code, standard error, peak memory in MB)."""
    url = f"http://127.0.0.1:{port}{PATH}"
    peak = Path(f"{picture}.peak")
    command = [sys.executable, "-c", _PROGRAM, peak, "predict", "--server", url, picture]
    command += ["--timeout", str(TIMEOUT), "--retries", "0"]
    said = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    memory = int(peak.read_text().split()[1]) / 1024
    return said.returncode, said.stderr, memory
