"""An export in the runtime of a server: named arrays in, named arrays out, nothing of Keras."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from zoo import programs
from zoo.exports import ExportError
from zoo.serving import signatures, warmup
from zoo.serving._c_api import Runtime
from zoo.serving.example_requests import Example

Arrays = dict[str, np.ndarray]


class ServerRuntime:
    """A version in a child process, loaded as TF Serving loads it; to be used in a `with`.

    Arguments:
        version: the folder of the version.
        timeout: seconds to wait for an answer.
        mixed_precision: as the server's flag of that name, "" or "bfloat16".

    Raises:
        ExportError: for a file that is no SavedModel, or a graph that does more than calculate.
    """

    def __init__(
        self, version: Path, *, timeout: float = 60, mixed_precision: Literal["", "bfloat16"] = ""
    ) -> None:
        self.graph = programs.read(version)
        config = config_pb2.ConfigProto()
        if mixed_precision:
            rewriting = config.graph_options.rewrite_options
            rewriting.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        self.runtime = Runtime(
            tf.sysconfig.get_lib(), version, timeout=timeout, config=config.SerializeToString()
        )
        public = self.graph.signature_def.items()
        self.signatures = {name: s for name, s in public if not name.startswith("__")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.runtime.__exit__(*error)

    def __call__(self, signature: str, feeds: Arrays) -> Arrays | str:
        """{input: array} -> {output: array}, or the error as a string.

        Raises:
            zoo.serving._c_api.Stopped: if the version does not load, or the request ended the
                process or had no answer in time.
        """
        tensors = self.signatures[signature]
        fetches = {name: tensor.name for name, tensor in tensors.outputs.items()}
        fed = {tensors.inputs[name].name: array for name, array in feeds.items()}
        answer = self.runtime.ask(fed, list(fetches.values()))
        if isinstance(answer, str):
            return answer
        return {name: answer[tensor] for name, tensor in fetches.items()}

    def answer(self, signature: str, feeds: Arrays) -> Arrays:
        """Return the answer to a request that Keras answers. An error raises ExportError."""
        answer = self(signature, feeds)
        if isinstance(answer, str):
            raise ExportError(f"{signature} has an error where Keras answers: {answer}")
        return answer

    def only_input(self, signature: str) -> str:
        """Return the name of the one input of a signature."""
        (name,) = self.signatures[signature].inputs
        return name


def run_as_a_server(
    version: Path,
    requests: Sequence[np.ndarray],
    *,
    signature: str = "serving_default",
    output: str = "probabilities",
) -> list[np.ndarray | str]:
    """Return the answers of TF Serving's runtime to requests: arrays, or errors as strings.

    A request is an array of any shape and type, which nothing but the graph checks. Images in bytes
    are an object array.

    Raises:
        zoo.serving._c_api.Stopped: if the version does not load, or a request ends the process,
            as it would end the server.
    """
    with ServerRuntime(version) as server:
        name = server.only_input(signature)
        answers = [server(signature, {name: request}) for request in requests]
    return [answer if isinstance(answer, str) else answer[output] for answer in answers]


def feeds_of(example: Example) -> Arrays:
    """Return the tensors that the server makes of the body of a REST request: {input: array}."""
    if "examples" in example.request:
        files = [_bytes(body[signatures.IMAGE_FEATURE]) for body in example.request["examples"]]
        serialized = [warmup.example(file).SerializeToString() for file in files]
        return {"inputs": np.array(serialized, object)}
    instances = example.request["instances"]
    if isinstance(instances[0], dict):
        return {"image_bytes": np.array([_bytes(body) for body in instances], object)}
    return {"images": np.array(instances, "float32")}


def body_of(answer: Arrays) -> dict[str, Any]:
    """Return the body of a REST answer, in rows, for {output: array}."""
    values = {name: _plain(array) for name, array in answer.items()}
    if values.keys() == {"classes", "scores"}:
        rows = zip(values["classes"], values["scores"], strict=True)
        return {"results": [[list(pair) for pair in zip(*row, strict=True)] for row in rows]}
    rows = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def _bytes(value: dict[str, str]) -> bytes:
    return base64.b64decode(value["b64"])


def _plain(array: np.ndarray) -> list:
    if array.dtype == object:
        return [[item.decode() for item in row] for row in array]
    return array.tolist()
