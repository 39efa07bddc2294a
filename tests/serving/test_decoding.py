"""A file has the same pixels in training, in `zoo predict` and in a server, or is refused by all.

The net of these tests hands its pixels on: the logarithm of a probability is a pixel.
"""

import json
import pathlib
import re
import time
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from odd_files import chunk, encode, exif, insert, odd_files, png_of, scene, segment, with_exif
from PIL import Image
from stand_in import StandIn

from zoo import tables
from zoo.commands import predicting, sending
from zoo.data import DataError, read_image
from zoo.serving import card, client, decoding, exporting, hostile_inputs, signatures
from zoo.serving.served_model import ServedModel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

ODD = odd_files()
# Formats that training reads. `zoo predict` sends them as PNG, and a server refuses them.
OTHER_FORMATS = {"BMP", "GIF", "PPM", "TIFF", "WEBP"}
SHAPES = {"grey": (6, 5, 1), "colour": (6, 5, 3)}
PER_LEVEL = 1 / 64
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "data.md"


def window(shape):
    """A net whose logits are the pixels, times 1/64, and a last one of 0."""
    values = int(np.prod(shape))
    images = keras.Input(shape)
    model = keras.Model(images, layers.Dense(values + 1)(layers.Flatten()(images)))
    model.set_weights([PER_LEVEL * np.eye(values, values + 1), np.zeros(values + 1)])
    return model


def pixels_of(probabilities, shape):
    logits = np.log(np.asarray(probabilities, "float64"))
    return ((logits - logits[-1]) / PER_LEVEL)[:-1].reshape(shape)


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def places(shape, tmp_path_factory):
    """(a run folder, an export) of the net that hands its pixels on."""
    folder = tmp_path_factory.mktemp("decoded")
    model, run = window(shape), folder / "run"
    labels = [str(index) for index in range(model.output_shape[-1])]
    run.mkdir()
    recipe = {"fields": {"data": "digits"}}
    for name, content in (("recipe", recipe), ("results", {"label_names": labels})):
        (run / f"{name}.json").write_text(json.dumps(content), "utf-8")
    model.save(run / "model.keras")
    exporting.export_savedmodel(model, labels, folder / "window", top_k=len(labels))
    return run, folder / "window"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    paths = {name: folder / f"{index:02d}" for index, name in enumerate(ODD)}
    for name, path in paths.items():
        path.write_bytes(ODD[name])
    return paths


def trained_on(file, shape):
    """The pixels that a training gets from a file; None if it is refused."""
    try:
        return read_image(file, shape).astype(float)
    except DataError:
        return None


def shown(monkeypatch, show, shape):
    """{file: pixels} of what a command shows."""
    answers = {}

    def keep(images, ranked, _):
        for image, row in zip(images, ranked, strict=True):
            by_class = sorted((int(label), score) for label, score in row)
            answers[image] = pixels_of([score for _, score in by_class], shape)

    monkeypatch.setattr(tables, "show_predictions", keep)
    refused = show()
    assert all(refused)
    return answers


def test_training_predict_export_client_and_server_agree(places, files, shape, monkeypatch):
    run, export = places
    paths, classes = list(files.values()), int(np.prod(shape)) + 1
    expected = {path: trained_on(path, shape) for path in paths}
    with StandIn({"window": export}) as stand_in:
        server = client.connect(stand_in.url("window"), timeout=60)
        ways = {
            "predict RUN": lambda: predicting.show_predictions(run, paths, classes),
            "predict EXPORT": lambda: predicting.show_predictions(export, paths, classes),
            "predict --server": lambda: sending.ask_server(
                stand_in.url("window"), paths, classes, timeout=60, retries=0
            ),
            "server": lambda: client.show_predictions(server, paths, classes),
        }
        found = {way: shown(monkeypatch, show, shape) for way, show in ways.items()}
    for way, answers in found.items():
        for name, path in files.items():
            wanted = None if way == "server" and name in OTHER_FORMATS else expected[path]
            assert (path in answers) == (wanted is not None), f"{way}: {name}"
            if wanted is not None:
                off = np.abs(answers[path] - wanted).max()
                assert off < (0.01 if way == "predict RUN" else 1.01), f"{way}: {name}"
    rows = [
        f"| {name} | {verdict(expected[path])} | {verdict(found['server'].get(path))} |"
        for name, path in files.items()
    ]
    documented = re.findall(r"^\| .* \| (?:read|refused) \| .* \|$", DOCS.read_text("utf-8"), re.M)
    assert documented == rows, "\n".join(rows)


def verdict(pixels):
    return "refused" if pixels is None else "read"


def decode(file, shape, resizing="squash"):
    return decoding.decode(tf.constant([file]), shape, resizing).numpy()[0]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_decodes_as_pillow_to_the_level(name, channels, tmp_path):
    """Pillow rounds twice when it resizes, so a level is half a level twice."""
    (tmp_path / "file").write_bytes(ODD[name])
    if (pixels := trained_on(tmp_path / "file", (24, 20, channels))) is None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(ODD[name], (24, 20, channels))
        return
    if name in OTHER_FORMATS:
        return
    for size in ((24, 20), (20, 24), (23, 37), (7, 50)):
        pixels = trained_on(tmp_path / "file", (*size, channels))
        np.testing.assert_allclose(decode(ODD[name], pixels.shape), pixels, atol=1.001)


@pytest.mark.parametrize("resizing", ["crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_the_graph_keeps_the_aspect_ratio_as_training_does(resizing, orientation, tmp_path):
    for height, width in ((37, 24), (24, 38), (3, 90)):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        file = encode(image, "PNG", exif=exif(orientation, "<"))
        (tmp_path / "file").write_bytes(file)
        for shape in ((24, 20, 3), (20, 24, 1), (9, 9, 3)):
            expected = read_image(tmp_path / "file", shape, resizing)
            np.testing.assert_allclose(decode(file, shape, resizing), expected, atol=1.001)


def test_a_signature_resizes_as_the_record_of_the_training_says(tmp_path):
    assert card.resizing_of(None) == card.resizing_of({"recipe": {"fields": {}}}) == "squash"
    resizing = card.resizing_of({"recipe": {"fields": {"resize": "pad"}}})
    shape = SHAPES["colour"]
    model, file = window(shape), tmp_path / "wide.png"
    labels = [str(index) for index in range(model.output_shape[-1])]
    Image.fromarray(np.full((4, 12, 3), 200, np.uint8)).save(file)
    module, functions = signatures.module(model, labels, 5, max_batch=32, resizing=resizing)
    answer = functions["predict_bytes"](tf.constant([file.read_bytes()]))["probabilities"]
    found = pixels_of(answer.numpy()[0], shape)
    assert module.weights == [], "they are constants"
    assert np.abs(found - read_image(file, shape, "pad")).max() < 1.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation):
    """By hand: how the rows and columns of the file lie in the scene."""
    image = scene()
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }[orientation]
    for order in "<>":
        data = exif(orientation, order)
        png = encode(np.ascontiguousarray(stored), "PNG", exif=data)
        np.testing.assert_allclose(decode(png, image.shape), image, atol=1e-4)
        jpeg = encode(np.ascontiguousarray(stored), "JPEG", quality=100, subsampling=0)
        found = decode(with_exif(jpeg, data), image.shape)
        assert np.abs(found - image).mean() < 2  # what the JPEG loses


def test_a_net_of_grey_images_weighs_colours_as_pillow_does():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90]]], "uint8")
    expected = [76, 150, 29, 131]  # 0.299, 0.587 and 0.114 times 255; and their sum
    assert decode(encode(colours, "PNG"), (1, 4, 1)).ravel().tolist() == expected


@pytest.mark.parametrize("values", [range(256), (0, 1, 127, 128, 254, 255)])
def test_transparent_pixels_lie_on_white(values):
    values = np.array(values, "uint8")
    colour, alpha = np.meshgrid(values, np.arange(256, dtype="uint8"))
    rgba = np.stack([colour, colour, colour, alpha], axis=-1)
    share = alpha[..., None] / 255
    expected = np.rint(colour[..., None] * share + 255 * (1 - share))
    found = decode(encode(rgba, "PNG"), (*colour.shape, 1))
    np.testing.assert_array_equal(found, expected)


def test_hostile_exif_data_are_ignored_and_never_an_error(tmp_path):
    """Bytes change at random. The file is read, as one of its turns and nearly always Pillow's.

    Pillow also reads tags that break the standard, such as an orientation of two numbers.
    """
    random, as_pillow = np.random.default_rng(0), 0
    jpeg = encode(scene(4, 6), "JPEG")
    turns = [decode(with_exif(jpeg, exif(turn)), (4, 6, 3)) for turn in range(1, 9)]
    run = tf.function(lambda file: decoding.decode(file, (4, 6, 3))[0], input_signature=[STRINGS])
    for number in range(150):
        before = [(0x010F, 2, 4, b"abc\0")] * int(random.integers(0, 3))
        data = bytearray(exif(int(random.integers(1, 9)), "<>"[number % 2], before=before))
        for _ in range(int(random.integers(1, 4))):
            data[random.integers(4, len(data))] = random.choice([0, 1, 2, 3, 4, 8, 255])
        if number % 5 == 0:
            data = data[: random.integers(0, len(data))]
        file = tmp_path / "file.jpg"
        file.write_bytes(with_exif(jpeg, bytes(data)))
        found = run(tf.constant([file.read_bytes()])).numpy()
        assert any(np.array_equal(found, turn) for turn in turns), data
        as_pillow += np.abs(found - trained_on(file, (4, 6, 3))).max() < 1.01
    assert as_pillow > 140


STRINGS = tf.TensorSpec([None], tf.string)


def test_the_search_for_exif_data_ends():
    """A file may have four million segments; only the first ones are looked at."""
    jpeg, turned = encode(scene(8, 8), "JPEG"), segment(0xE1, b"Exif\0\0" + exif(3))
    upright = decode(jpeg, (8, 8, 3))
    for count, same in ((decoding.MAX_SEGMENTS - 2, False), (decoding.MAX_SEGMENTS + 1, True)):
        found = decode(insert(jpeg, segment(0xFE, b"") * count + turned), (8, 8, 3))
        assert (np.abs(found - upright).max() == 0) == same
    for length in (b"\xff\xff", b"\0\0", b"\0\x09"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid JPEG"):
            decode(b"\xff\xd8\xff\xe1" + length + b"Exif\0\0", (8, 8, 3))


def test_an_embedded_picture_does_not_turn_the_image_around_it():
    second = with_exif(encode(scene(8, 8), "JPEG"), exif(3))
    first = encode(scene(8, 8), "JPEG")
    for file in (first + second, insert(first, segment(0xE2, b"FPXR\0" + second))):
        np.testing.assert_array_equal(decode(file, (8, 8, 3)), decode(first, (8, 8, 3)))
    behind_the_pixels = first[:2] + segment(0xDA, bytes(10)) + second[second.index(b"\xff\xe1") :]
    assert decoding._exif_of_jpeg(tf.constant(behind_the_pixels)).numpy() == b""


def test_verify_checks_what_the_card_claims_and_no_more(shape):
    claims = ("orientation", "transparency", "grey")
    older, newer = (hostile_inputs.decoded_by_pillow(shape, said) for said in ((), claims))
    assert {file for file, _ in older} < {file for file, _ in newer}
    for file, pixels in newer:
        np.testing.assert_allclose(decode(file, shape), pixels, atol=1e-4)


def test_the_examples_hold_a_photograph_on_its_side(places, shape):
    _, export = places
    examples = export / "1" / "assets.extra" / "examples"
    with Image.open(examples / "photograph.jpg") as photograph:
        assert photograph.getexif()[0x0112] == 6
        assert photograph.size == (shape[0], shape[1])  # (width, height)
    answer = ServedModel(export).predict_bytes([(examples / "photograph.jpg").read_bytes()])
    expected = trained_on(examples / "photograph.jpg", shape)
    np.testing.assert_allclose(pixels_of(answer["probabilities"][0], shape), expected, atol=0.01)
    rows = json.loads((examples / "predict_bytes.expected.json").read_text("utf-8"))["predictions"]
    np.testing.assert_allclose(pixels_of(rows[-1]["probabilities"], shape), expected, atol=0.01)


@pytest.fixture(scope="module")
def reader():
    """The graph that decodes to (8, 8, 3), traced and run once."""
    run = tf.function(lambda files: decoding.decode(files, (8, 8, 3)), input_signature=[STRINGS])
    run(tf.constant([encode(scene(8, 8), form) for form in ("PNG", "JPEG")]))
    return run


def processor_seconds(function, argument):
    begun = time.process_time()
    try:
        function(argument)
    except tf.errors.InvalidArgumentError as error:
        return time.process_time() - begun, error.message
    return time.process_time() - begun, ""


def test_no_file_takes_long_for_its_size(reader):
    """Those that are allowed have a quarter of what a request may cost.

    A second, or as long as this machine needs to inflate half a gigabyte, where it is slower or
    has other work beside.
    """
    reader(tf.constant([encode(scene(8, 8), "PNG")]))  # a test's seed undoes TensorFlow's kernels
    packed = zlib.compress(bytes(2**26))
    inflating, _ = processor_seconds(zlib.decompress, packed)
    limits = ("an image of more compressed data", "images of more than")
    for name, (files, is_allowed) in hostile_inputs.costly_requests().items():
        seconds, refusal = processor_seconds(reader, tf.constant(files))
        assert seconds < max(1, 8 * inflating), name
        assert any(limit in refusal for limit in limits) != is_allowed, (name, refusal)


def test_what_a_request_may_cost_is_for_all_its_files(reader):
    """Each is read alone, and so are two; the third is one too many."""
    large = encode(Image.new("L", (2600, 2600)), "PNG")
    reader(tf.constant([large] * 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="16777216 pixels together"):
        reader(tf.constant([large] * 3))


def test_a_photograph_of_a_phone_is_read(reader):
    """12 megapixels, progressive, with an embedded preview."""
    photograph = encode(Image.new("RGB", (4032, 3024), "teal"), "JPEG", progressive=True)
    preview = segment(0xE2, encode(scene(200, 300), "JPEG"))
    (pixels,) = reader(tf.constant([insert(photograph, preview)])).numpy()
    assert np.abs(pixels - (0, 128, 128)).max() < 4  # what the JPEG loses


def test_a_png_with_more_data_than_pixels_is_refused_at_any_size(reader):
    """256 KiB of noise are compressed data that are checked, and 128 KiB of zeros are nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 341, 3), "uint8")
    rows = b"".join(b"\0" + row.tobytes() for row in noise)
    whole = png_of(noise, 2)
    start = whole[: whole.index(b"IDAT") - 4]
    (expected,) = reader(tf.constant([whole])).numpy()
    for surplus, is_read in ((0, True), (decoding.SURPLUS // 2, True), (2**20, False)):
        data = chunk(b"IDAT", zlib.compress(rows + bytes(surplus)))
        files = tf.constant([start + data + chunk(b"IEND", b"")])
        if is_read:
            np.testing.assert_array_equal(reader(files).numpy()[0], expected)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match="more compressed data than"):
            reader(files)


def test_chunks_that_do_not_show_are_dropped(reader):
    image = scene(8, 8)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20)))
    files = [png_of(image, 2), png_of(image, 2, *[text] * 20)]
    plain, with_texts = reader(tf.constant(files)).numpy()
    np.testing.assert_array_equal(plain, with_texts)


def test_a_large_damaged_png_is_refused_in_words(places):
    """Its compressed data are read before libpng sees that they are damaged."""
    _, export = places
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), "uint8")
    damaged = bytearray(png_of(noise, 2))
    damaged[100] ^= 255  # the kind of a block
    damaged[50_000:50_100] = bytes(100)
    with pytest.raises(ValueError, match="predict_bytes refuses its input"):
        ServedModel(export).predict_bytes([bytes(damaged)])
