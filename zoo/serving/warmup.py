"""Warm-up requests: what TF Serving replays when it loads a version, before it takes traffic.

A record that fails makes the server refuse the whole version, so `zoo verify` replays them too.
"""

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


def write(version, name, image, png, *, exits):
    """Write the requests of model `name`: one image (h, w, c), also as the bytes of a PNG.

    The signatures in bytes get both sizes of batch; pixels, which would fill the file, one image.
    """
    logs = [predict(name, "serving_default", images=np.float32([image]))]
    if exits:
        logs.append(predict(name, "exits", images=np.float32([image])))
    for batch in BATCHES:
        strings = np.array([png] * batch, object)
        logs += [predict(name, "predict_bytes", image_bytes=strings), classify(name, strings)]
    file = version / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as records:
        for log in logs:
            records.write(log.SerializeToString(deterministic=True))


def read(version):
    """The requests of a version: [(signature, {input: array})], as the session is fed them."""
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


def predict(name, signature, **inputs):
    """A record of a request to the Predict API."""
    spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    request = predict_pb2.PredictRequest(model_spec=spec)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictLog(request=request)
    return prediction_log_pb2.PredictionLog(predict_log=log)


def classify(name, files):
    """A record of a request to the Classify API: the bytes of images."""
    request = classification_pb2.ClassificationRequest(
        model_spec=model_pb2.ModelSpec(name=name, signature_name="classify"),
        input=input_pb2.Input(example_list=input_pb2.ExampleList(examples=map(example, files))),
    )
    log = prediction_log_pb2.ClassifyLog(request=request)
    return prediction_log_pb2.PredictionLog(classify_log=log)


def example(file):
    """The bytes of an image as the tf.Example that the signature `classify` parses."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    return tf.train.Example(features=tf.train.Features(feature={IMAGE_FEATURE: feature}))
