"""A temperature is that of the smallest loss, and everything of an export agrees on it."""

import json
import shutil

import keras
import numpy as np
import pytest
from nets_and_images import LABELS, network, pixels
from oracles import softmax
from quick_recipe import RECIPE
from scipy.optimize import minimize_scalar

import zoo
import zoo.commands.main
from zoo import CompanionHead, DeeplySupervised, exports, measures
from zoo.commands import refining
from zoo.exports import ExportError
from zoo.serving import calibrating, example_requests, exporting, litert, verifying
from zoo.serving.served_model import ServedModel
from zoo.serving.server_runtime import ServerRuntime


def judged(truth=2.5, count=400, classes=5, seed=0):
    """Logits, and labels drawn from softmax(logits / truth)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (count, classes))
    labels = [random.choice(classes, p=row) for row in softmax(logits / truth)]
    return logits, np.array(labels)


def negative_log_likelihood(temperature, logits, labels):
    return -np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_temperature_is_that_of_the_smallest_loss(truth, seed):
    logits, labels = judged(truth, seed=seed)
    found = calibrating.temperature(logits, labels)
    oracle = minimize_scalar(
        negative_log_likelihood,
        (0.1, 20),
        args=(logits, labels),
        method="bounded",
        bounds=(0.1, 20),
    )
    assert found == pytest.approx(oracle.x, rel=1e-3)
    assert found == pytest.approx(truth, rel=0.25)
    assert found == float(f"{found:.4g}")


@pytest.mark.parametrize("truth", [0.3, 0.9999, 1.0, 3.0])
def test_the_loss_does_not_rise_and_no_answer_changes(truth):
    held_out, test = judged(truth, seed=2), judged(truth, seed=3)
    facts = calibrating.calibration(held_out, test)
    fitted = facts["temperature"]
    assert facts["fitted_on"]["loss"]["after"] <= facts["fitted_on"]["loss"]["before"]
    np.testing.assert_array_equal((test[0] / fitted).argmax(1), test[0].argmax(1))
    for part, (logits, labels) in (("fitted_on", held_out), ("measured_on", test)):
        assert facts[part]["examples"] == len(labels)
        for when, divisor in (("before", 1), ("after", fitted)):
            expected = negative_log_likelihood(divisor, logits, labels)
            assert facts[part]["loss"][when] == pytest.approx(expected, rel=1e-9)
    for when, divisor in (("before", 1), ("after", fitted)):
        expected = measures.calibration_error(test[0] / divisor, test[1])
        assert facts["measured_on"]["calibration_error"][when] == expected
    json.dumps(facts)


def test_the_loss_is_that_of_keras():
    logits, labels = judged()
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert calibrating.cross_entropy(logits, labels) == pytest.approx(
        float(stock(labels, logits.astype("float32"))), rel=1e-5
    )
    assert calibrating.cross_entropy(1e4 * np.eye(3), np.arange(3)) == 0


def test_images_that_fit_no_temperature_are_refused():
    logits, _ = judged(count=20)
    with pytest.raises(ExportError, match="20 held-out images the model gets all"):
        calibrating.temperature(logits, logits.argmax(1))
    with pytest.raises(ExportError, match="no better than a guess"):
        calibrating.temperature(logits, logits.argmin(1))


@pytest.mark.parametrize("wrong", [0, -1, 1e3, np.nan, np.inf, True, "2", None, [2.0]])
def test_a_temperature_that_is_none_is_refused(wrong):
    with pytest.raises(ExportError, match=r"expected a number from 0\.01 to 100"):
        calibrating.temperature_of({"temperature": wrong})
    assert calibrating.temperature_of({"temperature": 2}) == 2.0
    assert calibrating.temperature_of(None) == 1.0


@pytest.fixture(scope="module")
def supervised():
    return DeeplySupervised(network(), {"conv": CompanionHead(7)})


@pytest.fixture(scope="module")
def version(supervised, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "animals"
    file = folder.parent / "net.keras"
    supervised.save(file)
    return exporting.export_savedmodel(
        supervised,
        LABELS,
        folder,
        exits=True,
        images=pixels(count=3),
        keras_file=file,
        calibration={"temperature": 2.5},
    )


def test_every_signature_of_an_export_has_the_temperature(version, supervised):
    images = pixels(count=4, seed=8)
    logits = supervised.trunk(images.astype("float32"), training=False).numpy()
    served = ServedModel(version)
    answer = served.predict(images)
    np.testing.assert_allclose(answer["probabilities"], softmax(logits / 2.5), atol=1e-6)
    assert np.abs(answer["probabilities"] - softmax(logits)).max() > 0.01
    np.testing.assert_array_equal(answer["class_ids"][:, 0], logits.argmax(1))
    exits = served.exits(images)
    np.testing.assert_allclose(exits["output"], answer["probabilities"], atol=1e-6)
    companion = supervised.exits_model()(images.astype("float32"), training=False)["conv"]
    np.testing.assert_allclose(exits["conv"], softmax(companion.numpy()), atol=1e-6)
    for example in example_requests.read(version / exports.EXAMPLES):
        if example.signature == "predict_bytes":
            stored = np.array([row["probabilities"] for row in example.expected["predictions"]])
            of_keras = supervised.trunk(pixels(count=3).astype("float32"), training=False).numpy()
            np.testing.assert_allclose(stored[:3], softmax(of_keras / 2.5), atol=1e-6)


def test_the_checks_compare_with_the_temperature_of_the_card(version, supervised, tmp_path):
    copy = shutil.copytree(version, tmp_path / "1")
    facts = exports.card(copy)
    facts["calibration"]["temperature"] = 2.6
    (copy / exports.CARD).write_text(json.dumps(facts), "utf-8")
    with ServerRuntime(version) as server:
        for folder, wrong in ((version, []), (copy, ["Keras, the model"])):
            checks = verifying.answers(server, folder, model=supervised)
            assert [check.name for check in checks if not check.passed] == wrong


def test_the_weights_are_those_of_the_training_and_the_page_says_so(version, supervised):
    images = pixels(count=2).astype("float32")
    trained = keras.models.load_model(version / exports.MODEL, compile=False).trunk
    np.testing.assert_array_equal(
        trained(images, training=False), supervised.trunk(images, training=False)
    )
    page = (version.parent / "README.md").read_text("utf-8")
    for said in (
        "divided by 2.5 before",
        "`softmax(logits / 2.5)`",
        "`output` has the",
        "are calib",
    ):
        assert said in page
    assert "not calibrated" not in page


def test_a_wrong_temperature_is_refused_before_anything_is_written(tmp_path):
    folder, wrong = tmp_path / "animals", {"temperature": 0}
    with pytest.raises(ExportError, match="temperature 0;"):
        exporting.export_savedmodel(network(), LABELS, folder, calibration=wrong)
    assert not folder.exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that held out images, and its export with all that can be added."""
    place = tmp_path_factory.mktemp("place")
    (place / "quick.py").write_text(RECIPE, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        flags = ["--name", "a", "--no-page", "--no-deterministic", "--steps-per-epoch", "60"]
        zoo.commands.main.main(["train", "quick.py", *flags, "--units", "16"])
        added = ["--calibrate", "--quantize", "int8", "float", "--quantize-loss", "5"]
        zoo.commands.main.main(["export", "runs/quick/a", *added])
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def zoo_of(capsys, *arguments):
    code = 0
    try:
        zoo.commands.main.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    return (code, *capsys.readouterr())


def test_the_command_fits_on_held_out_images_and_measures_on_test_images(here):
    facts = exports.card(here / "saved_models/quick/1")
    held_out = zoo.recipe.Recipe(validation=0.25).datasets()[1]
    test = zoo.data.load("digits", "test")
    net = keras.models.load_model("runs/quick/a/model.keras", compile=False)
    logits = [net.predict(d.images.astype("float32"), verbose=0) for d in (held_out, test)]
    expected = calibrating.calibration((logits[0], held_out.labels), (logits[1], test.labels))
    told = facts["calibration"]
    assert told["temperature"] == pytest.approx(expected["temperature"], rel=1e-3)
    for part in ("fitted_on", "measured_on"):
        assert told[part]["examples"] == expected[part]["examples"]
        assert told[part]["loss"] == pytest.approx(expected[part]["loss"], abs=1e-4)
    assert set(facts["quantized"]) == {"int8", "float"}
    right = logits[1].argmax(1) == test.labels
    for form, row in facts["quantized"].items():
        file = litert.LiteRT(here / "saved_models/quick/1" / row["file"])
        answers = file(test.images).argmax(1)
        assert row["accuracy"] == (answers == test.labels).mean()
        assert row["accuracy_of_keras"] == pytest.approx(right.mean())
        assert row["agreement"] == pytest.approx((answers == logits[1].argmax(1)).mean(), abs=0.01)
        assert row["points_lost"] == pytest.approx(100 * (right.mean() - row["accuracy"]))
        assert row["bytes"] == (here / "saved_models/quick/1" / row["file"]).stat().st_size
        assert form != "float" or row["agreement"] > 0.99
    page = (here / "saved_models/quick/README.md").read_text("utf-8")
    for said in (
        "validation images. There",
        "| expected calibration error |",
        "model.int8.tflite]",
    ):
        assert said in page


def test_every_command_agrees_on_an_export_with_a_temperature(here, capsys):
    facts = exports.card(here / "saved_models/quick/1")
    fitted = facts["calibration"]["temperature"]
    assert fitted != 1
    code, shown, _ = zoo_of(capsys, "verify", "saved_models/quick", "--model", "runs/quick/a")
    assert code == 0, shown
    assert "quantized files" in shown
    image = sorted((here / "saved_models/quick/1" / exports.EXAMPLES).glob("*.png"))[0]
    predicted = zoo_of(capsys, "predict", "saved_models/quick", image, "--json")[1]
    (answer,) = json.loads(predicted)["images"]
    net = keras.models.load_model("runs/quick/a/model.keras", compile=False)
    image = zoo.data.read_image(image, (8, 8, 1)).astype("float32")
    expected = softmax(net(image[None]).numpy() / fitted)
    assert answer["probability"] == pytest.approx(expected.max(), abs=1e-5)
    measured = json.loads(zoo_of(capsys, "evaluate", "saved_models/quick", "--json")[1])
    assert measured["loss"] == pytest.approx(
        facts["calibration"]["measured_on"]["loss"]["after"], abs=1e-4
    )


def test_an_export_made_again_keeps_its_temperature(here, tmp_path, capsys):
    base = shutil.copytree(here / "saved_models/quick", tmp_path / "quick")
    code, shown, _ = zoo_of(capsys, "export", base)
    assert code == 0
    assert "has the temperature" not in shown
    first, second = (exports.card(base / number) for number in "12")
    assert second["calibration"] == first["calibration"]
    assert "quantized" not in second
    images = zoo.data.load("digits", "test").images[:5]
    one, two = (ServedModel(base / number).predict(images)["probabilities"] for number in "12")
    np.testing.assert_allclose(one, two, atol=1e-6)
    # The run itself has none, and a server that watches the folder would give others.
    refining._say_of_another(base, second["calibration"]["temperature"])
    assert capsys.readouterr().out == ""
    refining._say_of_another(base, 1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("the new version has 1. So the same image gets other probabilities.")
    refining._say_of_another(tmp_path / "new", 2.0)
    assert capsys.readouterr().out == ""


def test_what_has_no_held_out_images_is_refused_in_one_line(here, tmp_path, capsys):
    judged_by_test = shutil.copytree(here / "runs/quick/a", tmp_path / "b")
    results = json.loads((judged_by_test / "results.json").read_text("utf-8"))
    results["evaluated_on"] = "test"
    (judged_by_test / "results.json").write_text(json.dumps(results), "utf-8")
    (tmp_path / "labels.txt").write_text("a\nb\n", "utf-8")
    file = shutil.copy(here / "runs/quick/a/model.keras", tmp_path / "mine.keras")
    out = tmp_path / "out"
    for arguments, message in (
        ([judged_by_test, "--calibrate"], "Train it again with --validation 0.1"),
        ([here / "saved_models/quick", "--calibrate"], "export the run."),
        ([file, "--labels", tmp_path / "labels.txt", "--calibrate"], "export the run."),
        ([file, "--labels", tmp_path / "labels.txt", "--quantize", "int8"], "export the run."),
        (["runs/quick/a", "--quantize-loss", "-1"], "--quantize-loss is a number from 0 to 100"),
    ):
        code, shown, error = zoo_of(capsys, "export", *arguments, "--out", out)
        assert (code, shown, error.count("\n")) == (2, "", 1)
        assert message in error
    assert not out.exists()
