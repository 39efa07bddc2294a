"""Warm-up requests: TF Serving replays them when it loads a version, before it takes traffic.

If one of them fails, the server refuses the whole version. So `zoo verify` replays them too.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from zoo.serving.signatures import IMAGE_FEATURE

FILE = "assets.extra/tf_serving_warmup_requests"
BATCHES = (1, 8)


def write(version: Path, name: str, image: np.ndarray, png: bytes, *, exits: bool) -> None:
    """Write the warm-up requests of a version.

    Signatures that take files are asked with every size of `BATCHES`. Those that take pixels are
    asked with one image, since pixels would fill the file.

    Arguments:
        version: the folder of the version.
        name: the name of the model in the server.
        image: pixels (h, w, c).
        png: the same image as the bytes of a PNG file.
        exits: whether the version has the signature `exits`.
    """
    logs = [predict(name, "serving_default", images=image[np.newaxis].astype("float32"))]
    if exits:
        logs.append(predict(name, "exits", images=image[np.newaxis].astype("float32")))
    for batch in BATCHES:
        strings = np.array([png] * batch, object)
        logs += [predict(name, "predict_bytes", image_bytes=strings), classify(name, strings)]
    file = version / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as records:
        for log in logs:
            records.write(log.SerializeToString(deterministic=True))


def read(version: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the requests of a version: [(signature, {input: array})]."""
    requests = []
    for record in tf.data.TFRecordDataset(str(version / FILE)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        if kind == "predict_log":
            feeds = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        else:
            examples = request.input.example_list.examples
            feeds = {"inputs": np.array([e.SerializeToString() for e in examples], object)}
        requests.append((request.model_spec.signature_name or "serving_default", feeds))
    return requests


def predict(name: str, signature: str, **inputs: np.ndarray) -> prediction_log_pb2.PredictionLog:
    """Return the record of a request to the Predict API."""
    spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    request = predict_pb2.PredictRequest(model_spec=spec)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictLog(request=request)
    return prediction_log_pb2.PredictionLog(predict_log=log)


def classify(name: str, files: Iterable[bytes]) -> prediction_log_pb2.PredictionLog:
    """Return the record of a request to the Classify API with the bytes of images."""
    request = classification_pb2.ClassificationRequest(
        model_spec=model_pb2.ModelSpec(name=name, signature_name="classify"),
        input=input_pb2.Input(example_list=input_pb2.ExampleList(examples=map(example, files))),
    )
    log = prediction_log_pb2.ClassifyLog(request=request)
    return prediction_log_pb2.PredictionLog(classify_log=log)


def example(file: bytes) -> tf.train.Example:
    """Return the bytes of an image as the tf.Example that the signature `classify` parses."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    return tf.train.Example(features=tf.train.Features(feature={IMAGE_FEATURE: feature}))
