"""A model as an ONNX file in whole numbers (int8), for onnxruntime and what reads its format.

tf2onnx writes the file, and onnxruntime quantizes it: QDQ, with a scale for each output channel of
a weight. It takes pixels (batch, h, w, c) in 0..255, float32, and gives probabilities.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from zoo.exports import ExportError
from zoo.serving import converting, litert


def convert(model: keras.Model, representative: np.ndarray, temperature: float = 1.0) -> bytes:
    """Return an ONNX file of pixels (batch, h, w, c) -> probabilities (batch, classes).

    Arguments:
        model: pixels -> logits, in float32.
        representative: training images, (n, h, w, c) uint8, for the ranges of the numbers.
        temperature: what the logits are divided by.

    Raises:
        ExportError: if a package is missing, or ONNX has no operation for a layer.
    """
    converting.check_installed(["onnx"])
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Representative(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = iter(representative)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"images": image[np.newaxis].astype("float32")}

    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        program, floating, prepared, whole = (Path(folder, str(step)) for step in range(4))
        litert.save(model, program, temperature, batch=None)
        converting.make_onnx(program, floating)
        # Of symbolic shapes it needs another package, and the net has none but the batch.
        quant_pre_process(floating, prepared, skip_symbolic_shape=True)
        try:
            quantization.quantize_static(
                prepared,
                whole,
                Representative(),
                per_channel=True,
                # Of 5,000 training images, 49 get another answer of a small net; with unsigned
                # activations it is 58.
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # of onnxruntime's own types, which are not public
            raise ExportError(
                f"onnxruntime cannot quantize the model: {str(error)[:300]} Export it without "
                "--quantize onnx."
            ) from error
        return whole.read_bytes()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide the warnings that onnxruntime gives the root logger, of each weight with one axis."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
