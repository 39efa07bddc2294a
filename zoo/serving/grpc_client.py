"""A client of TensorFlow Serving's gRPC API.

It sends a third of the REST client's bytes, and needs TensorFlow. It trusts the server as little:
one deadline holds for the whole answer, which has a largest size. No proxy is used.
"""

import math
import re
from pathlib import Path
from urllib.parse import SplitResult

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from zoo.serving.example_requests import Example
from zoo.serving.server_runtime import body_of, feeds_of
from zoo.serving.servers import (
    EXPECTED,
    NoAnswer,
    Refused,
    ServerError,
    retrying,
    shown,
    untrusted,
)
from zoo.text import reason

WRONG = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.DATA_LOSS,  # of a damaged PNG
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}
MAX_REQUEST = 256 * 2**20
# 4 bytes for each class of an image. Messages of nothing but empty parts take 20 times their size
# in memory.
MAX_ANSWER = 8 * 2**20
# What the outputs of an export are.
DTYPES = {tf.float32.as_datatype_enum, tf.int32.as_datatype_enum, tf.string.as_datatype_enum}


class Server:
    """A model behind a server's gRPC API, asked in the words of the REST API.

    See `zoo.serving.client.connect`.
    """

    def __init__(
        self,
        address: SplitResult,
        *,
        timeout: float,
        retries: int,
        token: str | None = None,
        ca: Path | None = None,
    ) -> None:
        matched = re.fullmatch(r"/v1/models/([^/]+)(?:/versions/(\d{1,18}))?", address.path)
        if not matched:
            raise ValueError(f"Received the server {address.geturl()!r}; expected {EXPECTED}.")
        self.url, self.timeout, self.retries = address.geturl(), timeout, retries
        self.name, self.version = matched[1], matched[2]
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        options = [
            ("grpc.max_send_message_length", MAX_REQUEST),
            ("grpc.max_receive_message_length", MAX_ANSWER),
            ("grpc.enable_http_proxy", 0),
        ]
        if address.scheme == "grpcs":
            trusted = grpc.ssl_channel_credentials(ca.read_bytes() if ca else None)
            channel = grpc.secure_channel(address.netloc, trusted, options)
        else:
            channel = grpc.insecure_channel(address.netloc, options)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def post(self, method: str, body: dict) -> dict:
        """As `zoo.serving.rest_client.Server.post`."""
        try:
            feeds = feeds_of(Example(method, body, {}))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Refused(f"The request has no form that gRPC knows: {error!r}") from error
        signature = body.get("signature_name", "serving_default")
        ask = self._classify if "inputs" in feeds else self._predict
        return ask(feeds, signature)

    def status(self) -> dict[int, str]:
        """As `zoo.serving.rest_client.Server.status`."""
        request = self._addressed(get_model_status_pb2.GetModelStatusRequest())
        statuses = self._call(self.models.GetModelStatus, request).model_version_status
        states = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: states.Name(status.state) for status in statuses}

    def _predict(self, feeds, signature):
        request = self._addressed(predict_pb2.PredictRequest(), signature)
        for name, array in feeds.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        outputs = self._call(self.predictions.Predict, request).outputs
        try:
            return body_of({name: _array(tensor) for name, tensor in outputs.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self.url} answers tensors that no export has: {shown(error)}"
            ) from error

    def _classify(self, feeds, signature):
        request = self._addressed(classification_pb2.ClassificationRequest(), signature)
        serialized = feeds["inputs"]
        request.input.example_list.examples.extend(map(tf.train.Example.FromString, serialized))
        result = self._call(self.predictions.Classify, request).result
        rows = [classification.classes for classification in result.classifications]
        return {"results": [[[guess.label, guess.score] for guess in row] for row in rows]}

    def _addressed(self, request, signature=""):
        request.model_spec.name, request.model_spec.signature_name = self.name, signature
        if self.version is not None:
            request.model_spec.version.value = int(self.version)
        return request

    def _call(self, method, request):
        def ask(seconds):
            try:
                return method(request, timeout=seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                details = error.details() or ""
                if "CERTIFICATE_VERIFY_FAILED" in details:
                    raise untrusted(self.url, details) from error
                kind = Refused if error.code() in WRONG else NoAnswer
                message = f"{error.code().name}: {shown(reason(details))}"
                raise kind(f"{self.url} answers {message}") from error

        return retrying(ask, self.retries, self.timeout)


def _array(tensor):
    """Return the array of a tensor, whose type and size are those of an export's outputs."""
    sides = [side.size for side in tensor.tensor_shape.dim]
    # A tensor of one number may claim any shape; TensorFlow would repeat the number.
    if tensor.dtype not in DTYPES or math.prod(sides) > MAX_ANSWER:
        raise ValueError(f"type {tensor.dtype}, shape {sides}")
    return tf.make_ndarray(tensor)
