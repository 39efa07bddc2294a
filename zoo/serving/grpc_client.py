"""A client of TensorFlow Serving's gRPC API.

It sends a third of the REST client's bytes, and needs TensorFlow.
"""

import re

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
from zoo.serving.servers import EXPECTED, Refused, ServerError, retrying
from zoo.text import reason

WRONG = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}
MAX_MESSAGE = 256 * 2**20


class Server:
    """A model behind a server's gRPC API, asked in the words of the REST API."""

    def __init__(self, address: str, model: str, *, timeout: float, retries: int) -> None:
        matched = re.fullmatch(r"([^/]+)(?:/versions/(\d+))?", model)
        if not matched:
            raise ValueError(f"Received the model {model!r}; expected {EXPECTED}.")
        self.address, self.timeout, self.retries = address, timeout, retries
        self.name, self.version = matched[1], matched[2]
        sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [(size, MAX_MESSAGE) for size in sizes]
        channel = grpc.insecure_channel(address, options=options)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def post(self, method: str, body: dict) -> dict:
        """As `zoo.serving.rest_client.Server.post`."""
        feeds = feeds_of(Example(method, body, {}))
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
        return body_of({name: tf.make_ndarray(tensor) for name, tensor in outputs.items()})

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
        def ask():
            try:
                return method(request, timeout=self.timeout)
            except grpc.RpcError as error:
                kind = Refused if error.code() in WRONG else ServerError
                message = f"{error.code().name}: {reason(error.details())}"
                raise kind(f"grpc://{self.address} answers {message}") from error

        return retrying(ask, self.retries)
