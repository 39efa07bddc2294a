"""Run a SavedModel through TensorFlow's C API, with the loader and the session of TF Serving.

TensorFlow's Python checks shapes before it feeds them. That hides what a server does with a wrong
shape, so this file uses ctypes and NumPy alone. `Runtime` runs it as a script. A request that would
end the server ends the script.

    python _c_api.py LIBRARIES EXPORT CONFIG < messages > messages

CONFIG is a ConfigProto in hexadecimal digits. A message is one line of JSON, and then the bytes of
its tensors. The line has "tensors", a list of [name, type, shape, sizes]. Numbers have one size,
strings one size each. Strings are object arrays of bytes.
"""

import ctypes
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, Self

import numpy as np

Arrays = dict[str, np.ndarray]
STRING = 7
DATA_TYPES = {
    **{"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "object": STRING},
    **{"complex64": 8, "int64": 9, "bool": 10, "uint16": 17, "float16": 19, "uint32": 22},
}
TSTRING_BYTES = 24  # sizeof(TF_TString)


class Refused(Exception):
    """The session's error for a request that it does not answer; `code` is TensorFlow's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stopped(RuntimeError):
    """The export does not load, or a request ended the process or had no answer in time."""


class Runtime:
    """An export in a child process, on the CPU with XLA off. It starts in half a second.

    A request may end the child. The next request starts another. `peak` is the most memory that a
    child has held, in bytes, and `seconds` is the time that the session took for the last answer.

    Arguments:
        libraries: the folder of libtensorflow_cc.
        export: the folder of a version.
        timeout: seconds to wait for an answer.
        config: a ConfigProto for the session, in bytes. Default: the one of a server.
    """

    child: Any  # subprocess.Popen, or None
    log: IO[bytes]

    def __init__(
        self,
        libraries: pathlib.Path | str,
        export: pathlib.Path | str,
        *,
        timeout: float = 60,
        config: bytes = b"",
    ) -> None:
        self.export, self.timeout = export, timeout
        # -P keeps the folder of this file off the path. Its modules could shadow others.
        self.script = [sys.executable, "-P", __file__, str(libraries), str(export), config.hex()]
        self.child, self.peak, self.seconds = None, 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self.child.stdin.close()
            self.child.wait()
            self.child.stdout.close()
            self.log.close()

    def ask(self, feeds: Arrays, fetches: list[str]) -> Arrays | str:
        """Run the graph: {tensor: array}, [tensor] -> {tensor: array}, or the error as a string.

        Raises:
            Stopped: if the export does not load, or the request ended the process or had no answer
                in time. The message says which.
        """
        if self.child is None:
            self._start()
        return self._exchange({"fetches": fetches}, feeds)

    def _start(self):
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the child has ended
        self.child = subprocess.Popen(
            self.script,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        self._exchange({"fetches": []}, {})

    def _exchange(self, header, feeds):
        late = threading.Event()
        child = self.child

        def give_up():
            late.set()
            child.kill()

        timer = threading.Timer(self.timeout, give_up)
        timer.start()
        try:
            write_message(child.stdin, header, feeds)
            answer, tensors = read_message(child.stdout)
        except (OSError, EOFError):
            raise self._stopped(f"no answer in {self.timeout} s" if late.is_set() else "") from None
        finally:
            timer.cancel()
        self.peak, self.seconds = max(self.peak, answer["peak"]), answer["seconds"]
        return answer.get("error", tensors)

    def _stopped(self, reason):
        self.child.stdout.close()
        code = self.child.wait()
        self.child = None
        ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self.log.seek(0)
        log = self.log.read().decode(errors="replace")[-2000:]
        self.log.close()
        return Stopped(f"{self.export} stopped the server's runtime ({reason or ended}):\n{log}")


class Pointer(ctypes.c_void_p):
    """A pointer. As a return type it stays one; a plain integer would be passed on as 32 bits."""


class Endpoint(ctypes.Structure):
    """TF_Output: an operation, and the index of its output."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


RETURN_TYPES = {
    Pointer: """TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel
        TF_GraphOperationByName TF_AllocateTensor TF_TensorData TF_StringGetDataPointer""",
    ctypes.c_char_p: "TF_Message",
    ctypes.c_int64: "TF_Dim",
    ctypes.c_size_t: "TF_TensorByteSize TF_StringGetSize",
}


def load_library(folder: pathlib.Path | str, *, xla: bool = False) -> ctypes.CDLL:
    """Load libtensorflow_cc. XLA is off for the whole process, as in a server."""
    for name in ("libtensorflow_framework", "libtensorflow_cc"):
        file = next(pathlib.Path(folder).glob(f"{name}.*"))
        library = ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    for return_type, names in RETURN_TYPES.items():
        for name in names.split():
            getattr(library, name).restype = return_type
    if not xla:
        library._ZN10tensorflow21DisableXlaCompilationEv()
    return library


class Session:
    """The graph with the tag `serve` of an export, in a session. Any thread may call `run`.

    Arguments:
        library: as `load_library` returns it.
        export: the folder of a version.
        config: a ConfigProto in bytes. Default: the one of a server.

    Raises:
        Refused: if the export does not load.
    """

    def __init__(
        self, library: ctypes.CDLL, export: pathlib.Path | str, config: bytes = b""
    ) -> None:
        self.library = library
        self.graph = library.TF_NewGraph()
        options, tags = library.TF_NewSessionOptions(), (ctypes.c_char_p * 1)(b"serve")
        status = library.TF_NewStatus()
        library.TF_SetConfig(options, config, ctypes.c_size_t(len(config)), status)
        self.check(status)
        status = library.TF_NewStatus()
        self.session = library.TF_LoadSessionFromSavedModel(
            options, None, str(export).encode(), tags, 1, self.graph, None, status
        )
        self.check(status)

    def check(self, status: Pointer) -> None:
        """Delete the status; raise Refused if it is an error."""
        code = self.library.TF_GetCode(status)
        message = self.library.TF_Message(status).decode(errors="replace")
        self.library.TF_DeleteStatus(status)
        if code:
            raise Refused(code, message)

    def run(self, feeds: Arrays, fetches: list[str]) -> Arrays:
        """Run the graph: {tensor: array}, [tensor] -> {tensor: array}. An error raises Refused."""
        ends = self.endpoints(list(feeds)), self.endpoints(fetches)
        tensors = [self.tensor(array) for array in feeds.values()]
        fetched = (Pointer * len(fetches))()
        status = self.library.TF_NewStatus()
        try:
            self.library.TF_SessionRun(
                *(self.session, None),
                *(ends[0], (Pointer * len(tensors))(*tensors), len(tensors)),
                *(ends[1], fetched, len(fetches)),
                *(None, 0, None, status),
            )
            self.check(status)
            return {name: self.array(tensor) for name, tensor in zip(fetches, fetched, strict=True)}
        finally:
            for tensor, array in zip(tensors, feeds.values(), strict=True):
                for index in range(array.size if array.dtype == object else 0):
                    self.library.TF_StringDealloc(self.string(tensor, index))
            for tensor in (*tensors, *fetched):
                if tensor:
                    self.library.TF_DeleteTensor(tensor)

    def endpoints(self, names: list[str]) -> ctypes.Array[Endpoint]:
        """Return the TF_Outputs of tensors, named as "operation:index"."""
        endpoints = (Endpoint * len(names))()
        for endpoint, name in zip(endpoints, names, strict=True):
            operation, index = name.split(":")
            pointer = self.library.TF_GraphOperationByName(self.graph, operation.encode())
            if not pointer:
                raise Refused(5, f"the graph has no operation {operation!r}")
            endpoint.operation, endpoint.index = pointer.value, int(index)
        return endpoints

    def tensor(self, array: np.ndarray) -> Pointer:
        """Return a new TF_Tensor with the content of the array. The caller deletes it."""
        strings = array.dtype == object
        size = array.size * TSTRING_BYTES if strings else array.nbytes
        tensor = self.library.TF_AllocateTensor(
            DATA_TYPES[array.dtype.name],
            (ctypes.c_int64 * array.ndim)(*array.shape),
            array.ndim,
            ctypes.c_size_t(size),
        )
        if not strings:
            ctypes.memmove(self.library.TF_TensorData(tensor), array.tobytes(), size)
            return tensor
        for index, item in enumerate(array.flat):
            place = self.string(tensor, index)
            self.library.TF_StringInit(place)
            self.library.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
        return tensor

    def string(self, tensor: Pointer, index: int) -> Pointer:
        """Return the place of a string in a TF_Tensor."""
        return Pointer(self.library.TF_TensorData(tensor).value + index * TSTRING_BYTES)

    def array(self, tensor: Pointer) -> np.ndarray:
        """Return the content of a TF_Tensor."""
        number = self.library.TF_TensorType(tensor)
        names = [name for name, known in DATA_TYPES.items() if known == number]
        if not names:
            raise Refused(3, f"the output has the type number {number}; expected a type of NumPy")
        shape = [self.library.TF_Dim(tensor, i) for i in range(self.library.TF_NumDims(tensor))]
        if number != STRING:
            size = self.library.TF_TensorByteSize(tensor)
            content = ctypes.string_at(self.library.TF_TensorData(tensor), size)
            return np.frombuffer(content, names[0]).reshape(shape)
        array = np.empty(math.prod(shape), object)
        for index in range(array.size):
            place = self.string(tensor, index)
            size = self.library.TF_StringGetSize(place)
            array[index] = ctypes.string_at(self.library.TF_StringGetDataPointer(place), size)
        return array.reshape(shape)


def write_message(stream: IO[bytes], header: dict[str, Any], arrays: Arrays) -> None:
    """Write a message: the header, and the tensors {name: array}."""
    tensors, parts = [], []
    for name, array in arrays.items():
        items = list(array.flat) if array.dtype == object else [array.tobytes()]
        tensors.append([name, array.dtype.name, array.shape, [len(item) for item in items]])
        parts += items
    stream.write(json.dumps({**header, "tensors": tensors}).encode() + b"\n")
    for part in parts:
        stream.write(part)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    """Return (header, {name: array}) of the next message. The end of the stream raises EOFError."""
    line = stream.readline()
    if not line:
        raise EOFError
    header = json.loads(line)
    arrays = {}
    for name, dtype, shape, sizes in header.pop("tensors"):
        items = [stream.read(size) for size in sizes]
        if dtype == "object":
            array = np.empty(len(items), object)
            array[:] = items
        else:
            array = np.frombuffer(items[0], dtype)
        arrays[name] = array.reshape(shape)
    return header, arrays


def most_memory() -> int:
    """Return the most memory that this process has held, in bytes.

    `ru_maxrss` begins with the parent's, so the status file is read.
    """
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main(libraries: str, export: str, config: str) -> None:
    """Answer each message of stdin with one on stdout; this runs in the child."""
    try:
        session = Session(load_library(libraries), export, bytes.fromhex(config))
    except Refused as refused:
        sys.exit(str(refused))
    while True:
        try:
            header, feeds = read_message(sys.stdin.buffer)
        except EOFError:
            return
        answer: dict[str, Any] = {}
        outputs: Arrays = {}
        begun = time.perf_counter()
        try:
            outputs = session.run(feeds, header["fetches"]) if header["fetches"] else {}
        except Refused as refused:
            answer["error"] = str(refused)
        answer["seconds"] = time.perf_counter() - begun
        answer["peak"] = most_memory()
        write_message(sys.stdout.buffer, answer, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
