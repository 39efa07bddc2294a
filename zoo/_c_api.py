"""Answer requests to a SavedModel through TensorFlow's C API, in a process of their own.

The loader and the session are those of TF Serving. TensorFlow's Python checks shapes before it
feeds them, and so hides what a server does with a wrong one: hence ctypes and NumPy alone. `ask`
runs this file as a script; a request that would abort the server aborts the script.

    python _c_api.py LIBRARIES EXPORT INPUT OUTPUT < requests > answers

Requests and answers are .npy files end to end. A void array is a batch of byte strings of one
length; an answer is a float32 array, or a string: the error.
"""

import ctypes
import io
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

FLOAT = 1
STRING = 7
DATA_TYPES = {"float32": FLOAT, "int32": 3, "uint8": 4}
TSTRING_BYTES = 24  # sizeof(TF_TString)


def ask(libraries, export, input_name, output_name, requests):
    """The answers of the export in the folder `export`, in the order of the requests.

    `libraries` is the folder of libtensorflow_cc; the names are those of tensors in the graph.

    Raises:
        RuntimeError: when the export does not load, or a request ends the process.
    """
    stdin = io.BytesIO()
    for request in requests:
        np.save(stdin, request, allow_pickle=False)
    # -P keeps the folder of this file, whose modules could shadow others, off the path.
    script = [sys.executable, "-P", __file__, libraries, export, input_name, output_name]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.run(script, input=stdin.getvalue(), capture_output=True, env=environment)
    if child.returncode:
        code = child.returncode
        end = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        log = child.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{export} stopped the server's runtime ({end}):\n{log}")
    stdout = io.BytesIO(child.stdout)
    answers = [np.load(stdout, allow_pickle=False) for _ in requests]
    return [answer.item() if answer.dtype.kind == "U" else answer for answer in answers]


class Pointer(ctypes.c_void_p):
    """Of a subclass ctypes makes no plain integer, which it would pass on as 32 bits."""


class Endpoint(ctypes.Structure):
    """TF_Output: an operation, and which of its outputs."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


RETURN_TYPES = {
    Pointer: """TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel
        TF_GraphOperationByName TF_AllocateTensor TF_TensorData""",
    ctypes.c_char_p: "TF_Message",
    ctypes.c_int64: "TF_Dim",
}


def load_library(folder):
    """Load libtensorflow_cc, with XLA off: in a server started without flags it is off."""
    for name in ("libtensorflow_framework", "libtensorflow_cc"):
        file = next(pathlib.Path(folder).glob(f"{name}.*"))
        library = ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    for return_type, names in RETURN_TYPES.items():
        for name in names.split():
            getattr(library, name).restype = return_type
    library._ZN10tensorflow21DisableXlaCompilationEv()
    return library


class Session:
    """The graph with the tag `serve` of an export, ready to answer; `library` as loaded above."""

    def __init__(self, library, export):
        self.library = library
        self.status = library.TF_NewStatus()
        self.graph = library.TF_NewGraph()
        options, tags = library.TF_NewSessionOptions(), (ctypes.c_char_p * 1)(b"serve")
        self.session = library.TF_LoadSessionFromSavedModel(
            options, None, export.encode(), tags, 1, self.graph, None, self.status
        )
        if self.error():
            sys.exit(self.error())

    def error(self):
        if self.library.TF_GetCode(self.status):
            return self.library.TF_Message(self.status).decode(errors="replace")

    def run(self, input_name, output_name, request):
        feeds = (Pointer * 1)(self.tensor(request))
        fetched = (Pointer * 1)()
        self.library.TF_SessionRun(
            *(self.session, None),
            *(self.endpoint(input_name), feeds, 1),
            *(self.endpoint(output_name), fetched, 1),
            *(None, 0, None, self.status),
        )
        return np.array(self.error()) if self.error() else self.array(fetched[0])

    def endpoint(self, name):
        operation, index = name.split(":")
        found = self.library.TF_GraphOperationByName(self.graph, operation.encode())
        return (Endpoint * 1)(Endpoint(found, int(index)))

    def tensor(self, array):
        strings = array.dtype.kind == "V"
        data_type = STRING if strings else DATA_TYPES[array.dtype.name]
        size = ctypes.c_size_t(array.size * TSTRING_BYTES if strings else array.nbytes)
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self.library.TF_AllocateTensor(data_type, shape, array.ndim, size)
        data = self.library.TF_TensorData(tensor)
        if not strings:
            ctypes.memmove(data, array.tobytes(), array.nbytes)
            return tensor
        for index, item in enumerate(array.flat):
            place = Pointer(data.value + index * TSTRING_BYTES)
            self.library.TF_StringInit(place)
            self.library.TF_StringCopy(place, item.tobytes(), ctypes.c_size_t(array.itemsize))
        return tensor

    def array(self, tensor):
        if self.library.TF_TensorType(tensor) != FLOAT:
            return np.array("the output is not float32")
        shape = [self.library.TF_Dim(tensor, i) for i in range(self.library.TF_NumDims(tensor))]
        data = ctypes.string_at(self.library.TF_TensorData(tensor), 4 * int(np.prod(shape)))
        return np.frombuffer(data, "float32").reshape(shape)


def main(libraries, export, input_name, output_name):
    """In the child: the requests come on standard input as .npy, the answers leave likewise."""
    session = Session(load_library(libraries), export)
    requests = io.BytesIO(sys.stdin.buffer.read())
    while requests.tell() < len(requests.getbuffer()):
        answer = session.run(input_name, output_name, np.load(requests, allow_pickle=False))
        np.lib.format.write_array(sys.stdout.buffer, answer, allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
