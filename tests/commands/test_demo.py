"""What stands behind the page of `zoo demo`: the answers of `zoo predict`, and their reasons."""

import contextlib
import io
import json
import socket
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from nets_and_images import encode, pixels
from odd_files import exif, with_exif
from oracles import softmax
from PIL import Image

import zoo
import zoo.commands.main
from zoo import data, saving
from zoo.commands import demo, models
from zoo.commands.hindsight import Hindsight
from zoo.commands.looking import Looking
from zoo.data.readers import is_at_hand
from zoo.fingerprint import fingerprint
from zoo.measures import wilson_interval
from zoo.report import confidence_maps
from zoo.runs import Run

EXPORT = Path(__file__).parents[2] / "saved_models" / "digits_nin_dsn"
NAMES = ["ant", "bee", "cat"]
SHAPE = (8, 8, 1)


def net(seed):
    """A net with class maps, whose weights matter."""
    images = x = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255)(x)
    initializer = keras.initializers.RandomNormal(0, 1, seed=seed)
    options = {"padding": "same", "kernel_initializer": initializer}
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv", strides=2, **options)(x)
    x = keras.layers.Conv2D(3, 1, name="class_maps", **options)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def write_run(folder, model, *, full=None, results=(), **fields):
    """The folder of a finished run; `full` is the model with its companions."""
    folder.mkdir(parents=True)
    run = Run(folder)
    saving.save(model, run.model_file)
    if full is not None:
        saving.save_uncompiled(full, run.with_companions_file)
    fields = {"image_size": [8, 8], "channels": 1, "resize": "pad", **fields}
    run.write_recipe({"recipe": "nin_dsn", "begun_in": str(folder.parent), "fields": fields})
    run.write_results({"label_names": NAMES, "evaluated_on": "test", **dict(results)})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs of three classes, a run with companions and a teacher, and a `.keras` file."""
    place = tmp_path_factory.mktemp("demo")
    images = pixels((12, 10, 3), 21).reshape(3, 7, 12, 10, 3) // 2
    for number, name in enumerate(NAMES):
        for index, image in enumerate(images[number] + 40 * number):
            folder = place / "photographs" / ("test" if index else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")
    teacher, student = net(1), net(2)
    full = zoo.DeeplySupervised(student, {"conv": zoo.CompanionHead(3)})
    saving.save(teacher, place / "teacher.keras")
    saving.save(student, place / "mine.keras")
    (place / "labels.txt").write_text("\n".join(NAMES))
    results = {"accuracy": 0.75, "examples": 18, "calibration_error": 0.125}
    results |= {"exits": {"conv": 0.5, "output": 0.75}, "teacher": [fingerprint(teacher)]}
    options = {"data": str(place / "photographs"), "teachers": [str(place / "teacher.keras")]}
    write_run(place / "run", student, full=full, results=results, soft_weight=0.9, **options)
    colour = pixels((9, 14, 3), 1, seed=8)[0]
    (place / "turned.jpg").write_bytes(with_exif(encode(colour, "JPEG"), exif(6)))
    (place / "grey.png").write_bytes(encode(pixels((20, 8, 1), 1)[0]))
    glass = np.concatenate([colour, colour[..., :1]], axis=-1)
    (place / "glass.png").write_bytes(encode(glass))
    return place


@pytest.fixture(scope="module")
def looking(place):
    return Looking(place / "run")


@pytest.fixture(scope="module")
def of_export():
    return Looking(EXPORT)


def by_predict(*arguments):
    """{label: probability} of each image, as `zoo predict` prints them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        zoo.commands.main.main(["predict", *map(str, arguments), "--top", "10", "--json"])
    return [
        {each["label"]: each["probability"] for each in image["ranking"]}
        for image in json.loads(said.getvalue())["images"]
    ]


@pytest.mark.parametrize("kind", ["run", "file", "export"])
def test_an_image_gets_the_probabilities_of_predict(kind, place, looking, of_export):
    files = [place / name for name in ("turned.jpg", "grey.png", "glass.png")]
    path = {"run": place / "run", "file": place / "mine.keras", "export": EXPORT}[kind]
    flags = ["--labels", place / "labels.txt"] if kind == "file" else []
    if kind == "file":
        looking = Looking(models.find(str(path)), place / "labels.txt")
    looking = of_export if kind == "export" else looking
    for file, expected in zip(files, by_predict(path, *files, *flags), strict=True):
        answer = looking.answer(file)
        assert set(expected) == set(looking.names)
        found = dict(zip(looking.names, answer.probabilities, strict=True))
        assert found == pytest.approx(expected, abs=1e-6), file
    read = data.read_image(file, looking.image_shape, "pad" if kind == "run" else "squash")
    np.testing.assert_array_equal(answer.pixels, read)


def test_the_maps_average_to_the_logits_and_lie_over_the_image(looking, place):
    answer = looking.answer(place / "grey.png")
    assert answer.maps.shape == (4, 4, 3)
    np.testing.assert_allclose(
        softmax(answer.maps.mean(axis=(0, 1))[None])[0], answer.probabilities, atol=1e-6
    )
    dimmed = np.repeat(0.45 * answer.pixels.repeat(42, 0).repeat(42, 1), 3, axis=-1)
    overlays = [answer.overlay(index) for index in range(3)]
    for index, overlay in enumerate(overlays):
        assert (overlay.shape, overlay.dtype) == ((336, 336, 3), "uint8")
        top = confidence_maps.top_activations(
            confidence_maps.upsample(answer.maps[..., index], (336, 336))
        )
        np.testing.assert_allclose(overlay[~top], dimmed[~top], atol=0.51)
    assert any((overlay != overlays[0]).any() for overlay in overlays[1:])
    # red is 213 or more in every colour of the maps
    best = np.unravel_index(answer.maps.argmax(), answer.maps.shape)
    row, column = (84 * each + 42 for each in best[:2])
    assert overlays[best[2]][row, column, 0] >= 213


def test_the_companions_are_those_of_the_run(looking, place):
    answer = looking.answer(place / "grey.png")
    full = saving.load_model(place / "run", with_companions=True)
    expected = full.exits(answer.pixels[None].astype("float32"))
    assert list(answer.exits) == list(expected) == ["conv", "output"]
    for depth, logits in expected.items():
        np.testing.assert_allclose(answer.exits[depth], softmax(logits)[0], atol=1e-6)
    np.testing.assert_allclose(answer.exits["output"], answer.probabilities, atol=1e-6)
    assert np.abs(answer.exits["conv"] - answer.probabilities).max() > 0.01


def test_an_export_has_its_companions_in_the_order_of_its_card(of_export):
    looking = of_export
    answer = looking.answer(looking.examples[0])
    assert list(answer.exits) == ["mlpconv1", "mlpconv2", "output"]
    np.testing.assert_allclose(answer.exits["output"], answer.probabilities, atol=1e-5)
    assert looking.on_black
    assert looking.hindsight.images.examples == looking.results["examples"]
    assert not looking.absent


def test_what_a_file_lacks_is_absent(place):
    looking = Looking(place / "mine.keras", place / "labels.txt")
    answer = looking.answer(place / "grey.png")
    assert (answer.exits, answer.teachers, answer.mistakes, looking.examples) == ({}, {}, [], [])
    assert looking.trust(0.9) == []
    (line,) = looking.absent
    assert "does not say what it was trained on" in line


def test_a_teacher_answers_beside_its_student(looking, place):
    answer = looking.answer(place / "grey.png")
    logits = keras.models.load_model(place / "teacher.keras")(answer.pixels[None].astype("float32"))
    (probabilities,) = answer.teachers.values()
    np.testing.assert_allclose(probabilities, softmax(np.asarray(logits))[0], atol=1e-6)
    assert np.abs(probabilities - answer.probabilities).max() > 0.01


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"teachers": ["teacher.keras"]}, "fingerprint"),
        ({"teachers": ["nothing.keras"]}, "nothing.keras"),
        ({"teachers": ["teacher.keras"], "soft_weight": 0.0}, None),
        ({"teachers": ["teacher.keras", "teacher.keras"]}, ""),
    ],
    ids=["another", "missing", "not used", "found in the folder where the run began"],
)
def test_a_teacher_that_did_not_teach_is_not_shown(change, reason, place, tmp_path):
    saving.save(net(1), tmp_path / "teacher.keras")
    prints = {"teacher": ["0" * 64]}
    run = write_run(tmp_path / "run", net(2), results=prints, data="photographs", **change)
    looking = Looking(run)
    assert bool(looking.answer(place / "grey.png").teachers) == (reason == "")
    told = [line for line in looking.absent if line.startswith("The teacher ")]
    assert len(told) == bool(reason)
    assert all(reason in line for line in told)


def test_the_nearest_mistakes_are_those_of_the_formula(looking, place):
    hindsight = looking.hindsight
    model = keras.models.load_model(place / "run" / "model.keras")
    images, labels = hindsight.images.images, hindsight.images.labels
    logits = model.predict(images.astype("float32"), verbose=0).astype("float64")
    assert hindsight.images.split == "test"
    asked = looking.answer(place / "glass.png")
    own = model.predict(asked.pixels[None].astype("float32"), verbose=0)[0].astype("float64")
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    assert 2 < len(wrong) < len(labels)
    distances = [np.linalg.norm((logits[i] - own) - (logits[i] - own).mean()) for i in wrong]
    expected = wrong[np.argsort(distances)][:6]
    assert len(asked.mistakes) == len(expected)
    for mistake, index in zip(asked.mistakes, expected, strict=True):
        np.testing.assert_array_equal(mistake.pixels, images[index])
        assert (mistake.true, mistake.said) == (labels[index], logits[index].argmax())
        assert mistake.true != mistake.said
        assert mistake.probability == pytest.approx(softmax(logits)[index].max(), abs=1e-6)
    shifted = hindsight.nearest_mistakes(own + 100)
    assert [each.probability for each in shifted] == [each.probability for each in asked.mistakes]


def test_how_far_an_answer_can_be_trusted_is_counted(looking, place):
    images = looking.hindsight.images
    model = keras.models.load_model(place / "run" / "model.keras")
    probabilities = softmax(model.predict(images.images.astype("float32"), verbose=0))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == images.labels
    tenths = set()
    for tenth in range(10):
        chosen = (confidence >= tenth / 10) & (confidence < (tenth + 1) / 10)
        said = looking.hindsight.right_near(tenth / 10 + 0.05)
        assert f"{10 * tenth} to {10 * tenth + 10} %" in said
        if not chosen.any():
            assert said.startswith("No test image")
            continue
        tenths.add(tenth)
        low, high = wilson_interval(right[chosen].mean(), chosen.sum())
        assert said.startswith(f"Of {chosen.sum()} test answers")
        assert f"{100 * right[chosen].mean():.1f} % were right" in said
        assert f"{100 * low:.1f} % to {100 * high:.1f} %" in said
    assert len(tenths) > 1
    assert looking.hindsight.right_near(1.0) == looking.hindsight.right_near(0.95)
    sentences = " ".join(looking.trust(0.95))
    assert "75.00 % of 18 test images" in sentences
    assert "12.50 %" in sentences


def test_of_many_test_images_a_part_is_asked(monkeypatch):
    from zoo.commands import hindsight

    monkeypatch.setattr(hindsight, "_MOST", 12)
    images = data.ImageData("many", "test", pixels(SHAPE, 30), np.arange(30) % 3, NAMES)
    asked = Hindsight(net(0), images).images
    assert np.bincount(asked.labels).tolist() == [4, 4, 4]


def test_data_that_must_be_downloaded_are_not_asked(place, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert not is_at_hand("cifar100")
    assert not is_at_hand("no_such_data")
    assert is_at_hand("digits")
    assert is_at_hand(place / "photographs")
    looking = Looking(write_run(tmp_path / "run", net(2), data="cifar100"))
    assert looking.hindsight is None
    assert looking.answer(place / "grey.png").mistakes == []
    assert any("cifar100 are not on this machine" in line for line in looking.absent)


@pytest.mark.parametrize("kind", ["run", "export"])
def test_what_is_no_image_is_refused_as_predict_refuses_it(
    kind, looking, of_export, place, tmp_path, capsys
):
    looking, path = {"run": (looking, place / "run"), "export": (of_export, EXPORT)}[kind]
    png = encode(pixels(SHAPE, 1)[0])
    large = bytearray(png)
    large[16:24] = (60_000).to_bytes(4, "big") * 2
    files = {"text.png": b"no image", "cut.png": png[:50], "large.png": large, "empty.png": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit):
        by_predict(path, *(tmp_path / name for name in files))
    told = capsys.readouterr().err
    for name in files:
        with pytest.raises(data.DataError, match=name) as refused:
            looking.answer(tmp_path / name)
        assert " ".join(str(refused.value).split()) in told


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stopped:
        zoo.commands.main.main(["demo", str(EXPORT)])
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert 'pip install "keras-nin-zoo[demo]"' in said.err


def test_an_address_that_cannot_be_had_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags in (["--port", port], ["--host", "192.0.2.1"], ["--port", 0], ["--port", 70000]):
            with pytest.raises(SystemExit) as stopped:
                zoo.commands.main.main(["demo", str(EXPORT), *map(str, flags)])
            said = capsys.readouterr()
            assert (stopped.value.code, said.out, said.err.count("\n")) == (2, "", 1)
            assert flags[0] in said.err
