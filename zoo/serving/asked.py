"""An export as the runtime of a server has it: signatures in, tensors out, nothing of Keras."""

import base64

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from zoo.exports import ExportError
from zoo.serving import signatures, warmup
from zoo.serving._c_api import Runtime


class Asked:
    """A version as the server's runtime holds it: a signature and its inputs in, its outputs out.

    Raises:
        ExportError: for a file that is no SavedModel.
    """

    def __init__(self, version, *, timeout=60):
        self.graph = read_graph(version)
        self.runtime = Runtime(tf.sysconfig.get_lib(), version, timeout=timeout)
        public = self.graph.signature_def.items()
        self.signatures = {name: s for name, s in public if not name.startswith("__")}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.runtime.__exit__(*error)

    def __call__(self, signature, feeds):
        """{input: array} -> {output: array}, or the error as a string; raises Stopped."""
        asked = self.signatures[signature]
        fetches = {name: tensor.name for name, tensor in asked.outputs.items()}
        fed = {asked.inputs[name].name: array for name, array in feeds.items()}
        answer = self.runtime.ask(fed, list(fetches.values()))
        if isinstance(answer, str):
            return answer
        return {name: answer[tensor] for name, tensor in fetches.items()}

    def answer(self, signature, feeds):
        """Ask a request that Keras answers; an error raises ExportError."""
        answer = self(signature, feeds)
        if isinstance(answer, str):
            raise ExportError(f"{signature} has an error where Keras answers: {answer}")
        return answer

    def only_input(self, signature):
        (name,) = self.signatures[signature].inputs
        return name


def read_graph(version):
    """The one graph of a SavedModel, with the tag `serve`, as its proto; raises ExportError."""
    try:
        saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
        (graph,) = saved.meta_graphs
    except (ValueError, DecodeError) as error:
        raise ExportError(f"{version / 'saved_model.pb'} is not one graph: {error}") from error
    if list(graph.meta_info_def.tags) != ["serve"]:
        raise ExportError(f"The graph has the tags {list(graph.meta_info_def.tags)}, not serve.")
    return graph


def run_as_a_server(directory, requests, *, signature="serving_default", output="probabilities"):
    """Return the answers of TF Serving's runtime: arrays, or an error as a string.

    Nothing but the graph checks a request, an array of any shape and type; images in bytes are an
    object array.

    Raises:
        zoo.serving._c_api.Stopped: when the version does not load, or a request ends the process,
            as it would end the server.
    """
    with Asked(directory) as asked:
        name = asked.only_input(signature)
        answers = [asked(signature, {name: request}) for request in requests]
    return [answer if isinstance(answer, str) else answer[output] for answer in answers]


def feeds_of(example):
    """The body of a REST request, as the server turns it into the tensors of its signature."""
    if "examples" in example.request:
        files = [_bytes(each[signatures.IMAGE_FEATURE]) for each in example.request["examples"]]
        serialized = [warmup.example(file).SerializeToString() for file in files]
        return {"inputs": np.array(serialized, object)}
    instances = example.request["instances"]
    if isinstance(instances[0], dict):
        return {"image_bytes": np.array([_bytes(each) for each in instances], object)}
    return {"images": np.array(instances, "float32")}


def body_of(answer):
    """{output: array} -> the body of a REST answer, in rows."""
    values = {name: _plain(array) for name, array in answer.items()}
    if values.keys() == {"classes", "scores"}:
        rows = zip(values["classes"], values["scores"], strict=True)
        return {"results": [[list(pair) for pair in zip(*row, strict=True)] for row in rows]}
    rows = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def _bytes(value):
    return base64.b64decode(value["b64"])


def _plain(array):
    if array.dtype == object:
        return [[item.decode() for item in row] for row in array]
    return array.tolist()
