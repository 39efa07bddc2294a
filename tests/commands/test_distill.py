"""`zoo distill`: one's own classifier, a small student taught and alone, and a page of all."""

import json
import re
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from nets_and_images import pixels
from PIL import Image
from scipy import stats

import zoo
import zoo.commands.main
from zoo.data import load
from zoo.errors import UsageError
from zoo.experiments import distilling, student_size
from zoo.runs import Run
from zoo.training import measuring

pytestmark = pytest.mark.long
CLASSES = ["ant", "bee", "cat"]
SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs of three classes, and a teacher of another size that gives probabilities."""
    place = tmp_path_factory.mktemp("distill")
    images = pixels(SHAPE, 36).reshape(3, 12, *SHAPE) // 4
    for number, name in enumerate(CLASSES):
        folder = place / "photographs" / name
        folder.mkdir(parents=True)
        for index, image in enumerate(images[number] + 60 * number):
            Image.fromarray(image.astype("uint8")).save(folder / f"{index}.png")
    teacher = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    teacher.save(place / "teacher.keras")
    return place


def command(place, monkeypatch, *flags, teacher="teacher.keras"):
    monkeypatch.chdir(place)
    data = ["--data", "photographs", "--teacher", teacher, "--teacher-resize"]
    data += ["--epochs", "1", "--batch-size", "8", "--precision", "float32"]
    zoo.commands.main.main(["distill", *data, *flags])


@pytest.fixture(scope="module")
def distilled(place):
    with pytest.MonkeyPatch.context() as patch:
        command(place, patch, "--size", "5k", "--name", "first")
    return place / "runs" / "student" / "first"


def test_it_leaves_two_runs_and_a_page(distilled, place):
    taught, alone = (Run(distilled / name) for name in ("taught", "alone"))
    assert taught.fields["soft_weight"] == 0.9
    assert taught.fields["teachers"] == ("teacher.keras",)
    assert alone.fields["soft_weight"] == 0
    assert not alone.fields["teachers"]
    for field in taught.fields.keys() - {"soft_weight", "teachers"}:
        assert taught.fields[field] == alone.fields[field], field
    assert taught.results["parameters"] == alone.results["parameters"] <= 5000
    wider = zoo.nin(
        SHAPE,
        3,
        variant="small",
        width=taught.fields["width"] + student_size.STEP,
        normalization=zoo.BatchNormalization(scale=False),
    )
    assert wider.count_params() > 5000
    page = (distilled / "comparison.html").read_text("utf-8")
    assert "student taught" in page
    for link in re.findall(r'href="(?!#)([^"]+)"', page):
        assert (distilled / link).is_file()


def test_its_numbers_are_those_of_the_models(distilled, place):
    found = json.loads((distilled / "comparison.json").read_text("utf-8"))
    rows = {row["model"]: row for row in found["rows"]}
    assert list(rows)[:3] == ["teacher", "student alone", "student taught"]
    images = load(str(place / "photographs"), "test")
    raw = np.asarray(images.images[:], "float32")
    resized = keras.layers.Resizing(6, 6, antialias=True)(raw)
    teacher = keras.models.load_model(place / "teacher.keras")
    answers = {"teacher": teacher.predict(resized, verbose=0)}
    for name in ("alone", "taught"):
        model = keras.models.load_model(distilled / name / "model.keras")
        answers[f"student {name}"] = model.predict(raw, verbose=0)
        assert rows[f"student {name}"]["parameters"] == model.count_params()
    right = {name: each.argmax(axis=1) == images.labels for name, each in answers.items()}
    for name, each in right.items():
        assert rows[name]["accuracy"] == pytest.approx(each.mean())
    assert found["only_taught"] == (right["student taught"] > right["student alone"]).sum()
    assert found["only_alone"] == (right["student taught"] < right["student alone"]).sum()
    assert rows["teacher"]["parameters"] == 4 * 300 + 301 * 3
    int8 = rows[f"student {found['better']}, int8"]
    assert int8["megabytes"] < 0.1
    assert int8["milliseconds"] > 0


def test_the_same_command_trains_nothing_again(distilled, place, monkeypatch, capsys):
    before = (distilled / "taught" / "model.keras").read_bytes()
    # A machine that is faster now would choose another width.
    monkeypatch.setattr(student_size, "width_of_size", lambda *_: 1.0)
    command(place, monkeypatch, "--size", "5k", "--name", "first", "--no-quantize")
    assert capsys.readouterr().out.count("is complete") == 2
    assert (distilled / "taught" / "model.keras").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "many"], "--size is a number of parameters, such as 120k or 1.2M; received"),
        (["--size", "-3k"], "--size is a number of parameters"),
        (["--size", "5"], r"No student is so small: the narrowest net has [\d,]+ parameters"),
        (["--size", "5k", "--width", "0.1"], "--width and --size both set the student's size"),
        (["--latency-ms", "0"], "--latency-ms"),
        (["--soft-weight", "0"], "--soft-weight"),
        (["--teacher", "nobody.keras"], "There is no teacher at 'nobody.keras'"),
        (["--data", ""], "--data is the folder of your images"),
    ],
)
def test_what_cannot_be_is_one_line(place, monkeypatch, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        command(place, monkeypatch, "--name", "refused", *flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error)
    assert not (place / "runs" / "student" / "refused").exists()


@pytest.mark.parametrize("search", ["width_of_size", "width_of_latency"])
@pytest.mark.parametrize(("most", "steps"), [(9, 1), (10, 1), (12, 2), (1000, 31), (1e9, 384)])
def test_the_width_is_the_largest_that_suits(search, most, steps, monkeypatch):
    """A net of n steps has n^2 + 8 parameters, and takes so many ms."""

    def count(width):
        return round(width / student_size.STEP) ** 2 + 8

    def build(width):
        return SimpleNamespace(count_params=lambda: count(width), input_shape=(None, *SHAPE))

    monkeypatch.setattr(
        student_size,
        "milliseconds",
        lambda models, *_: [model.count_params() for model in models],
    )
    find = getattr(student_size, search)
    assert find(build, most) == steps * student_size.STEP
    with pytest.raises(UsageError, match="No student is so small: the narrowest net has 9"):
        find(build, 8)


def test_models_are_timed_in_turns():
    order = []

    def net(name, seconds):
        images = keras.Input(SHAPE)
        model = keras.Model(images, keras.layers.Flatten()(images))

        def told(pixels):
            order.append(name)
            time.sleep(seconds)
            return pixels

        def call(images, **_):
            return tf.numpy_function(told, [images], tf.float32)

        model.call = call
        return model

    quick, slow = measuring.milliseconds([net("quick", 0), net("slow", 0.01)], SHAPE)
    assert order[:4] == ["quick", "slow"] * 2
    assert slow > 10
    assert slow > quick


@pytest.mark.parametrize(("text", "number"), [("120k", 120e3), ("1.2M", 1.2e6), ("500", 500)])
def test_a_size_is_written_as_people_do(text, number):
    assert distilling.size(text) == number


@pytest.mark.parametrize(
    ("taught", "alone", "said"),
    [
        (30, 5, "25 more of 1,000 right: p = 2.2e-05, so it is hardly chance"),
        (5, 30, "25 fewer of 1,000 right: p = 2.2e-05, so it is hardly chance"),
        (6, 4, "2 more of 1,000 right: p = 0.75, so it may be chance"),
        (4, 4, "Both students have as many images right"),
    ],
)
def test_the_difference_is_said_with_its_chance(taught, alone, said):
    p = stats.binomtest(taught, taught + alone).pvalue
    found = {"only_taught": taught, "only_alone": alone, "examples": 1000, "p": p}
    assert said in distilling.in_words(found)
