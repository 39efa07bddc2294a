"""What a client gets from an export, and what never becomes an export."""

import io
import itertools
import multiprocessing
import pathlib
import shutil
import struct
import subprocess
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nets_and_images import COLOUR, GREY, LABELS, encode, network, pixels, probabilities_of
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from zoo import CompanionHead, DeeplySupervised, programs
from zoo.exports import ExportError
from zoo.serving import publishing, verifying
from zoo.serving.exporting import export_savedmodel
from zoo.serving.served_model import ServedModel
from zoo.serving.server_runtime import ServerRuntime, run_as_a_server


def png_header(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBBI", 13, b"IHDR", width, height, 8, 2, *[0] * 4
    )


def graph_of(version):
    return saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())


def stored_shapes(version):
    """The shapes of the variables, and of the constants of a net's function."""
    variables = tf.train.list_variables(str(version / "variables/variables"))
    stored = [tuple(shape) for name, shape in variables if "OBJECT_GRAPH" not in name]
    for function in graph_of(version).meta_graphs[0].graph_def.library.function:
        if "program" in function.signature.name:
            constants = (node.attr["value"].tensor for node in function.node_def)
            arrays = [tf.make_ndarray(tensor) for tensor in constants if tensor.dtype]
            stored += [array.shape for array in arrays if array.dtype == "float32" and array.ndim]
    return sorted(stored)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """{image shape: (model, exported version)}; one model has XLA and an optimizer's variables."""
    folder = tmp_path_factory.mktemp("saved_models")
    grey, colour = network(GREY, 4), network(COLOUR, 7)
    colour.compile("adam", jit_compile=True)
    colour.optimizer.build(colour.trainable_variables)
    return {
        GREY: (grey, export_savedmodel(grey, LABELS[:4], folder / "grey")),
        COLOUR: (colour, export_savedmodel(colour, LABELS, folder / "colour", top_k=3)),
    }


@pytest.mark.parametrize("image", [GREY, COLOUR])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_answer_is_the_softmax_of_the_logits_and_its_largest_in_order(exports, image, dtype):
    model, version = exports[image]
    served, images = ServedModel(version), pixels(image)
    answer = served.predict(images.astype(dtype))
    expected = probabilities_of(model, images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    ids = np.argsort(-expected, axis=1)[:, : 3 if image == COLOUR else 4]
    np.testing.assert_array_equal(answer["class_ids"], ids)
    np.testing.assert_array_equal(answer["classes"], np.array(LABELS)[ids])
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, ids, 1), atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.01, "the images are not told apart"


def test_the_export_knows_its_labels_its_images_and_its_version(exports):
    _, version = exports[COLOUR]
    served = ServedModel(version.parent)
    assert served.labels == LABELS
    assert served.image_shape == COLOUR
    assert served.version == 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_trained_in_16_bits_is_exported_in_32(policy, tmp_path):
    mixed, in_32 = network(dtype=policy), network()
    in_32.set_weights(mixed.get_weights())
    mixed.save(tmp_path / "mixed.keras")
    out = tmp_path / "export"
    version = export_savedmodel(mixed, LABELS, out, keras_file=tmp_path / "mixed.keras")
    answer = ServedModel(version).predict(pixels())["probabilities"]
    np.testing.assert_allclose(answer, probabilities_of(in_32, pixels()), atol=1e-6)
    assert np.abs(answer - probabilities_of(mixed, pixels())).max() > 1e-5  # it rounds
    (graph,) = graph_of(version).meta_graphs
    functions = graph.graph_def.library.function
    types = {node.attr["T"].type for each in functions for node in each.node_def}
    assert tf.float32.as_datatype_enum in types
    assert not types & {tf.bfloat16.as_datatype_enum, tf.half.as_datatype_enum}
    with ServerRuntime(version) as server:
        checks = verifying.answers(server, version, model=mixed)
    assert all(check.passed for check in checks), checks
    assert "Keras, the model" in [check.name for check in checks]


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_a_png_is_answered_as_its_pixels(exports, image):
    served = ServedModel(exports[image][1])
    from_pixels = served.predict(pixels(image))
    from_files = served.predict_bytes([encode(image) for image in pixels(image)])
    np.testing.assert_allclose(from_files["probabilities"], from_pixels["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(from_files["classes"], from_pixels["classes"])


@pytest.mark.parametrize("image", [GREY, COLOUR])
@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 90, "progressive": True}])
def test_a_jpeg_is_answered_as_pillow_reads_it(exports, image, options):
    served = ServedModel(exports[image][1])
    files = [encode(image, "JPEG", **options) for image in pixels(image)]
    decoded = [np.asarray(Image.open(io.BytesIO(file))).reshape(image) for file in files]
    expected = served.predict(np.stack(decoded))["probabilities"]
    answer = served.predict_bytes(files)["probabilities"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(31, 47), (5, 9)])
def test_an_image_of_another_size_is_resized_as_pillow_does(exports, size):
    served = ServedModel(exports[COLOUR][1])
    (image,) = pixels((*size, 3), count=1)
    channels = [Image.fromarray(image[..., c].astype("float32")) for c in range(3)]
    resized = [channel.resize(COLOUR[:2], Image.Resampling.BILINEAR) for channel in channels]
    expected = served.predict(np.stack(resized, axis=-1)[None])["probabilities"]
    answer = served.predict_bytes([encode(image)])["probabilities"]
    np.testing.assert_allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize(("image", "classes", "k"), [(GREY, 4, 4), (COLOUR, 7, 3)])
def test_the_signatures_are_those_that_clients_rely_on(exports, image, classes, k):
    (graph,) = graph_of(exports[image][1]).meta_graphs
    outputs = {
        "probabilities": ("float32", (-1, classes)),
        "class_ids": ("int32", (-1, k)),
        "classes": ("string", (-1, k)),
        "scores": ("float32", (-1, k)),
    }
    golden = {
        "serving_default": ({"images": ("float32", (-1, *image))}, outputs),
        "predict_bytes": ({"image_bytes": ("string", (-1,))}, outputs),
        "classify": (
            {"inputs": ("string", (-1,))},
            {name: outputs[name] for name in ("classes", "scores")},
        ),
    }

    def table(tensors):
        return {
            name: (
                tf.as_dtype(tensor.dtype).name,
                tuple(dim.size for dim in tensor.tensor_shape.dim),
            )
            for name, tensor in tensors.items()
        }

    public = {n: s for n, s in graph.signature_def.items() if not n.startswith("__")}
    assert {n: (table(s.inputs), table(s.outputs)) for n, s in public.items()} == golden
    assert list(graph.meta_info_def.tags) == ["serve"]


def test_the_graph_needs_neither_python_nor_xla_and_draws_no_random_numbers(exports):
    for _, version in exports.values():
        (graph,) = graph_of(version).meta_graphs
        functions = graph.graph_def.library.function
        nodes = [*graph.graph_def.node, *itertools.chain(*(f.node_def for f in functions))]
        operations = {node.op for node in nodes}
        assert {"Conv2D", "EnsureShape", "CheckNumerics", "DecodeJpeg"} <= operations
        wrong = ("PyFunc", "Xla", "Random", "Bfloat")
        assert not [op for op in operations if any(word in op for word in wrong)]
        assert not [key for f in functions for key in f.attr if "XlaMustCompile" in key]


def test_the_file_holds_the_weights_and_no_optimizer(exports):
    for model, version in exports.values():
        assert stored_shapes(version) == sorted(tuple(weight.shape) for weight in model.weights)


def test_of_a_deeply_supervised_model_the_trunk_is_exported(tmp_path):
    trunk = network()
    version = export_savedmodel(
        DeeplySupervised(trunk, {"conv": CompanionHead(7)}), LABELS, tmp_path
    )
    assert stored_shapes(version) == sorted(tuple(weight.shape) for weight in trunk.weights)
    answer = ServedModel(version).predict(pixels())["probabilities"]
    np.testing.assert_allclose(answer, probabilities_of(trunk, pixels()), atol=1e-6)


WRONG_SHAPES = [
    *[(), (12,), (12, 12), (12, 12, 3), (1, 1, 12, 12, 3)],
    *[(1, 16, 16, 3), (1, 11, 12, 3), (1, 12, 12, 1), (1, 12, 12, 4), (1, 3, 12, 12)],
]


def test_a_server_answers_right_images_and_refuses_wrong_ones_without_an_abort(exports):
    model, version = exports[COLOUR]
    images = pixels().astype("float32")
    nan, infinite = images.copy(), images.copy()
    nan[2, 3, 4, 1], infinite[4, 0, 0, 0] = np.nan, -np.inf
    requests = {
        "is not compatible with expected shape": [np.ones(s, "float32") for s in WRONG_SHAPES],
        "NaN or infinity": [nan, infinite],
        "the model overflows": [np.full_like(images, 3e38)],
        "the batch is empty": [images[:0]],
        "to be float but uint8": [pixels()],
    }
    wrong = [(reason, request) for reason, some in requests.items() for request in some]
    # The good ones go first, last and alone: an error may not spoil what follows it.
    asked = [images, *(request for _, request in wrong), images, images[:1]]
    first, *errors, last, single = run_as_a_server(version, asked)
    for (reason, _), error in zip(wrong, errors, strict=True):
        assert isinstance(error, str), f"{error.shape} instead of {reason}"
        assert reason in error
    expected = probabilities_of(model, images)
    for answer in (first, last):
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    np.testing.assert_allclose(single, expected[:1], atol=1e-6)


def test_a_stock_export_aborts_or_answers_nonsense_for_the_same_requests(
    exports, tmp_path, monkeypatch
):
    model, _ = exports[COLOUR]
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # the default on newer processors alone
    monkeypatch.setattr(programs, "read", programs.parse)  # a server checks no graph
    model.export(tmp_path / "stock", verbose=False)
    (answer,) = run_as_a_server(
        tmp_path / "stock", [np.ones((1, 16, 16, 3), "float32")], output="output_0"
    )
    assert answer.shape == (1, 7)
    wrong_rank = [np.ones(COLOUR, "float32")]
    try:
        (answer,) = run_as_a_server(tmp_path / "stock", wrong_rank, output="output_0")
    except RuntimeError as died:
        answer = str(died)
    # The kernels of a CPU with AVX-512 end the process; those of one with AVX2 say what is wrong.
    assert "SIGABRT" in answer or "must be 4-dimensional" in answer, answer


PNG, JPEG = (encode(pixels(count=1)[0], form) for form in ("PNG", "JPEG"))
NOT_IMAGES = {
    "not a PNG or JPEG": [
        *[b"", b"text", bytes(100), PNG[:20], JPEG[:2], PNG[1:]],
        *[encode(pixels(count=1)[0], form) for form in ("GIF", "BMP", "WEBP", "TIFF")],
        # Another chunk first, whose data look like the size of a small image.
        PNG[:8] + struct.pack(">I4sII", 8, b"teSt", 12, 12) + bytes(4) + PNG[8:],
    ],
    "Invalid PNG": [PNG[:40], PNG[:-30], PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:]],
    "JPEG": [JPEG[:-40], JPEG[:150], JPEG[:4]],
    "pixels": [
        *[png_header(20000, 20000), png_header(4097, 4096), png_header(0, 12)],
        *[png_header(2**31 - 1, 2**31 - 1), png_header(2**32 - 1, 2**32 - 1)],
        # The size of a JPEG is in its start of frame: length, precision, height, width.
        JPEG.replace(struct.pack(">HH", 12, 12), struct.pack(">HH", 8000, 8000), 1),
    ],
    "more than 16777216 bytes": [PNG + bytes(2**24)],
}


def test_a_server_refuses_what_is_no_small_png_or_jpeg_and_says_why(exports):
    served = ServedModel(exports[COLOUR][1])
    wrong = [(reason, file) for reason, files in NOT_IMAGES.items() for file in files]
    for reason, file in wrong:
        with pytest.raises(ValueError, match=reason):
            served.predict_bytes([PNG, file])
    files = [PNG, *(file for _, file in wrong), PNG]
    requests = [np.array([file], object) for file in files]
    answers = run_as_a_server(exports[COLOUR][1], requests, signature="predict_bytes")
    for (reason, _), answer in zip(wrong, answers[1:-1], strict=True):
        assert isinstance(answer, str), f"{answer.shape} instead of {reason}"
        assert reason in answer
    expected = served.predict_bytes([PNG])["probabilities"]
    np.testing.assert_allclose(answers[0], expected, atol=1e-6)
    np.testing.assert_allclose(answers[-1], expected, atol=1e-6)


def test_wrong_input_is_refused_in_plain_words(exports):
    served = ServedModel(exports[COLOUR][1])
    for shape in WRONG_SHAPES:
        with pytest.raises(ValueError, match="expected \\('batch', 12, 12, 3\\)"):
            served.predict(np.ones(shape))
    with pytest.raises(ValueError, match="refuses its input: the images hold NaN or infinity"):
        served.predict(np.full((1, *COLOUR), np.nan))
    for empty in (lambda: served.predict(np.ones((0, *COLOUR))), lambda: served.predict_bytes([])):
        with pytest.raises(ValueError, match="the batch is empty"):
            empty()
    with pytest.raises(ValueError, match="expected a list"):
        served.predict_bytes(PNG)


def test_versions_count_on_from_the_newest_and_are_never_overwritten(tmp_path):
    for name in ("3", ".export-of-a-killed-process", "notes"):
        (tmp_path / name).mkdir()
    model = network()
    assert export_savedmodel(model, LABELS, tmp_path) == tmp_path / "4"
    assert export_savedmodel(model, LABELS, tmp_path, version=2) == tmp_path / "2"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for version in (2, 3, 4):
        with pytest.raises(FileExistsError, match=f"{version} exists"):
            export_savedmodel(model, LABELS, tmp_path, version=version)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_scaled_pixels_are_warned_of_once(exports):
    served = ServedModel(exports[COLOUR][1])
    with pytest.warns(UserWarning, match=r"expected 0\.\.255"):
        served.predict(pixels(COLOUR) / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served.predict(pixels(COLOUR) / 255)
        ServedModel(exports[COLOUR][1]).predict(pixels(COLOUR))


def test_the_newest_version_is_loaded(exports, tmp_path):
    for name in ("9", "10", ".export-x", "old"):
        shutil.copytree(exports[COLOUR][1], tmp_path / name)
    assert ServedModel(tmp_path).version == 10
    assert ServedModel(tmp_path / "9").version == 9
    assert ServedModel(tmp_path / "old").version is None


def test_an_export_is_readable_by_others_and_sha256sum_agrees(exports, tmp_path):
    _, version = exports[COLOUR]
    (tmp_path / "usual").mkdir()
    assert version.stat().st_mode == (tmp_path / "usual").stat().st_mode
    beside = {path.name for path in version.parent.iterdir()}
    assert beside == {"1", "README.md", "card.json", "SHA256SUMS"}
    labels = (version / "assets.extra/labels.txt").read_text("utf-8")
    assert labels == "".join(f"{label}\n" for label in LABELS)
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    subprocess.run(command, cwd=version.parent, check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run(command, cwd=version, check=True, capture_output=True, text=True).stdout
    files = {path.relative_to(version) for path in version.rglob("*") if path.is_file()}
    assert {pathlib.Path(line.removesuffix(": OK")) for line in listed.splitlines()} == files - {
        pathlib.Path("SHA256SUMS")
    }


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("variables/variables.data-00000-of-00001", flip),
        ("saved_model.pb", flip),
        ("assets.extra/labels.txt", pathlib.Path.unlink),
        ("saved_model.cpb", pathlib.Path.touch),
        ("SHA256SUMS", pathlib.Path.unlink),
    ],
)
def test_a_changed_missing_or_added_file_is_refused_before_anything_loads(
    exports, tmp_path, monkeypatch, name, damage
):
    version = shutil.copytree(exports[COLOUR][1], tmp_path / "1")
    damage(version / name)
    loads = []
    monkeypatch.setattr(tf.saved_model, "load", loads.append)
    with pytest.raises(ExportError, match=name):
        ServedModel(tmp_path)
    assert not loads


def test_where_there_is_no_export_the_error_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="neither an export nor a folder"):
            ServedModel(folder)


def stacked(image, *some):
    return keras.Sequential([keras.Input(image), *some])


def diverged():
    model = network()
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    return model


def two_inputs():
    inputs = [keras.Input(COLOUR), keras.Input(COLOUR)]
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Add()(inputs)))


def half_and_a_lambda():
    twice = layers.Lambda(lambda x: 2 * x, name="twice", dtype="bfloat16")
    return stacked(COLOUR, twice, layers.GlobalAveragePooling2D(), layers.Dense(7))


@pytest.mark.parametrize(
    ("model", "labels", "options", "reason"),
    [
        (half_and_a_lambda, LABELS, {}, "The layers twice calculate in 16 bits"),
        (network, LABELS[:6], {}, "Received 6 labels; expected 7"),
        (network, [*LABELS[:6], "ant"], {}, r"\['ant'\] more than once"),
        (network, range(7), {}, "the label 0; expected one line of text"),
        (network, [*LABELS[:6], "two\nlines"], {}, "expected one line of text"),
        (network, [*LABELS[:6], ""], {}, "expected one line of text"),
        (network, LABELS, {"top_k": 0}, "top_k=0"),
        (network, LABELS, {"tolerance": 0.0}, "tolerance=0.0; expected a number between"),
        (network, LABELS, {"tolerance": float("nan")}, "tolerance=nan"),
        (network, LABELS, {"version": 0}, "version=0; expected a positive integer"),
        (network, LABELS, {"version": "2"}, "version='2'; expected a positive integer"),
        (network, LABELS, {"version": 2**63}, "expected a positive integer below"),
        (network, LABELS, {"directory": "digits/1"}, "which is a version; expected the folder"),
        (lambda: network((None, None, 3)), LABELS, {}, "with fixed sizes"),
        (lambda: network((8, 8, 2)), LABELS, {}, "1 or 3 channels"),
        (lambda: stacked((9,), layers.Dense(7)), LABELS, {}, "takes images \\(None, 9\\)"),
        (lambda: stacked(COLOUR, layers.Dense(7)), LABELS, {}, "expected logits"),
        (lambda: keras.Sequential([layers.Dense(7)]), LABELS, {}, "expected a built functional"),
        (two_inputs, LABELS, {}, "one input and one output"),
        (lambda: stacked(COLOUR, network(), layers.Softmax()), LABELS, {}, "gives probabilities"),
        (diverged, LABELS, {}, "gives NaN"),
    ],
)
def test_what_cannot_be_served_is_refused_before_a_file_is_written(
    tmp_path, model, labels, options, reason
):
    options = {**options, "directory": tmp_path / options.get("directory", "digits")}
    with pytest.raises(ExportError, match=reason):
        export_savedmodel(model(), labels, **options)
    assert not list(tmp_path.iterdir())


def test_another_keras_backend_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="backend is jax"):
        export_savedmodel(network(), LABELS, tmp_path / "digits")
    assert not list(tmp_path.iterdir())


class InPython(layers.Layer):
    def call(self, x):
        y = tf.numpy_function(np.negative, [x], tf.float32)
        return tf.ensure_shape(y, x.shape)


class Compiled(layers.Layer):
    def call(self, x):
        return tf.function(tf.negative, jit_compile=True)(x)


@pytest.mark.parametrize(("layer", "reason"), [(InPython, "PyFunc"), (Compiled, "Xla")])
def test_an_export_that_a_server_could_not_run_leaves_nothing_behind(tmp_path, layer, reason):
    trunk = network()
    model = keras.Model(trunk.input, layer()(trunk.output))
    with pytest.raises(ExportError, match=reason):
        export_savedmodel(model, LABELS, tmp_path)
    assert not list(tmp_path.iterdir())


def export_for_ever(folder):
    model = network()
    while True:
        export_savedmodel(model, LABELS, folder)


def test_a_killed_export_never_leaves_a_version_that_does_not_load(tmp_path):
    # A server that has imported TensorFlow once and forks before it is used: 3 starts in one.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["zoo.serving.exporting"])
    left = []
    for delay in np.random.default_rng().uniform(0, 1.5, 3):
        before = set(tmp_path.glob("[0-9]*"))
        child = processes.Process(target=export_for_ever, args=(tmp_path,))
        child.start()
        while set(tmp_path.glob("[0-9]*")) == before:
            assert child.is_alive(), "the child stopped before its first export"
            time.sleep(0.01)
        time.sleep(delay)
        child.kill()
        child.join()
        left += tmp_path.glob(".export-*")
    assert left, "no kill fell into an export"
    with publishing.hidden(tmp_path):
        assert len(list(tmp_path.glob(".export-*"))) == 1, "a later export deletes what they left"
    versions = {path.name for path in tmp_path.glob("[0-9]*")}
    assert versions == {str(version + 1) for version in range(len(versions))}
    expected = probabilities_of(network(), pixels())
    for version in versions:
        answer = ServedModel(tmp_path / version).predict(pixels())["probabilities"]
        np.testing.assert_allclose(answer, expected, atol=1e-6)
