"""Other formats of an export: ONNX and LiteRT, made from its SavedModel and compared with Keras.

    saved_models/NAME/exports/{VERSION.onnx, VERSION.tflite}

Both have `serving_default` alone, since neither runtime decodes files.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo import exports, files, programs
from zoo.exports import ExportError
from zoo.serving import example_requests
from zoo.serving.server_runtime import feeds_of

NEEDED = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
SUFFIX = {"onnx": "onnx", "litert": "tflite"}
TOLERANCE = 1e-5


def check_installed(forms: Iterable[str]) -> None:
    """Raise ExportError for a format that is not known, or whose packages are not installed."""
    for form in forms:
        if form not in NEEDED:
            raise ExportError(f"Received the form {form!r}; expected {' or '.join(NEEDED)}.")
        for package in NEEDED[form]:
            if importlib.util.find_spec(package) is None:
                raise ExportError(
                    f"{form} needs {package}, which is not installed: "
                    f"pip install 'keras-nin-zoo[{form}]'."
                )


def convert(version: Path, form: str) -> tuple[Path, float]:
    """Write a version in another format and compare it with Keras on the examples.

    Arguments:
        version: the folder of the version.
        form: "onnx" or "litert".

    Returns:
        The path, and the largest difference of a probability.

    Raises:
        ExportError: if a package is missing, if a file was changed or the graph does more than
            calculate, or if a probability differs by more than 1e-5 and by
            more than the card allows.
    """
    check_installed([form])
    programs.checked(version)
    path = version.parent / "exports" / f"{version.name}.{SUFFIX[form]}"
    path.parent.mkdir(exist_ok=True)
    make, ask = {"onnx": (make_onnx, ask_onnx), "litert": (make_litert, ask_litert)}[form]
    with files.whole(path) as partial:
        make(version, partial)
        difference = _difference(version, lambda images: ask(partial, images))
        allowed = max(TOLERANCE, exports.card(version)["tolerance"])
        if not difference <= allowed:
            raise ExportError(
                f"{form} of {version} differs from Keras by {difference:.2g}; {allowed:.0e} is "
                "allowed."
            )
    return path, difference


def _difference(version: Path, ask: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the largest difference from Keras on the examples, as one batch and as one image."""
    stored = {e.name: e for e in example_requests.read(version / exports.EXAMPLES)}
    images = feeds_of(stored["predict"])["images"]
    rows = stored["predict"].expected["predictions"]
    expected = np.array([row["probabilities"] for row in rows])
    of_batch, of_one = ask(images) - expected, ask(images[:1]) - expected[:1]
    return float(max(np.abs(of_batch).max(), np.abs(of_one).max()))


def make_onnx(version: Path, file: Path) -> None:
    """Write `serving_default` as ONNX."""
    # tf2onnx documents its command line alone. In a process of its own it cannot change the state
    # of TensorFlow here, nor print.
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(version)]
    command += ["--tag", "serve", "--signature_def", "serving_default", "--output", str(file)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode:
        raise ExportError(f"tf2onnx failed on {version}: {child.stderr[-1000:]}")
    import onnx

    model = onnx.load(file)
    model.graph.doc_string = ""  # the path of the version on this machine
    onnx.save(model, file)


class Onnx:
    """An ONNX file in onnxruntime: pixels (n, h, w, c) in 0..255 -> probabilities (n, classes).

    Arguments:
        file: the file, which must be one of one's own.
        threads: the number of threads; 0 leaves it to the runtime.
    """

    def __init__(self, file: Path | str, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its idle threads would otherwise take the cores from whoever else calculates.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Answer a batch of images."""
        feeds = {"images": np.asarray(images, "float32")}
        return self._session.run(["probabilities"], feeds)[0]


def ask_onnx(file: Path, images: np.ndarray) -> np.ndarray:
    """Return onnxruntime's probabilities (n, classes) for pixels (n, h, w, c)."""
    return Onnx(file)(images)


def make_litert(version: Path, file: Path) -> None:
    """Write `serving_default` for LiteRT."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(version), signature_keys=["serving_default"]
    )
    file.write_bytes(converter.convert())


def ask_litert(file: Path, images: np.ndarray) -> np.ndarray:
    """Return LiteRT's probabilities (n, classes) for float32 pixels (n, h, w, c)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    runner = interpreter.get_signature_runner("serving_default")
    return runner(images=images)["probabilities"]
