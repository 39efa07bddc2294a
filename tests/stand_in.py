"""A stand-in for tensorflow_model_server: its APIs on its own stubs, its runtime through the C API.

    python tests/stand_in.py NAME=FOLDER... [--rest 8501] [--grpc 8500]

What is real: the messages, the loader, the session, which checks no shape. What is imitated: the
HTTP and gRPC front ends, the choice of versions (the newest; a bad one leaves the old one serving),
and the rules of JSON, as tensorflow/serving documents them. There is no batching.
"""

import argparse
import base64
import contextlib
import json
import pathlib
import re
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from zoo import programs
from zoo.serving import _c_api

CODES = {code.value[0]: code for code in grpc.StatusCode}
START, AVAILABLE, END = 10, 30, 50  # ModelVersionStatus.State
URL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?::(predict|classify)|/(metadata))?")


class Failure(Exception):
    """What the client is told; `code` is gRPC's."""

    def __init__(self, message, code=grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code


def not_found(what):
    return Failure(f"Servable not found for request: {what}", grpc.StatusCode.NOT_FOUND)


class Servable:
    """One version, loaded and warmed up; raises where the server would not load it."""

    def __init__(self, library, name, path):
        self.name, self.version = name, int(path.name)
        self.signatures = dict(programs.parse(path).signature_def)
        self.session = _c_api.Session(library, path)
        warm_up = path / "assets.extra/tf_serving_warmup_requests"
        records = tf.data.TFRecordDataset(str(warm_up)) if warm_up.exists() else ()
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            kind = log.WhichOneof("log_type")
            answer = {"predict_log": self.predict, "classify_log": self.classify}[kind]
            answer(getattr(log, kind).request)

    def signature(self, name):
        name = name or "serving_default"
        if name not in self.signatures:
            raise Failure(f'Serving signature key "{name}" not found.')
        return name, self.signatures[name]

    def run(self, signature, feeds, wanted=()):
        if set(feeds) != set(signature.inputs):
            sent, expected = sorted(feeds), sorted(signature.inputs)
            raise Failure(f"input size does not match signature: {sent} != {expected}")
        outputs = {k: v.name for k, v in signature.outputs.items() if not wanted or k in wanted}
        if missing := set(wanted) - set(outputs):
            raise Failure(f"output tensor alias not found in signature: {missing}")
        feeds = {signature.inputs[key].name: array for key, array in feeds.items()}
        try:
            answer = self.session.run(feeds, list(outputs.values()))
        except _c_api.Refused as refused:
            raise Failure(str(refused), CODES[refused.code]) from refused
        return {name: answer[tensor] for name, tensor in outputs.items()}

    def predict(self, request):
        name, signature = self.signature(request.model_spec.signature_name)
        feeds = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        answer = self.run(signature, feeds, request.output_filter)
        response = predict_pb2.PredictResponse(model_spec=self.spec(name))
        for key, array in answer.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        return response

    def classify(self, request):
        name, signature = self.signature(request.model_spec.signature_name)
        if list(signature.inputs) != ["inputs"] or not set(signature.outputs) <= {
            "classes",
            "scores",
        }:
            raise Failure("Expected one input, inputs, and one or two outputs, classes and scores.")
        if not request.input.example_list.examples:
            raise Failure("Input is empty.")
        serialized = [each.SerializeToString() for each in request.input.example_list.examples]
        answer = self.run(signature, {"inputs": np.array(serialized, object)})
        response = classification_pb2.ClassificationResponse(model_spec=self.spec(name))
        for labels, scores in zip(answer["classes"], answer["scores"], strict=True):
            row = response.result.classifications.add()
            for label, score in zip(labels, scores, strict=True):
                row.classes.add(label=label.decode(), score=float(score))
        return response

    def spec(self, signature=""):
        spec = model_pb2.ModelSpec(name=self.name, signature_name=signature)
        spec.version.value = self.version
        return spec


class Model:
    """A folder of versions, of which the newest serves; one that does not load changes nothing."""

    def __init__(self, library, name, folder):
        self.library, self.name, self.folder = library, name, pathlib.Path(folder)
        self.serving, self.states = None, {}
        self.poll()

    def poll(self):
        numbers = [int(p.name) for p in self.folder.iterdir() if p.name.isdecimal()]
        newest = max(numbers, default=None)
        current = self.serving.version if self.serving else None
        if newest in (None, current) or self.states.get(newest, (0, ""))[1]:
            return
        self.states[newest] = (START, "")
        try:
            loaded = Servable(self.library, self.name, self.folder / str(newest))
        except Exception as error:
            self.states[newest] = (END, str(error) or repr(error))
            return
        self.states[newest] = (AVAILABLE, "")
        self.serving = loaded
        if current is not None:
            self.states[current] = (END, "")

    def get(self, spec):
        serving = self.serving
        wanted = spec.version.value if spec.HasField("version") else None
        if serving is None or wanted not in (None, serving.version):
            raise not_found(
                f"Specific({self.name}, {wanted})" if wanted else f"Latest({self.name})"
            )
        return serving

    def status(self):
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, (state, error) in sorted(self.states.items(), reverse=True):
            status = {"error_code": 2 if error else 0, "error_message": error}
            response.model_version_status.add(version=version, state=state, status=status)
        return response


class StandIn:
    """A server of {name: folder}, on two free ports of 127.0.0.1; a context manager."""

    def __init__(self, folders, *, rest=0, grpc_port=0, poll_seconds=0.2, xla=True):
        # In a process of other tests XLA stays as it is; nothing of ours needs it.
        library = _c_api.load_library(tf.sysconfig.get_lib(), xla=xla)
        self.models = {name: Model(library, name, folder) for name, folder in folders.items()}
        self.poll_seconds, self.closing = poll_seconds, threading.Event()
        self.grpc = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)]
        )
        _add_grpc_services(self, self.grpc)
        self.grpc_port = self.grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
        self.http = _Http(("127.0.0.1", rest), _handler(self))
        self.rest_port = self.http.server_address[1]

    def __enter__(self):
        self.grpc.start()
        self.threads = [threading.Thread(target=target) for target in (self.serve, self.poll)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.grpc.stop(0).wait()
        for thread in self.threads:
            thread.join()

    def serve(self):
        self.http.serve_forever(poll_interval=0.05)

    def poll(self):
        while not self.closing.wait(self.poll_seconds):
            for model in self.models.values():
                model.poll()

    def url(self, name, scheme="http"):
        port = self.rest_port if scheme == "http" else self.grpc_port
        return f"{scheme}://127.0.0.1:{port}/v1/models/{name}"

    def model(self, spec):
        if spec.name not in self.models:
            raise not_found(f"Latest({spec.name})")
        return self.models[spec.name]

    def predict(self, request):
        return self.model(request.model_spec).get(request.model_spec).predict(request)

    def classify(self, request):
        return self.model(request.model_spec).get(request.model_spec).classify(request)

    def status(self, request):
        return self.model(request.model_spec).status()

    def metadata(self, request):
        servable = self.model(request.model_spec).get(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=servable.spec())
        response.metadata["signature_def"].Pack(signatures)
        return response


class _Http(ThreadingHTTPServer):
    request_queue_size = 64


def _add_grpc_services(stand_in, server):
    def answering(function):
        def answer(self, request, context):
            try:
                return function(request)
            except Failure as failure:
                context.abort(failure.code, str(failure))

        return answer

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict = answering(stand_in.predict)
        Classify = answering(stand_in.classify)
        GetModelMetadata = answering(stand_in.metadata)

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = answering(stand_in.status)

    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)


def _handler(stand_in):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else a small answer waits for the acknowledgement of its header.
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(None)

        def do_POST(self):
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def answer(self, content):
            try:
                status, body = 200, rest(stand_in, self.path, content)
            except Failure as failure:
                missing = failure.code == grpc.StatusCode.NOT_FOUND
                status, body = 404 if missing else 400, {"error": str(failure)}
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def rest(stand_in, path, content):
    """The body of the answer to a GET (`content` None) or POST."""
    matched = URL.fullmatch(path)
    if not matched or bool(matched[3]) != (content is not None):
        raise Failure(f"Malformed request: {path}")
    spec = model_pb2.ModelSpec(name=matched[1])
    if matched[2]:
        spec.version.value = int(matched[2])
    if content is None and matched[4]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec)
        return as_json(stand_in.metadata(request))
    if content is None:
        return as_json(stand_in.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))
    try:
        body = json.loads(content)
    except ValueError as error:
        raise Failure(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise Failure("Request body should be a JSON object")
    spec.signature_name = body.get("signature_name", "")
    servable = stand_in.model(spec).get(spec)
    return (rest_predict if matched[3] == "predict" else rest_classify)(servable, spec, body)


def as_json(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def rest_predict(servable, spec, body):
    _, signature = servable.signature(spec.signature_name)
    if ("instances" in body) == ("inputs" in body):
        raise Failure("Missing 'inputs' or 'instances' key")
    rows = "instances" in body
    values = by_input(body["instances" if rows else "inputs"], list(signature.inputs), rows)
    if set(values) != set(signature.inputs):
        raise Failure(f"input size does not match signature: {sorted(values)}")
    request = predict_pb2.PredictRequest(model_spec=spec)
    for name, value in values.items():
        dtype = tf.as_dtype(signature.inputs[name].dtype)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array_of(value, dtype)))
    outputs = servable.predict(request).outputs
    columns = {name: plain(tf.make_ndarray(tensor)) for name, tensor in outputs.items()}
    if not rows:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len({len(column) for column in columns.values()}) != 1:
        raise Failure("Tensor with inconsistent batch size")
    lines = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, line, strict=True)) for line in lines]}


def by_input(value, names, rows):
    """The values of each input, however JSON gave them."""
    if not rows:
        return value if isinstance(value, dict) else {names[0]: value}
    if not isinstance(value, list) or not value:
        raise Failure("Request 'instances' is empty or not a list")
    if isinstance(value[0], dict) and set(value[0]) != {"b64"}:
        if any(not isinstance(row, dict) or row.keys() != value[0].keys() for row in value):
            raise Failure("All instances must have the same keys")
        return {name: [row[name] for row in value] for name in value[0]}
    return {names[0]: value}


def array_of(value, dtype):
    value = decoded(value)
    try:
        if dtype == tf.string:
            array = np.array(value, object)
            flat = [each.encode() if isinstance(each, str) else each for each in array.flat]
            if not all(isinstance(each, bytes) for each in flat):
                raise Failure("JSON Value: expected a string or {'b64': ...}")
            return np.array(flat, object).reshape(array.shape)
        array = np.array(value)
        if array.dtype.kind not in "iuf":
            raise Failure(f"JSON Value is not of the expected type: {dtype.name}")
        return array.astype(dtype.as_numpy_dtype)
    except ValueError as error:
        raise Failure(f"Encountered list at unexpected size: {error}") from error


def decoded(value):
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise Failure("Unable to base64 decode: expected {'b64': ...}")
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (ValueError, TypeError) as error:
            raise Failure(f"Unable to base64 decode: {error}") from error
    return [decoded(each) for each in value] if isinstance(value, list) else value


def plain(array):
    if array.dtype != object:
        return array.tolist()
    return [plain(each) for each in array] if array.ndim > 1 else [each.decode() for each in array]


def rest_classify(servable, spec, body):
    if not isinstance(body.get("examples"), list):
        raise Failure("When method is classify, key 'examples' is expected")
    examples = []
    for each in body["examples"]:
        features = {}
        for name, value in each.items():
            value = decoded(value)
            values = value if isinstance(value, list) else [value]
            values = [each.encode() if isinstance(each, str) else each for each in values]
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)))
    request = classification_pb2.ClassificationRequest(
        model_spec=spec,
        input=input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples)),
    )
    rows = [each.classes for each in servable.classify(request).result.classifications]
    return {"results": [[[each.label, each.score] for each in row] for row in rows]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--rest", type=int, default=8501)
    parser.add_argument("--grpc", type=int, default=8500)
    arguments = parser.parse_args()
    folders = dict(each.split("=", 1) for each in arguments.models)
    with StandIn(folders, rest=arguments.rest, grpc_port=arguments.grpc, xla=False) as stand_in:
        for name, model in stand_in.models.items():
            print(f"{stand_in.url(name)}  {model.states}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main()
