"""The files of an export are what was exported, and nothing leads out of it."""

import json
import os
import shutil
from pathlib import Path

import pytest

import zoo.commands.main
from zoo import exports, files, saving
from zoo.exports import ExportError
from zoo.models import pretrained
from zoo.serving import example_requests


@pytest.fixture
def base(tmp_path):
    """A copy of an export that has passed every check; `tmp_path` holds what links lead to."""
    shutil.copytree("saved_models/digits_nin_dsn", tmp_path / "outside")
    return shutil.copytree("saved_models/digits_nin_dsn", tmp_path / "animals")


def a_file_for_a_link(base, name):
    (base / "1" / name).unlink()
    (base / "1" / name).symlink_to(base.parent / "outside" / "1" / name)


def a_folder_for_a_link(base, name):
    shutil.rmtree(base / "1" / name)
    (base / "1" / name).symlink_to(base.parent / "outside" / "1" / name)


def a_pipe(base, name):
    (base / "1" / name).unlink()
    os.mkfifo(base / "1" / name)


def a_version_for_a_link(base, name):
    shutil.rmtree(base / "1")
    (base / "1").symlink_to(base.parent / "outside" / "1")


ODD = [
    (a_file_for_a_link, "variables/variables.index"),
    (a_file_for_a_link, "assets.extra/model.keras"),
    (a_file_for_a_link, "assets.extra/card.json"),
    (a_file_for_a_link, "SHA256SUMS"),
    (a_folder_for_a_link, "assets.extra"),
    (a_folder_for_a_link, "variables"),
    (a_version_for_a_link, "1"),
    (a_pipe, "assets.extra/labels.txt"),
    (a_pipe, "SHA256SUMS"),
]


@pytest.mark.parametrize(("replace", "name"), ODD)
def test_a_link_or_a_pipe_in_an_export_is_refused_before_a_file_is_read(
    base, monkeypatch, replace, name
):
    """The content is the right one, so its checksum is, too."""
    replace(base, name)
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ExportError, match=f"{name} is (a link|a device)") as refused:
        exports.verify_checksums(exports.find_version(base))
    assert "\n" not in str(refused.value)
    with pytest.raises(ExportError, match=r"is (a link|a device)"):
        example_requests.find(base)
    monkeypatch.undo()
    of_weights = ("assets.extra", "1", "SHA256SUMS")
    if name.startswith(of_weights):
        for read in (pretrained.load, saving.load_model):
            with pytest.raises(ExportError, match=r"is (a link|a device)"):
                read(base)


def test_who_names_a_link_means_it(base):
    for link, folder in (("to_base", base), ("7", base / "1")):
        (base.parent / link).symlink_to(folder)
        version = exports.find_version(base.parent / link)
        assert version == base / "1"
        assert exports.verify_checksums(version)
        assert pretrained.read_card(base.parent / link)[1]["labels"]


def test_the_command_refuses_a_pipe_in_one_line(base, capsys):
    a_pipe(base, exports.CARD)
    image = next((base / "1" / exports.EXAMPLES).glob("*.png"))
    for arguments in (["verify", str(base)], ["predict", str(base), str(image)]):
        with pytest.raises(SystemExit) as stop:
            zoo.commands.main.main(arguments)
        assert stop.value.code in (1, 2)
        said = " ".join("".join(capsys.readouterr()).split())
        assert "card.json is a device, a pipe or a socket" in said


def test_checksums_cover_what_lies_beside_the_versions(base):
    assert exports.verify_beside(base) is False, "an older zoo wrote none"
    digests = {name: files.sha256(base / name) for name in exports.BESIDE}
    (base / files.CHECKSUMS).write_text(exports.as_checksums(digests), "utf-8")
    assert exports.verify_beside(base) is True
    for name in exports.BESIDE:
        content = (base / name).read_bytes()
        for damaged in (content + b" ", None):
            (base / name).unlink()
            if damaged:
                (base / name).write_bytes(damaged)
            with pytest.raises(ExportError, match=f"Changed in .*{name}"):
                exports.verify_beside(base)
        (base / name).symlink_to(base.parent / "outside" / name)
        with pytest.raises(ExportError, match=f"{name} is a link"):
            exports.verify_beside(base)
        (base / name).unlink()
        (base / name).write_bytes(content)


@pytest.mark.parametrize("text", ["[]", "{", "\xff", "7"])
def test_a_card_that_is_none_is_one_line(base, text):
    (base / "card.json").write_text(text, "latin-1")
    with pytest.raises(ExportError, match=r"card\.json is not") as refused:
        exports.card_beside(base)
    assert "\n" not in str(refused.value)


def test_a_version_without_its_checksums_is_one_line(base):
    (base / "1" / files.CHECKSUMS).unlink()
    for read in (exports.verify_checksums, exports.verify_weights):
        with pytest.raises(ExportError, match="has no SHA256SUMS"):
            read(base / "1")


def test_the_card_is_that_of_the_file(base):
    file = base / "1" / exports.CARD
    assert exports.card(base / "1") == json.loads(Path(file).read_text("utf-8"))


def test_a_name_is_the_zoos_and_a_path_ones_own(tmp_path, monkeypatch):
    """A training in the current folder does not change what a name means."""
    own = exports.own_names()
    assert {"mnist_nin_dsn", "mnist_student"} <= own.keys()
    monkeypatch.chdir(tmp_path)
    for name in ("mnist_student", "mnist_student_nin_dsn", "mine", "yours_nin_dsn"):
        model = tmp_path / "saved_models" / name / "1" / exports.MODEL
        model.parent.mkdir(parents=True)
        model.touch()
    (tmp_path / "mnist_student").mkdir()
    assert {"mine", "yours_nin_dsn"} == exports.names().keys() - {*own, "mnist_student_nin_dsn"}
    assert exports.names()["mnist_student"] == own["mnist_student"]
    assert exports.resolve("mnist_student") == own["mnist_student"]
    assert exports.resolve("mnist") == own["mnist_nin_dsn"]
    assert exports.resolve("saved_models/cifar10_student") == own["cifar10_student"]
    for path in ("saved_models/mnist_student", "./mnist_student", Path("mnist_student")):
        assert exports.resolve(path) == Path(path)
    assert exports.resolve("mine") == Path("saved_models/mine")
    assert exports.resolve("yours") == Path("saved_models/yours_nin_dsn")
    with pytest.raises(ExportError, match="Did you mean 'mnist_student'"):
        exports.resolve("mnist_studnt")
