"""A model is a name, a run, an export or a `.keras` file, in every command.

The answers are for people or programs. An export never replaces what is there.
"""

import configparser
import contextlib
import csv
import io
import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from nets_and_images import LABELS, network, pixels, probabilities_of
from PIL import Image

import zoo.commands.main
from zoo import exports
from zoo.commands import exportable
from zoo.exports import ExportError
from zoo.serving import exporting, publishing

ROOT = Path(__file__).parents[2]
RECIPE = """
import zoo, zoo.recipe
from dataclasses import dataclass

@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    data: str = "photographs"
    epochs: int = 1
    batch_size: int = 4
    precision: zoo.recipe.Precision = "float32"

    def model(self, data, steps):
        return zoo.mlp(data.image_shape, data.classes, hidden=(8,))
"""


def zoo_of(capsys, *arguments):
    """Run a command; return its exit code, standard output and standard error."""
    code = 0
    try:
        zoo.commands.main.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    return (code, *capsys.readouterr())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of a user: photographs of three classes, a run, its export, and a file."""
    place = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cat")):
        (place / "photographs" / name).mkdir(parents=True)
        for index in range(6):
            image = random.integers(80 * number, 80 * number + 60, (6, 6, 3), "uint8")
            Image.fromarray(image).save(place / "photographs" / name / f"{index}.png")
    (place / "recipes").mkdir()
    (place / "recipes" / "toy.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        flags = ["--name", "a", "--no-page", "--no-deterministic"]
        zoo.commands.main.main(["train", "toy", *flags])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            zoo.commands.main.main(["export", "runs/toy/a"])
    (place / "said.txt").write_text(said.getvalue())
    shutil.copy(place / "runs" / "toy" / "a" / "model.keras", place / "mine.keras")
    (place / "labels.txt").write_text("ant\nbee\ncat\n")
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


MODELS = {
    "run": ["runs/toy/a"],
    "file in a run": ["runs/toy/a/model.keras"],
    "name": ["toy"],
    "export": ["saved_models/toy"],
    "version": ["saved_models/toy/1"],
    "file in an export": ["saved_models/toy/1/assets.extra/model.keras"],
    "file": ["mine.keras", "--labels", "labels.txt"],
}


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_predicts_and_is_evaluated(model, here, capsys):
    named, *labels = MODELS[model]
    code, shown, _ = zoo_of(capsys, "predict", named, "photographs", "--json", *labels)
    answers = json.loads(shown)
    assert (code, answers["model"], answers["refused"]) == (0, named, [])
    assert shown.count("\n") == 1
    images = [row["image"] for row in answers["images"]]
    assert images == sorted(map(str, Path("photographs").glob("*/*.png")))
    trained = keras.models.load_model("runs/toy/a/model.keras")
    photographs = np.stack([np.asarray(Image.open(image)) for image in images])
    expected = probabilities_of(trained, photographs)
    for row, probabilities in zip(answers["images"], expected, strict=True):
        assert row["label"] == ("ant", "bee", "cat")[probabilities.argmax()]
        assert row["ranking"][0] == {key: row[key] for key in ("label", "probability")}
        assert row["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
    command = ["evaluate", named, "--json", "--data", "photographs", *labels]
    measured = json.loads(zoo_of(capsys, *command)[1])
    assert [row["class"] for row in measured["classes"]] == ["ant", "bee", "cat"]
    assert measured["accuracy"] == 1 - measured["errors"] / measured["images"]


def test_the_mirror_images_are_measured_apart(here, tmp_path, capsys):
    shutil.copytree("photographs", tmp_path / "all")
    command = ["evaluate", "toy", "--data", tmp_path / "all"]
    plain = json.loads(zoo_of(capsys, *command, "--json")[1])
    measured = json.loads(zoo_of(capsys, *command, "--test-time-mirror", "--json")[1])
    found = measured.pop("test_time_mirror")
    assert measured == plain
    images, labels = [], []
    for number, name in enumerate(("ant", "bee", "cat")):
        for path in sorted(Path("photographs", name).glob("*.png")):
            images.append(np.asarray(Image.open(path)))
            labels.append(number)
    trained, images = keras.models.load_model("runs/toy/a/model.keras"), np.stack(images)
    logits = trained.predict(images, verbose=0) + trained.predict(images[:, :, ::-1], verbose=0)
    wrong = int((logits.argmax(axis=1) != labels).sum())
    assert found == {"errors": wrong, "accuracy": 1 - wrong / len(labels)}
    shown = zoo_of(capsys, *command, "--test-time-mirror")[1]
    assert f"mirror image: accuracy {100 * found['accuracy']:.2f} %, {wrong} errors" in shown


def test_a_model_is_evaluated_on_some_of_its_classes(here, tmp_path, capsys):
    for name in ("cat", "bee"):
        shutil.copytree(here / "photographs" / name, tmp_path / "two" / name)
    command = ["evaluate", "toy", "--data", tmp_path / "two", "--csv"]
    code, shown, _ = zoo_of(capsys, *command)
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert code == 0
    assert [(row["class"], row["images"]) for row in rows] == [
        ("ant", "0"),
        ("bee", "6"),
        ("cat", "6"),
    ]
    (tmp_path / "two" / "bee").rename(tmp_path / "two" / "dog")
    code, _, error = zoo_of(capsys, *command)
    assert code == 2
    assert "dog" in error


def test_a_model_is_evaluated_on_one_of_its_classes(here, tmp_path, capsys):
    shutil.copytree(here / "photographs" / "cat", tmp_path / "one" / "cat")
    command = ["evaluate", "toy", "--data", tmp_path / "one"]
    code, shown, error = zoo_of(capsys, *command)
    assert (code, error) == (0, "")
    assert "one has no images of 2 of the model's classes: ant, bee." in shown
    results = json.loads(zoo_of(capsys, *command, "--json")[1])
    trained = keras.models.load_model("runs/toy/a/model.keras")
    cats = [np.asarray(Image.open(file)) for file in sorted(Path("photographs/cat").iterdir())]
    wrong = int((probabilities_of(trained, np.stack(cats)).argmax(1) != 2).sum())
    assert (results["images"], results["errors"]) == (6, wrong)
    assert [row["images"] for row in results["classes"]] == [0, 0, 6]
    # All classes are there: none is called absent.
    assert "has no images" not in zoo_of(capsys, "evaluate", "toy", "--data", "photographs")[1]
    shutil.rmtree(tmp_path / "one" / "cat")
    code, _, error = zoo_of(capsys, *command)
    assert code == 2
    assert "is empty" in error
    # Such a folder is no data to train on.
    shutil.copytree(here / "photographs" / "cat", tmp_path / "one" / "cat")
    code, _, error = zoo_of(capsys, "train", "toy", "--data", tmp_path / "one", "--runs", tmp_path)
    assert code == 2
    assert "expected two or more" in error


def test_an_image_may_come_from_standard_input(here, capsys, monkeypatch):
    content = (here / "photographs" / "bee" / "3.png").read_bytes()
    for model in ("runs/toy/a", "toy"):
        of_file = zoo_of(capsys, "predict", model, "photographs/bee/3.png", "--csv")[1]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        code, shown, _ = zoo_of(capsys, "predict", model, "-", "--csv")
        assert code == 0
        assert shown == of_file.replace("photographs/bee/3.png", "-")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no image")))
        code, shown, error = zoo_of(capsys, "predict", model, "-")
        assert (code, shown) == (2, "")
        assert error.startswith("zoo: - is ")
        assert "train" not in error
        assert os.sep not in error
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert "which is empty" in zoo_of(capsys, "predict", "toy", "-")[2]


def test_what_is_refused_stands_beside_the_answers(here, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no image")
    images = ["photographs/ant/0.png", tmp_path / "notes.png"]
    code, shown, error = zoo_of(capsys, "predict", "runs/toy/a", *images, "--json")
    answers = json.loads(shown)
    assert code == 1
    assert len(answers["images"]) == len(answers["refused"]) == 1
    assert "notes.png" in answers["refused"][0]
    assert answers["refused"][0] in error
    code, shown, _ = zoo_of(capsys, "predict", "toy", tmp_path, "--json")
    assert (code, json.loads(shown)["images"]) == (2, [])


def test_quiet_prints_errors_and_what_programs_read(here, capsys):
    assert zoo_of(capsys, "predict", "toy", "photographs", "--quiet") == (0, "", "")
    assert zoo_of(capsys, "--quiet", "list") == (0, "", "")
    assert json.loads(zoo_of(capsys, "list", "--json", "--quiet")[1])["models"]
    code, shown, error = zoo_of(capsys, "predict", "toy", "none.png", "--quiet")
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert "two forms" in zoo_of(capsys, "list", "--json", "--csv")[2]


def test_a_list_and_the_checks_for_programs(here, capsys):
    listed = json.loads(zoo_of(capsys, "list", "--json")[1])
    assert {"name", "result"} == set(listed["recipes"][0])
    models = {row["name"]: row for row in listed["models"]}
    assert models["toy"]["folder"] == "saved_models/toy"
    assert models["mnist_student"]["seeds"] == 1
    rows = list(csv.DictReader(io.StringIO(zoo_of(capsys, "list", "--csv")[1])))
    assert {row["name"] for row in rows if row["kind"] == "model"} == set(models)
    code, shown, _ = zoo_of(capsys, "verify", "toy", "--model", "runs/toy/a", "--json")
    checks = json.loads(shown)
    assert (code, checks["passed"]) == (0, True)
    assert all(check["passed"] for check in checks["checks"])


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Another folder, and of a model of the zoo only what the wheel has; see setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = settings["options.package_data"]["zoo.saved_models"].split()
    for pattern in patterns:
        for file in (ROOT / "saved_models").glob(pattern):
            if "digits_nin_dsn" in file.parts:
                copy = tmp_path / "package" / file.relative_to(ROOT / "saved_models")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
    folder = tmp_path / "package" / "digits_nin_dsn"
    monkeypatch.setattr(exports, "own_names", lambda: {"digits_nin_dsn": folder})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_the_wheel_lists_predicts_and_exports_its_models(wheel, capsys):
    before = state(wheel)
    image = next((ROOT / "saved_models" / "digits_nin_dsn").rglob("*.png"))
    by_export = ["predict", ROOT / "saved_models" / "digits_nin_dsn", image, "--json"]
    expected = json.loads(zoo_of(capsys, *by_export)[1])["images"][0]
    for name in ("digits_nin_dsn", "digits"):
        code, shown, _ = zoo_of(capsys, "predict", name, image, "--json")
        (answer,) = json.loads(shown)["images"]
        assert (code, answer["label"]) == (0, expected["label"])
        assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-5)
    (model,) = json.loads(zoo_of(capsys, "list", "--json")[1])["models"]
    assert (model["name"], model["seeds"]) == ("digits_nin_dsn", 3)
    code, _, error = zoo_of(capsys, "verify", "digits_nin_dsn")
    assert code == 2
    assert "zoo export" in error
    assert state(wheel) == before
    assert exportable.find_exportable("digits", None, ()).out == Path("saved_models/digits_nin_dsn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "mnist_studnt", __file__], "Did you mean 'mnist_student'"),
        (["predict", "https://models/x", __file__], "A server is --server URL"),
        (["predict", "mnist_student", "https://images/x.png"], "URL 'https://images/x.png'"),
        (["predict", "mnist_student", "empty"], "has no image files below it"),
        (["predict", __file__, __file__], "nor a .keras file"),
        (["evaluate", "mnist_studnt"], "Did you mean 'mnist_student'"),
        (["export", "mnist_studnt"], "Did you mean 'mnist_student'"),
        (["verify", "mnist_studnt"], "Did you mean 'mnist_student'"),
        (["report", "mnist_student"], "is not the folder of a run"),
        (["predict", "unfinished", __file__], "not a finished run"),
    ],
    ids=" ".join,
)
def test_a_wrong_name_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.json").write_text("{}")
    code, shown, error = zoo_of(capsys, *arguments)
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert message in error


def fake_run(folder, recipe, data):
    run = SimpleNamespace(record={"recipe": recipe}, fields={"data": data}, folder=Path(folder))
    run.recipe_class = lambda own_file: zoo.recipe.load(zoo.recipe.find(recipe))
    return run


@pytest.mark.parametrize(
    ("recipe", "data", "name"),
    [
        ("cifar10_student", "cifar10", "cifar10_student"),
        ("cifar10_student", "ds", "cifar10_student-ds"),
        ("cifar10_student", "../my photos/", "cifar10_student-my_photos"),
        ("nin_dsn", "data/cells.npz", "nin_dsn-cells"),
    ],
)
def test_an_export_is_named_after_its_recipe_and_its_data(recipe, data, name):
    assert exportable._name(fake_run("runs/x", recipe, data), None) == name


def state(folder):
    """What a change of a file or of the names in a folder would change."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def kind_of(base):
    card = exports.card(exports.newest(base))
    return card["labels"], card["input"]["shape"], card["data"]["name"]


def test_another_model_is_refused_before_anything_is_written(here, tmp_path, capsys):
    base = shutil.copytree(ROOT / "saved_models" / "cifar10_student", tmp_path / "cifar10_student")
    before = state(base)
    code, _, error = zoo_of(capsys, "export", "runs/toy/a", "--out", base)
    assert (code, error.count("\n")) == (2, 1)
    assert "airplane" in error
    assert "--out" in error
    assert state(base) == before
    labels, shape, data = kind_of(base)
    for same in ((labels, shape, data), (labels, shape, None), (labels, tuple(shape), f"./{data}")):
        publishing.refuse_another(base, *same)
    publishing.refuse_another(tmp_path / "new", labels, shape, data)
    others = [(labels[::-1], shape, data), (labels, [64, 64, 3], data), (labels, shape, "svhn")]
    for other, kind in zip(others, ("labels", "image shape", "data"), strict=True):
        with pytest.raises(ExportError, match=f"has the {kind} .*--out"):
            publishing.refuse_another(base, *other)
    (exports.find_version(base) / exports.CARD).write_text("{}")
    with pytest.raises(ExportError, match=r"is damaged.*--out"):
        publishing.refuse_another(base, labels, shape, data)


def test_an_export_says_what_it_does(here):
    said = (here / "said.txt").read_text()
    assert said.index("Tracing") < said.index("Checking") < said.index("Exported")


@pytest.mark.parametrize("kind", ["activation", "layer"])
def test_the_line_for_a_model_with_a_softmax_makes_one_that_can_be_exported(
    kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plain = network()
    last = keras.layers.Softmax() if kind == "layer" else keras.layers.Activation("softmax")
    keras.Model(plain.input, last(plain.output)).save("it's mine.keras")
    model = keras.models.load_model("it's mine.keras")
    with pytest.raises(ExportError, match="python -c") as refused:
        exporting.export_savedmodel(model, LABELS, tmp_path / "out", keras_file="it's mine.keras")
    line = str(refused.value).partition("export that: ")[2]
    python, flag, program = shlex.split(line)
    assert (python, flag) == ("python", "-c")
    exec(program, {})
    logits = keras.models.load_model("it's mine_logits.keras")
    images = pixels().astype("float32")
    np.testing.assert_allclose(logits(images), plain(images), rtol=1e-5)


def test_the_help_says_values_exit_codes_and_completion(capsys):
    top = zoo_of(capsys, "--help")[1]
    for part in ("Exit codes", "--tyro-print-completion bash", "--quiet", "zsh"):
        assert part in top
    for command in ("train", "export"):
        assert "{None}" not in zoo_of(capsys, command, "--help")[1]
    assert "zoo train RECIPE --help" in " ".join(zoo_of(capsys, "train", "--help")[1].split())
    assert "{None}" not in zoo_of(capsys, "train", "nin_dsn", "--help")[1]
    for shell in ("bash", "zsh"):
        assert "evaluate" in zoo_of(capsys, "--tyro-print-completion", shell)[1]
