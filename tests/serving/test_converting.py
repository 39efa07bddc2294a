"""The other forms of an export answer as Keras does; each test needs the runtime of its form."""

import importlib.util
import shutil

import numpy as np
import pytest
from nets_and_images import LABELS, network, pixels, probabilities_of

from zoo.exports import ExportError
from zoo.serving import converting, exporting


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "animals"
    return exporting.export_savedmodel(network(), LABELS, folder, images=pixels(count=4))


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_form_answers_as_keras_for_any_batch(version, form):
    for package in converting.NEEDED[form]:
        pytest.importorskip(package)
    path, off = converting.convert(version, form)
    assert path == version.parent / "exports" / f"1.{converting.SUFFIX[form]}"
    assert off < 1e-6
    images = pixels(count=3, seed=51).astype("float32")
    ask = {"onnx": converting.ask_onnx, "litert": converting.ask_litert}[form]
    expected = probabilities_of(network(), images)
    np.testing.assert_allclose(ask(path, images), expected, atol=1e-6)
    assert not list(path.parent.glob(".*"))


def test_a_form_that_answers_otherwise_is_not_kept(version, tmp_path, monkeypatch):
    base = shutil.copytree(version.parent, tmp_path / "animals")
    shutil.rmtree(base / "exports", ignore_errors=True)

    def make(_, file):
        file.write_bytes(b"")

    def ask(_, images):
        return np.full((len(images), len(LABELS)), 1 / len(LABELS))

    monkeypatch.setattr(converting, "check_installed", lambda forms: None)
    monkeypatch.setattr(converting, "make_litert", make)
    monkeypatch.setattr(converting, "ask_litert", ask)
    with pytest.raises(ExportError, match=r"litert of .* differs from Keras by"):
        converting.convert(base / "1", "litert")
    assert not list((base / "exports").iterdir())
    # And one that answers as Keras does is kept, whatever files are among the examples.
    monkeypatch.setattr(
        converting, "ask_litert", lambda _, images: probabilities_of(network(), images)
    )
    path, off = converting.convert(base / "1", "litert")
    assert path.is_file()
    assert off < 1e-6


def test_what_is_not_installed_is_said_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'keras-nin-zoo\[onnx\]'"):
        converting.check_installed(["onnx"])
    with pytest.raises(ExportError, match="expected onnx or litert"):
        converting.check_installed(["coreml"])


def test_openvino_reads_the_savedmodel_itself(version):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    # The default is bfloat16 where the processor has it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(version), "CPU", options)
    images = pixels(count=3, seed=52).astype("float32")
    output = next(each for each in compiled.outputs if "probabilities" in str(each.names))
    answer = compiled({"images": images})[output]
    np.testing.assert_allclose(answer, probabilities_of(network(), images), atol=1e-6)
