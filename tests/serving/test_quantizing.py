"""A quantized form answers as Keras as far as the card says, or is not kept."""

import shutil

import keras
import numpy as np
import pytest
from nets_and_images import COLOUR, LABELS, network, pixels
from oracles import softmax

import zoo
from zoo import exports, provenance
from zoo.exports import ExportError
from zoo.serving import converting, exporting, litert, onnx_int8, quantizing, verifying
from zoo.serving.litert import LiteRT
from zoo.serving.quantizing import Quantizing
from zoo.serving.server_runtime import ServerRuntime

LITERT = ("int8", "float")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """{form: file} of the net with a temperature of 2."""
    folder = tmp_path_factory.mktemp("litert")
    for form in LITERT:
        (folder / form).write_bytes(litert.convert(model, form, pixels(count=20), 2.0))
    return {form: folder / form for form in LITERT}


def test_the_float_file_answers_as_keras_with_the_temperature(files, model):
    images = pixels(count=6, seed=9)
    logits = model(images.astype("float32"), training=False).numpy()
    np.testing.assert_allclose(LiteRT(files["float"])(images), softmax(logits / 2), atol=1e-6)


def test_the_int8_file_is_of_whole_numbers_and_near_keras(files, model):
    file, images = LiteRT(files["int8"]), pixels(count=30, seed=9)
    assert file.types <= {"uint8", "int8", "int32"}
    assert file.pixel == (1.0, 0)
    expected = softmax(model(images.astype("float32"), training=False).numpy() / 2)
    answers = file(images)
    assert np.abs(answers - expected).max() < 0.1
    assert np.abs(answers - expected).mean() < 0.02
    assert set(np.unique(answers * 256 % 1)) == {0}


def test_dark_images_leave_pixels_as_they_are(model, tmp_path):
    dark = pixels(count=5) // 8 + 20
    (tmp_path / "dark").write_bytes(litert.convert(model, "int8", dark))
    assert LiteRT(tmp_path / "dark").pixel == (1.0, 0)


def test_two_files_are_equal_and_nothing_is_printed(files, model, capfd):
    again = litert.convert(model, "int8", pixels(count=20), 2.0)
    assert again == files["int8"].read_bytes()
    LiteRT(files["int8"])
    assert capfd.readouterr() == ("", "")


def whitened():
    whitening = zoo.PatchWhitening()
    whitening.adapt(pixels(COLOUR, count=40).astype("float32") / 255)
    return zoo.nin(
        COLOUR, 7, width=0.05, preprocessing=[keras.layers.Rescaling(1 / 255), whitening]
    )


NETS = {
    "nin": lambda: zoo.nin(COLOUR, 7, width=0.05),
    "nin, dense head": lambda: zoo.nin(COLOUR, 7, width=0.05, head="dense"),
    "mlp": lambda: zoo.mlp(COLOUR, 7, hidden=(8,)),
    "whitened": whitened,
}


@pytest.mark.parametrize("name", NETS)
def test_the_nets_of_the_zoo_convert_to_whole_numbers(name, tmp_path):
    net = NETS[name]()
    (tmp_path / "net").write_bytes(litert.convert(net, "int8", pixels(count=4)))
    assert LiteRT(tmp_path / "net").types <= {"uint8", "int8", "int32"}


@keras.saving.register_keras_serializable("test_quantizing")
class Determinant(keras.layers.Layer):
    def call(self, inputs):
        return (
            inputs * keras.ops.det(keras.ops.matmul(inputs[:, :, None], inputs[:, None]))[:, None]
        )


def test_a_layer_that_litert_lacks_is_one_error(model):
    odd = keras.Model(model.input, Determinant()(model.output))
    with pytest.raises(ExportError, match=r"cannot be converted to LiteRT \(int8\)") as refused:
        litert.convert(odd, "int8", pixels(count=2))
    assert "--quantize int8" in str(refused.value)


def asked(model, forms=("int8",), labels=None, **options):
    # Of several brightnesses, so that they have several answers.
    brightness = np.linspace(0.05, 1, 40)[:, None, None, None]
    images = (pixels(count=40, seed=11) * brightness).astype("uint8")
    logits = model(images.astype("float32"), training=False).numpy()
    labels = logits.argmax(1) if labels is None else labels
    return Quantizing(forms, pixels(count=20), images, labels, logits, **options)


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "animals"
    quantized = asked(model, ("int8", "float"), most_lost=100)
    return exporting.export_savedmodel(
        model, LABELS, folder, images=pixels(count=2), quantized=quantized
    )


def test_the_card_has_what_was_measured(version, model):
    facts, given = exports.card(version)["quantized"], asked(model)
    assert list(facts) == ["int8", "float"]
    for row in facts.values():
        answers = LiteRT(version / row["file"])(given.images).argmax(1)
        share = (answers == given.labels).mean()
        assert (row["accuracy"], row["agreement"]) == (share, share)
        assert row["accuracy_of_keras"] == 1
        assert row["points_lost"] == pytest.approx(100 * (1 - share))
        assert row["bytes"] == (version / row["file"]).stat().st_size
        assert row["test_images"] == 40
        assert row["file"] in exports.checksums(version)
    page = (version.parent / "README.md").read_text("utf-8")
    for said in (
        "(1, 12, 12, 3) uint8 | (1, 7) uint8, 256 times the probability",
        "](1/assets.extra/model.tflite) | (1, 12, 12, 3) float32 | (1, 7) float32",
        "on 40 test images",
    ):
        assert said in page
    assert "emperature" not in page
    assert "depths" not in page


def test_a_file_that_loses_too_much_leaves_nothing(model, tmp_path):
    # Keras is told to be right where the net is not: every point is lost.
    given = asked(model)
    wrong = (given.labels + 1) % 7
    given = given._replace(labels=wrong, logits=np.eye(7)[wrong])
    with pytest.raises(ExportError, match=r"form int8 loses 100\.00 points .* 1 are allowed"):
        exporting.export_savedmodel(model, LABELS, tmp_path / "animals", quantized=given)
    assert not list((tmp_path / "animals").iterdir())
    with pytest.raises(ExportError, match="form 'int4'; expected one of int8, float, onnx"):
        quantizing.write(tmp_path, model, given._replace(forms=("int4",)))
    facts = quantizing.write(tmp_path / "draft", model, given._replace(most_lost=100))
    assert facts["int8"]["points_lost"] == 100


def test_verify_accepts_the_files_of_the_card_and_no_others(version, tmp_path):
    copy = shutil.copytree(version, tmp_path / "1")
    card = exports.card(copy)
    passed, found = quantizing.check(copy, card)
    assert passed
    assert found.endswith("as the card says; not run")
    int8 = copy / quantizing.FILES["int8"]
    content = int8.read_bytes()
    for change in (content[:-1], content + b"x", content.replace(b"TFL3", b"TFL4", 1)):
        int8.write_bytes(change)
        assert not quantizing.check(copy, card)[0]
        assert not verifying.verify(copy)[0].passed, "nor do the checksums"
    int8.unlink()
    assert not quantizing.check(copy, card)[0]
    int8.write_bytes(content)
    assert quantizing.check(copy, card)[0]
    (copy / "assets.extra/other.tflite").write_bytes(content)
    assert not quantizing.check(copy, card)[0]
    plain = {key: value for key, value in card.items() if key != "quantized"}
    assert not quantizing.check(copy, plain)[0]
    for damaged in (None, [], "int8", {"int8": 3}, {"int8": {}}):
        assert not quantizing.check(copy, {"quantized": damaged})[0]
    (copy / "assets.extra/other.tflite").unlink()
    (copy / "assets.extra/other.onnx").write_bytes(b"\x08\x08")
    assert not quantizing.check(copy, card)[0]
    with_onnx = {**card["quantized"], "onnx": {"bytes": 2}}
    (copy / "assets.extra/other.onnx").rename(copy / quantizing.FILES["onnx"])
    assert quantizing.check(copy, {"quantized": with_onnx})[0]
    (copy / quantizing.FILES["onnx"]).write_bytes(b"\x80\x04")
    assert not quantizing.check(copy, {"quantized": with_onnx})[0]
    for file in quantizing.FILES.values():
        (copy / file).unlink()
    assert quantizing.check(copy, plain) is None
    assert quantizing.check(copy, {"quantized": {"bfloat16": {"accuracy": 1.0}}}) is None


def needs_onnx():
    for package in converting.NEEDED["onnx"]:
        pytest.importorskip(package)


def test_the_onnx_file_takes_batches_and_is_near_keras(model, tmp_path, capfd):
    needs_onnx()
    images = pixels(count=30, seed=9)
    content = onnx_int8.convert(model, pixels(count=20), 2.0)
    assert capfd.readouterr() == ("", "")
    (tmp_path / "net.onnx").write_bytes(content)
    answers = converting.Onnx(tmp_path / "net.onnx", threads=1)(images)
    expected = softmax(model(images.astype("float32"), training=False).numpy() / 2)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=0.05)
    assert np.abs(answers - expected).max() < 0.1
    assert np.abs(answers - expected).mean() < 0.02
    assert b"QuantizeLinear" in content
    assert onnx_int8.convert(model, pixels(count=20), 2.0) == content


def test_the_card_has_the_onnx_file(model, tmp_path):
    needs_onnx()
    version = exporting.export_savedmodel(
        model, LABELS, tmp_path / "animals", quantized=asked(model, ("onnx",), most_lost=100)
    )
    row = exports.card(version)["quantized"]["onnx"]
    assert row["bytes"] == (version / "assets.extra/model.int8.onnx").stat().st_size
    page = (version.parent / "README.md").read_text("utf-8")
    assert "model.int8.onnx](1/assets.extra/model.int8.onnx) | (batch, 12, 12, 3) float32" in page
    assert verifying.verify(version)[-2].found.startswith("assets.extra/model.int8.onnx, as the")


def test_onnx_without_its_packages_is_said(model, monkeypatch):
    monkeypatch.setattr(converting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'keras-nin-zoo\[onnx\]'"):
        onnx_int8.convert(model, pixels(count=2))


ROUNDS = provenance.dtype_policy("auto") == "mixed_bfloat16"


class Stored:
    """Images that are read as they are cut, as those of a large data set are."""

    def __init__(self, images):
        self.cut = images.__getitem__

    def __getitem__(self, part):
        return self.cut(part)


@pytest.mark.skipif(not ROUNDS, reason="the processor has no bfloat16")
def test_the_server_in_bfloat16_is_measured(model, tmp_path):
    given = asked(model, ("bfloat16",), most_lost=100)
    given = given._replace(images=Stored(given.images))
    version = exporting.export_savedmodel(model, LABELS, tmp_path / "animals", quantized=given)
    row = exports.card(version)["quantized"]["bfloat16"]
    images = {"images": given.images[:32].astype("float32")}
    with ServerRuntime(version, mixed_precision="bfloat16") as server:
        rounded = server.answer("serving_default", images)["probabilities"]
    expected = softmax(given.logits[:32])
    assert 1e-5 < np.abs(rounded - expected).max() < 0.1, "rounded, and as Keras but for that"
    assert row["agreement"] >= (rounded.argmax(1) == expected.argmax(1)).mean() * 32 / 40
    assert row["test_images"] == 40
    assert min(row["milliseconds_for_32"].values()) > 0
    page = (version.parent / "README.md").read_text("utf-8")
    assert "in a server with `--mixed_precision=bfloat16` | as above | as above | no file |" in page
    assert "take the pixels" not in page
    assert all(check.passed for check in verifying.verify(version))


def test_a_processor_without_bfloat16_is_said(model, tmp_path, monkeypatch):
    class Exact(ServerRuntime):
        def __init__(self, version, **options):
            super().__init__(version)

    monkeypatch.setattr(quantizing, "ServerRuntime", Exact)
    with pytest.raises(ExportError, match="changes no answer on this processor"):
        exporting.export_savedmodel(
            model, LABELS, tmp_path / "animals", quantized=asked(model, ("bfloat16",))
        )
    assert not list((tmp_path / "animals").iterdir())
