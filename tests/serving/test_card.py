"""The card of an export says what the run recorded, and two exports of a model are the same."""

import json
import multiprocessing

import keras
import pytest
from nets_and_images import COLOUR, LABELS, network, pixels

import zoo.commands.main
from zoo import exports as layout
from zoo import files
from zoo.serving import card, exporting, signatures

RECIPE = {"recipe": "animals_nin", "fields": {"data": "cifar10", "epochs": 3}}
VERSIONS = {
    **{"command": "zoo train animals_nin --seed 4", "commit": "abc123", "dirty": True},
    **{"seed": 4, "hardware": {"cpu": "a processor", "cores": 2}},
}
RESULTS = {
    **{"evaluated_on": "test", "accuracy": 0.875, "error_percent": 12.5, "errors": 1},
    **{"examples": 8, "train_examples": 32, "loss": 0.25, "epochs": 3, "seconds": 12.3},
    **{"label_names": LABELS, "warnings": ["it was slow"], "teacher": "runs/big/default"},
    **{"exits": {"conv": 0.5, "output": 0.875}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as the runner leaves it, of a small net."""
    folder = tmp_path_factory.mktemp("runs") / "animals_nin" / "seed=4"
    folder.mkdir(parents=True)
    for name, content in (("recipe", RECIPE), ("versions", VERSIONS), ("results", RESULTS)):
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    network().save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "animals"
    exporting.export_savedmodel(
        keras.models.load_model(run / "model.keras"),
        LABELS,
        folder,
        images=pixels(count=2),
        record=card.record(run) | card.source(run / "model.keras"),
    )
    return folder


def test_the_page_says_what_the_run_recorded(export, run):
    page = (export / "README.md").read_text("utf-8")
    digest = files.sha256(run / "model.keras")
    for said in (
        *("# animals, version 1", "87.50 % accuracy", "1 error in 8 images", "12.50 %", "0.2500"),
        *("`cifar10`, 32 training images", "states no licence", "seed 4", "it was slow"),
        *("`zoo train animals_nin --seed 4`", "abc123, with uncommitted changes", digest),
        *("runs/big/default", "| conv | 50.00 % |", "(batch, 12, 12, 3) float32", "RGB", "bée"),
        *("16 MiB", "16,777,216 pixels", "agree with Keras to 1e-05", "up to 256 images"),
    ):
        assert said in page, said
    # Of one error in 8, Wilson's interval.
    assert "2.24 to 47.09 %" in page


def test_the_card_for_programs_has_the_same(export):
    told = json.loads((export / "card.json").read_text("utf-8"))
    assert told["labels"] == LABELS
    assert told["version"] == 1
    assert told["results"]["accuracy"] == 0.875
    assert told["training"]["commit"] == "abc123"
    assert told["input"]["shape"] == list(COLOUR)
    assert told["input"]["max_batch"] == 256
    assert told["parameters"] == network().count_params()
    assert set(told["speed"]["milliseconds"]) == {"1", "32"}
    assert min(told["speed"]["milliseconds"].values()) > 0
    files = [path for path in (export / "1").rglob("*") if path.is_file()]
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    # Nothing that was not asked for.
    assert not {"calibration", "quantized"} & told.keys()
    assert not list(export.rglob("*.tflite"))
    page = (export / "README.md").read_text("utf-8")
    assert "The probabilities are not calibrated." in page
    assert "emperature" not in page
    assert "LiteRT" not in page


def test_the_fingerprint_is_that_of_the_version(export):
    told = layout.card(export / "1")["fingerprint"]
    assert told == card.fingerprint(export / "1")
    assert len(told) == 5
    assert all(int(value, 16) > 0 for value in told.values())


def test_a_card_of_a_file_says_that_it_knows_no_results(tmp_path):
    exporting.export_savedmodel(network(), LABELS, tmp_path / "animals")
    page = (tmp_path / "animals" / "README.md").read_text("utf-8")
    assert "Not known" in page
    assert "accuracy" not in page
    assert json.loads((tmp_path / "animals/card.json").read_text("utf-8"))["results"] is None


def export_in_a_process(file, labels, out):
    zoo.commands.main.main(["export", str(file), "--labels", str(labels), "--out", str(out)])


def test_two_exports_in_fresh_processes_are_equal_to_the_byte(run, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{label}\n" for label in LABELS), "utf-8")
    # A server that has imported TensorFlow once and forks before it is used.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["zoo.serving.exporting", "zoo.saving", "zoo.serving.converting"]
    )
    for side in ("left", "right"):
        arguments = (run / "model.keras", labels, tmp_path / side / "animals")
        child = processes.Process(target=export_in_a_process, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == 0

    def contents(side):
        version = tmp_path / side / "animals" / "1"
        files = (path for path in version.rglob("*") if path.is_file())
        return {str(path.relative_to(version)): path.read_bytes() for path in files}

    left, right = contents("left"), contents("right")
    assert {name for name in left | right if left.get(name) != right.get(name)} == set()
    assert {"saved_model.pb", "fingerprint.pb", layout.CARD} <= set(left)


class Unregistered(keras.layers.Layer):
    def call(self, inputs):
        return inputs


@pytest.fixture
def files_to_refuse(run):
    """A run folder with label files and models beside it that cannot be exported."""
    (run / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), "utf-8")
    (run / "few.txt").write_text("a\nb\n", "utf-8")
    (run / "latin.txt").write_text("Bär\n", "latin-1")
    (run / "utf_16.txt").write_text("Bär\n", "utf-16")
    (run / "blank.txt").write_text("a\n \nb\n", "utf-8")
    model = network()
    wrong_models = {
        "dictionary": {"logits": model.output},
        "lambda": keras.layers.Lambda(lambda x: 2 * x)(model.output),
        "unregistered": Unregistered()(model.output),
    }
    for name, output in wrong_models.items():
        keras.Model(model.inputs, output).save(run / f"{name}.keras")
    content = (run / "model.keras").read_bytes()
    (run / "damaged.keras").write_bytes(content[: len(content) // 2])
    (run / "plain.keras").write_bytes(content)
    return run


def test_labels_may_have_a_byte_order_mark_and_blanks_around_them(tmp_path):
    network().save(tmp_path / "model.keras")
    text = "".join(f" {label}\t\r\n" for label in LABELS) + "\n\n"
    (tmp_path / "labels.txt").write_text(text, "utf-8-sig")
    arguments = ["--labels", tmp_path / "labels.txt", "--out", tmp_path / "animals"]
    zoo.commands.main.main(["export", *map(str, [tmp_path / "model.keras", *arguments])])
    assert layout.labels(tmp_path / "animals" / "1") == list(LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain.keras"], "give --labels FILE, with one class a line"),
        (["model.keras", "--labels", "none.txt"], "no file 'none.txt'"),
        (["none.keras", "--labels", "labels.txt"], "There is no model 'none.keras'"),
        (["model.keras", "--labels", "labels.txt", "--also", "tfjs"], "the form 'tfjs'"),
        (["plain.keras", "--labels", "labels.txt", "--exits"], "with companions"),
        (["model.keras", "--labels", "few.txt"], "Received 2 labels; expected 7"),
        ([".", "--exits"], "with_companions.keras: the run was not deeply supervised"),
        (["model.keras", "--labels", "latin.txt"], "latin.txt is not text in UTF-8"),
        (["model.keras", "--labels", "utf_16.txt"], "utf_16.txt is not text in UTF-8"),
        (["model.keras", "--labels", "blank.txt"], "blank.txt has a blank line 2"),
        (["dictionary.keras", "--labels", "labels.txt"], "expected a built functional model"),
        (["lambda.keras", "--labels", "labels.txt"], "has a Lambda layer with a Python lambda"),
        (["unregistered.keras", "--labels", "labels.txt"], "does not know: Unregistered"),
        (["damaged.keras", "--labels", "labels.txt"], "damaged.keras cannot be loaded"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_exit_code_2(
    files_to_refuse, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(files_to_refuse)
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main(["export", *arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 256), (32, 256), (33, 128), (64, 64), (96, 32), (224, 32), (999, 32)]
)
def test_a_request_has_fewer_images_the_larger_they_are(side, expected):
    assert signatures.checked_max_batch(None, (side, side, 3)) == expected


@pytest.mark.parametrize("max_batch", [0, 31, 2**31, 64.0, "64"])
def test_a_request_that_is_smaller_than_a_servers_batch_is_refused(max_batch, tmp_path):
    with pytest.raises(layout.ExportError, match="expected an integer from 32"):
        exporting.export_savedmodel(network(), LABELS, tmp_path / "a", max_batch=max_batch)
    assert not list(tmp_path.iterdir())


def test_more_examples_than_a_request_may_have_are_refused(tmp_path):
    with pytest.raises(layout.ExportError, match="a request may have 32, with one photograph"):
        exporting.export_savedmodel(
            network(), LABELS, tmp_path / "a", images=pixels(count=32), max_batch=32
        )


def test_an_older_card_claims_no_size_of_a_request(export):
    facts = json.loads((export / "card.json").read_text("utf-8"))
    del facts["input"]["max_batch"]
    page = card.page(export / "1", facts)
    assert "A file may have up to 16 MiB and 16,777,216 pixels." in page
    assert "A request may have" not in page
