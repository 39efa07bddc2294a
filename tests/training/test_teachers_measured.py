"""Teachers of others in a recipe: loaded, prepared, and measured before the first step."""

import dataclasses
import io

import keras
import numpy as np
import pytest
from keras import layers
from oracles import log_softmax, softmax
from rich.console import Console

import zoo
import zoo.recipe
import zoo.training
from zoo import exports
from zoo.data import ImageData
from zoo.report import page
from zoo.runs import Run
from zoo.saving import ModelError
from zoo.serving import card
from zoo.training import measuring, teachers
from zoo.training.teachers import TeacherError, cache, load

pytestmark = pytest.mark.eager

CLASSES, SIZE, IMAGES = 4, (6, 6, 3), 40
RECIPE = '''"""A student that learns in no time; not measured."""

from dataclasses import dataclass

import zoo
from zoo.training.families.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    epochs: int = 1
    batch_size: int = 8
    width: float = 0.02
    precision: zoo.recipe.Precision = "float32"
'''


def brightnesses():
    return np.linspace(30, 220, CLASSES)


def images(count=IMAGES, size=SIZE, seed=0):
    """Images whose class is their brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = brightnesses()[labels][:, None, None, None] + rng.integers(-9, 10, (count, *size))
    return ImageData("made", "train", pixels.astype("uint8"), labels, tuple("abcd"))


def teacher(scale=1.0, offset=0.0, size=SIZE, softmax=False, classes=CLASSES):
    """A net that knows the brightness of pixels x scale + offset, and so all classes."""
    centres = brightnesses()[:classes] * scale + offset
    inputs = keras.Input(size)
    mean = layers.GlobalAveragePooling2D()(inputs)
    dense = layers.Dense(classes, "softmax" if softmax else None)
    outputs = dense(mean)
    # -(mean - centre)^2 without its square of the mean, which all classes share.
    width = (centres[1] - centres[0]) ** 2
    dense.set_weights(
        [np.tile(2 * centres / size[-1] / width, (size[-1], 1)), -(centres**2) / width]
    )
    return keras.Model(inputs, outputs, name="bright")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The recipe, with a perceptron as its student, which is quicker."""

    def student(shape, classes, **_):
        return zoo.mlp(shape, classes, hidden=(4,))

    monkeypatch.setattr(zoo, "nin", student)
    (tmp_path / "bright.py").write_text(RECIPE)
    return tmp_path / "bright.py"


@pytest.fixture
def data(tmp_path):
    arrays = {}
    for split, seed in (("train", 0), ("test", 1)):
        made = images(seed=seed)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = made.images, made.labels
    np.savez(tmp_path / "made.npz", **arrays)
    return str(tmp_path / "made.npz")


def train(file, model, data, tmp_path, name="run", page=False, minutes=None, **fields):
    """Return the run and what was printed."""
    path = tmp_path / "teacher.keras"
    if model is not None:
        model.save(path)
    recipe = zoo.recipe.load(file)(data=data, teachers=(str(path),), **fields)
    text = io.StringIO()
    folder = zoo.training.train(
        recipe,
        file,
        runs=tmp_path / "runs",
        name=name,
        deterministic=False,
        page=page,
        minutes=minutes,
        console=Console(file=text, width=500, highlight=False),
    )
    return Run(folder), text.getvalue()


def test_a_teacher_is_measured_before_the_first_step(file, data, tmp_path, monkeypatch):
    run, said = train(file, teacher(softmax=True), data, tmp_path, page=True)
    path = str(tmp_path / "teacher.keras")
    line = f"teacher {path}: accuracy 100.0 % on 40 training images"
    assert line in said
    assert said.index(line) < said.index("epoch 1/1")
    assert "The teachers answer now, once on each training image" in said
    expected = {"name": path, "accuracy": 1.0, "examples": 40, "images": "training"}
    assert run.results["teachers"] == [{**expected, "answers_on": "images"}]
    assert not [each for each in run.results["warnings"] if "teacher" in each]
    html = run.page.read_text()
    assert f"<dt>Teacher {path}</dt>" in html
    assert "100.0\N{NO-BREAK SPACE}% of 40 training images" in html
    older = {**run.results}
    del older["teachers"]
    run.write_results(older)
    monkeypatch.setattr(page, "_save", lambda drawings, folder: dict.fromkeys(drawings, ""))
    again = Run(run.folder)
    assert "<dt>Teacher" not in page.write(again, zoo.load_model(run.folder), images()).read_text()


def test_a_teacher_of_other_pixels_is_noticed_and_prepared(file, data, tmp_path):
    other = teacher(1 / 127.5, -1)
    run, said = train(file, other, data, tmp_path, name="raw")
    assert run.results["teachers"][0]["accuracy"] == 0.25
    (warning,) = [each for each in run.results["warnings"] if "chance" in each]
    assert "accuracy 25.0 % on 40 training images; chance is 25 %" in warning
    assert "--teacher-preprocessing" in warning
    assert "Warning: The teacher" in said
    run, said = train(file, None, data, tmp_path, name="ready", teacher_preprocessing="tf")
    assert run.results["teachers"][0]["accuracy"] == 1.0
    assert "chance" not in said


def test_a_teacher_is_measured_once_in_a_run(file, data, tmp_path, monkeypatch):
    measured = []
    once = measuring.answers

    def counted(model, images, *changes):
        measured.append(model)
        return once(model, images, *changes)

    monkeypatch.setattr(measuring, "answers", counted)
    views = {"epochs": 3, "teachers_see": "views"}
    with pytest.raises(zoo.training.TimeUp):
        train(file, teacher(), data, tmp_path, minutes=0.001, **views)
    assert len(measured) == 1
    run, said = train(file, None, data, tmp_path, **views)
    assert "Resumed" in said
    assert f"teacher {tmp_path}" not in said
    assert len(measured) == 1
    assert run.results["teachers"][0]["accuracy"] == 1.0


def test_held_out_images_judge_a_teacher_where_there_are_some(file, data, tmp_path):
    run, said = train(file, teacher(), data, tmp_path, validation=0.2)
    assert "accuracy 100.0 % on 8 validation images" in said
    assert run.results["teachers"][0]["images"] == "validation"


MOVING = """
    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=5)
"""


@pytest.mark.parametrize(
    ("reads", "asked", "answered"),
    [
        (False, "auto", "images"),
        (False, "views", "views"),
        (True, "auto", "views"),
        (True, "images", "images"),
    ],
)
def test_a_teacher_that_cannot_read_the_views_answers_on_the_images(
    reads, asked, answered, file, data, tmp_path
):
    """Black borders darken an image. Its largest value alone is that of its brightness."""
    file.write_text(file.read_text() + MOVING)
    inputs = keras.Input(SIZE)
    brightest = keras.ops.max(inputs, axis=(1, 2), keepdims=True)
    able = keras.Model(inputs, teacher()(0 * inputs + brightest))
    given = able if reads else teacher()
    run, said = train(file, given, data, tmp_path, page=True, teachers_see=asked)
    (found,) = run.results["teachers"]
    assert found["answers_on"] == answered
    assert (found["views"] > 0.95) == reads
    assert f"{100 * found['views']:.1f} % on views of them" in said
    assert f"it answers on the {answered}" in run.page.read_text()
    recipe = zoo.recipe.load(file)(data=data, teachers=(str(tmp_path / "teacher.keras"),))
    recipe = dataclasses.replace(recipe, teachers_see=asked)
    training, _ = recipe.datasets()
    batches = recipe.training_batches(training, 0)
    _, targets = next(iter(batches.as_numpy_iterator()))
    assert isinstance(targets, dict) == (answered == "images")
    if answered == "images":
        logits = given.predict(training.images.astype("float32"), verbose=0)
        means = training.images.mean(axis=(1, 2, 3))
        pixels, targets = next(iter(recipe.training_batches(training, 7).as_numpy_iterator()))
        assert pixels.mean() < means.mean()  # the student sees views
        for label, row in zip(targets["labels"], targets["teacher_logits"], strict=True):
            same = logits[training.labels == label]
            assert np.abs(same - row).sum(axis=1).min() < 1e-3


def test_teachers_answer_once_on_a_number_of_views(file, data, tmp_path, monkeypatch):
    file.write_text(file.read_text() + MOVING)
    monkeypatch.chdir(tmp_path)
    run, said = train(file, teacher(), data, tmp_path, teachers_see="views", views=2)
    assert "once on each of the 2 views of each training image" in said
    assert run.results["teachers"][0]["answers_on"] == "views"
    assert len(list(tmp_path.glob("runs/soft_targets/*.npz"))) == 1
    recipe = zoo.recipe.load(file)(
        data=data, teachers=(str(tmp_path / "teacher.keras"),), teachers_see="views", views=2
    )
    training, _ = recipe.datasets()
    batches = recipe.training_batches(training, 0).as_numpy_iterator()
    seen = []
    for _ in range(4 * IMAGES // recipe.batch_size):
        pixels, targets = next(batches)
        answers = teacher()(pixels)
        np.testing.assert_allclose(targets["teacher_logits"], answers, rtol=1e-3, atol=2e-3)
        seen += [image.tobytes() for image in pixels]
    first, second, third, fourth = (set(seen[i * IMAGES :][:IMAGES]) for i in range(4))
    assert first == third
    assert second == fourth
    assert first != second
    assert len(list(tmp_path.glob("runs/soft_targets/*.npz"))) == 1


def test_a_student_without_a_teacher_has_none(file, data, tmp_path):
    run, said = train(file, teacher(), data, tmp_path, soft_weight=0.0)
    assert run.results["teachers"] == []
    assert "teacher " not in said


def test_the_card_has_the_teacher_and_one_of_an_older_zoo_does_not(tmp_path):
    run, version = tmp_path / "run", tmp_path / "exported" / "1"
    run.mkdir()
    (version / exports.EXAMPLES).mkdir(parents=True)
    (version / exports.EXAMPLES / "a.png").touch()
    results = {"evaluated_on": "test", "accuracy": 0.5, "error_percent": 50.0, "errors": 4}
    results |= {"examples": 8, "loss": 0.25, "epochs": 3, "seconds": 1.0, "train_examples": 40}
    results |= {"teacher": ["f00"], "warnings": []}
    measured = {"name": "runs/a|b", "accuracy": 0.9871, "examples": 2000, "images": "training"}
    measured |= {"views": 0.5, "answers_on": "images"}
    texts = []
    for extra in ({"teachers": [measured]}, {}):
        fields = {"data": "mnist", "teachers": ["runs/a|b"]}
        versions = {"command": "zoo train", "commit": None, "dirty": False, "seed": 0}
        record = {
            "recipe": {"recipe": "bright", "fields": fields},
            "versions": {**versions, "hardware": {"cpu": "one", "cores": 2}},
            "results": {**results, **extra},
        }
        kinds = {"weights": [], "top_k": 2, "exits": [], "tolerance": 1e-5, "max_batch": 256}
        facts = card.facts(teacher(), list("abcd"), record=record, **kinds)
        speed = {"milliseconds": {"1": 1.0}, "of": "it", "hardware": "one"}
        facts |= {"name": "made", "version": 1, "bytes": 3, "speed": speed}
        texts.append(card.page(version, facts))
        if not extra:
            del facts["training"]["teachers"]  # as a card of an older zoo
            texts.append(card.page(version, facts))
    (row,) = [line for line in texts[0].splitlines() if "accuracy of the teacher" in line]
    views = ", 50.0 % of views of them; it answers on the images |"
    assert row.endswith("98.7 % of 2,000 training images" + views)
    assert "runs/a" in row
    assert not any("accuracy of the teacher" in text for text in texts[1:])


# What is counted.


def test_the_accuracy_is_that_of_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    right, examples, chance = measuring._accuracy(logits, labels, None)
    assert (right, examples) == ((logits.argmax(1) == labels).mean(), 50)
    assert chance == max((labels == c).mean() for c in range(3))
    # Student classes 2, 0 are the teacher's 4, 1; images of class 1 do not count.
    found = measuring._accuracy(logits, labels, {2: 4, 0: 1})
    kept = labels != 1
    answers = np.where(logits[kept, 4] > logits[kept, 1], 2, 0)
    assert found[:2] == ((answers == labels[kept]).mean(), kept.sum())


@pytest.mark.parametrize(
    ("last", "expected"), [("linear", 1.0), ("sigmoid", 1.0)], ids=["logit", "probability"]
)
def test_a_single_output_is_the_second_of_two_classes(last, expected):
    inputs = keras.Input((2, 2, 1))
    dense = layers.Dense(1, last)
    model = keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(inputs)))
    dense.set_weights([np.ones((1, 1)), np.array([-128.0])])
    pixels = np.array([[0], [255], [250], [9]], "uint8").repeat(4, axis=1).reshape(4, 2, 2, 1)
    data = ImageData("made", "train", pixels, np.array([0, 1, 1, 0]), ("dark", "light"))
    answers = measuring.answers(model, data)
    assert measuring._accuracy(answers, data.labels, None)[0] == expected


def test_no_more_images_are_measured_than_needed(monkeypatch):
    monkeypatch.setattr(measuring, "_MOST_IMAGES", 12)
    some = measuring._some(images(40))
    assert some.examples == 12
    assert np.bincount(some.labels).tolist() == [3, 3, 3, 3]
    assert measuring._some(images(8)).examples == 8


def test_outputs_of_another_kind_are_not_measured():
    inputs = keras.Input(SIZE)
    assert measuring.answers(keras.Model(inputs, {"a": inputs, "b": inputs}), images()) is None
    assert measuring.answers(keras.Model(inputs, inputs), images()) is None


# Loading.


def test_preprocessing_and_size_stand_in_front_of_a_teacher(tmp_path):
    plain = teacher(size=(12, 12, 3))
    plain.save(tmp_path / "t.keras")
    pixels = images().images.astype("float32")
    prepared = zoo.ApplicationPreprocessing("resnet50")(pixels)
    sized = keras.layers.Resizing(12, 12, antialias=True)(pixels)
    both = keras.layers.Resizing(12, 12, antialias=True)(prepared)
    assert load(tmp_path / "t.keras").input_shape == (None, 12, 12, 3)
    for how, expected in (
        ({"resize": True}, plain(sized)),
        ({"resize": True, "preprocessing": "resnet50"}, plain(both)),
    ):
        found = load(tmp_path / "t.keras", **how)
        np.testing.assert_allclose(found(pixels), expected, rtol=1e-3, atol=1e-3)
        found.save(tmp_path / "again.keras")
        np.testing.assert_allclose(load(tmp_path / "again.keras")(pixels), found(pixels), rtol=1e-6)
    small = teacher()
    small.save(tmp_path / "s.keras")
    found = load(tmp_path / "s.keras", preprocessing="resnet50")
    np.testing.assert_allclose(found(pixels), small(prepared), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5"])
def test_a_file_of_others_is_loaded(suffix, tmp_path):
    model = teacher(softmax=True)
    model.save(tmp_path / f"t{suffix}")
    pixels = images().images.astype("float32")
    np.testing.assert_allclose(load(tmp_path / f"t{suffix}")(pixels), model(pixels), rtol=1e-6)


def test_other_files_are_refused_with_what_to_do(tmp_path):
    model = teacher()
    model.save_weights(tmp_path / "t.weights.h5")
    with pytest.raises(TeacherError, match=r"weights and no model.*load_weights.*model.save"):
        load(tmp_path / "t.weights.h5")
    (tmp_path / "t.pt").write_bytes(b"PK")
    with pytest.raises(TeacherError, match=r"no file of Keras, which ends in \.keras or"):
        load(tmp_path / "t.pt")
    (tmp_path / "t.h5").write_bytes(b"no HDF5")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "t.h5")
    doubling = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda values: values * 2)])
    doubling.save(tmp_path / "lambda.h5")
    with pytest.raises(ModelError, match="Lambda"):
        load(tmp_path / "lambda.h5")


@pytest.mark.parametrize(
    ("how", "size", "message"),
    [
        ({"preprocessing": "resnet5"}, SIZE, r"t.keras.*no preprocessing 'resnet5'.*xception"),
        ({"resize": True}, (None, None, 3), "no size to resize to.*images of any size"),
        ({"preprocessing": "tf"}, (6, 6, 1), "takes RGB images"),
    ],
)
def test_what_cannot_stand_in_front_is_refused(how, size, message, tmp_path):
    teacher(size=size).save(tmp_path / "t.keras")
    with pytest.raises(TeacherError, match=message):
        load(tmp_path / "t.keras", **how)


def test_a_recipe_refuses_teachers_that_do_not_fit(file, data, tmp_path):
    def refused(model, **fields):
        with pytest.raises((TeacherError, zoo.recipe.RecipeError)) as error:
            train(file, model, data, tmp_path, **fields)
        return str(error.value)

    wrong = refused(teacher(classes=3))
    assert "gives 3 classes" in wrong
    assert "has 4" in wrong
    wrong = refused(teacher(size=(9, 8, 3)))
    assert "takes images of 9 x 8" in wrong
    assert "are 6 x 6. --teacher-resize" in wrong
    assert "one of caffe, convnext" in refused(teacher(), teacher_preprocessing="resnet5")
    inputs = keras.Input(SIZE)
    assert "lacks its last layers" in refused(keras.Model(inputs, layers.Conv2D(4, 1)(inputs)))


def test_a_teacher_of_another_size_teaches_where_that_is_asked_for(file, data, tmp_path):
    run, said = train(file, teacher(size=(9, 8, 3)), data, tmp_path, teacher_resize=True)
    assert "accuracy 100.0 % on 40 training images" in said
    assert run.fields["teacher_resize"] is True


def test_load_for_checks_channels(tmp_path):
    teacher(size=(6, 6, 1)).save(tmp_path / "t.keras")
    with pytest.raises(TeacherError, match=r"of 1 channels; those of made have 3"):
        teachers.load_for(images(), [str(tmp_path / "t.keras")], preprocessing=None, resize=True)


def test_seeds_of_before_and_after_resizing_was_a_field_are_of_one_training():
    def record(seed, **fields):
        results = {"error_percent": 1.0, "errors": 1, "seconds": 1.0, "teacher": ["f"]}
        recipe = {"recipe": "r", "fields": {"seed": seed, **fields}}
        return {"recipe": recipe, "versions": {"seed": seed}, "results": results}

    new = record(1, teacher_resize=False, teacher_preprocessing=None)
    assert card.over_seeds([record(0), new])["seeds"] == [0, 1]
    with pytest.raises(card.RepeatError, match="teacher_resize"):
        card.over_seeds([record(0), record(1, teacher_resize=True)])


# Cached soft targets.


@pytest.mark.parametrize("shown", [True, False])
def test_a_cache_of_a_softmax_teacher_has_logits(shown, tmp_path):
    class Hidden(keras.Model):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def call(self, inputs):
            return self.model(inputs)

    logits, model = teacher(), teacher(softmax=True)
    given = model if shown else Hidden(model)
    with pytest.warns(UserWarning, match="gives the probabilities of a softmax"):
        kept = cache(given, images(), tmp_path / "c.npz", keep="float32")
    expected = log_softmax(logits.predict(images().images.astype("float32"), verbose=0))
    np.testing.assert_allclose(kept.logits[0], expected, rtol=1e-4, atol=1e-4)
    assert kept.logits.min() < -1
    with pytest.warns(UserWarning, match="softmax"):
        mixed = cache(
            [logits, given], images(), tmp_path / "m.npz", temperature=2.0, keep="float32"
        )
    plain = cache([logits, logits], images(), tmp_path / "p.npz", temperature=2.0, keep="float32")
    np.testing.assert_allclose(softmax(mixed.logits), softmax(plain.logits), atol=1e-5)
