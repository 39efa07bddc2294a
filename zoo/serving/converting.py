"""Other forms of an export, made from its SavedModel and compared with it on its examples.

    saved_models/NAME/exports/{VERSION.onnx, VERSION.tflite}

Both take `serving_default` alone: neither runtime decodes files.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import tensorflow as tf

from zoo import exports, files
from zoo.exports import ExportError
from zoo.serving import examples
from zoo.serving.asked import feeds_of

NEEDED = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
SUFFIX = {"onnx": "onnx", "litert": "tflite"}
TOLERANCE = 1e-5


def check_installed(forms):
    """Raise ExportError for a form that is not known, or whose packages are not installed."""
    for form in forms:
        if form not in NEEDED:
            raise ExportError(f"Received the form {form!r}; expected {' or '.join(NEEDED)}.")
        for package in NEEDED[form]:
            if importlib.util.find_spec(package) is None:
                raise ExportError(
                    f"{form} needs {package}, which is not installed: "
                    f"pip install 'keras-nin-zoo[{form}]'."
                )


def convert(version, form):
    """(path, furthest that a probability is off Keras' on the examples) of "onnx" or "litert".

    Raises:
        ExportError: when a package is missing, or the result differs by more than 1e-5 and
            more than its card allows.
    """
    check_installed([form])
    path = version.parent / "exports" / f"{version.name}.{SUFFIX[form]}"
    path.parent.mkdir(exist_ok=True)
    make, ask = {"onnx": (make_onnx, ask_onnx), "litert": (make_litert, ask_litert)}[form]
    with files.whole(path) as partial:
        make(version, partial)
        off = _difference(version, lambda images: ask(partial, images))
        allowed = max(TOLERANCE, exports.card(version)["tolerance"])
        if not off <= allowed:
            raise ExportError(f"{form} of {version} differs by {off:.2g}; {allowed:.0e} allowed.")
    return path, off


def _difference(version, ask):
    """Compare with Keras' answers for all the images of the examples, with 1 and with several."""
    stored = {each.name: each for each in examples.read(version / exports.EXAMPLES)}
    files = feeds_of(stored["predict_bytes"])["image_bytes"]
    channels = exports.card(version)["input"]["shape"][-1]
    images = np.float32([tf.io.decode_png(file, channels=channels) for file in files])
    rows = stored["predict_bytes"].expected["predictions"]
    expected = np.float64([row["probabilities"] for row in rows])
    off = [np.abs(ask(images) - expected).max(), np.abs(ask(images[:1]) - expected[:1]).max()]
    return float(max(off))


def make_onnx(version, file):
    """Write the ONNX form of `serving_default`."""
    # Of tf2onnx the command line is what is documented; it prints, and keeps TensorFlow's state.
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(version)]
    command += ["--tag", "serve", "--signature_def", "serving_default", "--output", str(file)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode:
        raise ExportError(f"tf2onnx failed on {version}: {child.stderr[-1000:]}")


def ask_onnx(file, images):
    """onnxruntime's probabilities (n, classes) for float32 pixels (n, h, w, c)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return session.run(["probabilities"], {image.name: images})[0]


def make_litert(version, file):
    """Write the LiteRT form of `serving_default`."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(version), signature_keys=["serving_default"]
    )
    file.write_bytes(converter.convert())


def ask_litert(file, images):
    """LiteRT's probabilities (n, classes) for float32 pixels (n, h, w, c)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    runner = interpreter.get_signature_runner("serving_default")
    return runner(images=images)["probabilities"]
