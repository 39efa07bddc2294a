"""What a killed export leaves is deleted by the next one; what a living one writes is not."""

import contextlib
import json
import multiprocessing
import os
import shutil

import pytest

from zoo import exports, files
from zoo.serving import publishing, verifying


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A copy of an export, of which version 1 has passed every check."""
    monkeypatch.setattr(
        "zoo.serving.card.page", lambda _, facts: f"# digits, version {facts['version']}\n"
    )
    return shutil.copytree("saved_models/digits_nin_dsn", tmp_path / "digits")


def draft_of(base, hidden):
    return shutil.copytree(base / "1", hidden / "draft")


def publish(base, version=None):
    with publishing.hidden(base) as hidden:
        return publishing.publish(draft_of(base, hidden), base, version, {1: 0.001, 32: 0.01})


def write_and_wait(base, ready):
    with publishing.hidden(base) as hidden:
        (hidden / "draft").mkdir()
        ready.set()
        multiprocessing.Event().wait()


def test_what_a_killed_export_left_goes_and_what_a_living_one_writes_stays(base):
    processes = multiprocessing.get_context("fork")
    ready = processes.Event()
    child = processes.Process(target=write_and_wait, args=(base, ready))
    child.start()
    assert ready.wait(60)
    (left,) = base.glob(".export-*")
    (base / ".export-no-folder").symlink_to(base / "1")
    with publishing.hidden(base) as hidden:
        assert {path.name for path in base.glob(".export-*")} == {
            *(left.name, hidden.name, ".export-no-folder")
        }
    child.kill()
    child.join()
    assert left.exists()
    partial = base / ".card.4711.partial.json"
    partial.touch()
    with publishing.hidden(base) as hidden:
        assert not left.exists()
        assert not partial.exists()
    assert {path.name for path in base.iterdir()} == {
        *("1", "README.md", "card.json", ".export-no-folder")
    }
    assert exports.verify_checksums(base / "1"), "the link was not followed"


def test_a_published_version_is_described_and_its_card_has_checksums(base):
    before = [(base / name).read_bytes() for name in exports.BESIDE]
    version = publish(base)
    assert version == base / "2"
    assert exports.card_beside(base)["version"] == 2
    assert "version 2" in exports.title_beside(base)
    assert exports.verify_beside(base)
    assert [(base / name).read_bytes() for name in exports.BESIDE] != before
    assert verifying.beside(version) == verifying.Check(
        "beside it", True, "the card describes version 2"
    )
    with pytest.raises(FileExistsError, match="2 appeared during the export"):
        publish(base, version=2)
    assert not list(base.glob(".export-*"))


def test_an_export_that_is_killed_after_the_rename_is_reported_with_what_to_do(base, monkeypatch):
    publish(base)

    def killed(*_):
        raise KeyboardInterrupt

    for written, version in ((0, 3), (1, 4), (2, 5)):
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            write = files.write
            stops = iter([write] * written + [killed])
            patch.setattr(files, "write", lambda *given, stops=stops: next(stops)(*given))
            publish(base)
        check = verifying.beside(base / str(version))
        assert not check.passed
        assert f"is not that of version {version}" in check.found
        assert f"`zoo export {base}` writes the next version and its card" in check.found
    assert verifying.beside(publish(base)).passed


def lose_readme(base):
    (base / "README.md").unlink()


def change_readme(base):
    text = (base / "README.md").read_text("utf-8")
    (base / "README.md").write_text(text.replace("version 1", "version 2", 1), "utf-8")


def change_a_fact(base):
    card = exports.card_beside(base)
    card["results"]["accuracy"] = 1.0
    (base / "card.json").write_text(json.dumps(card), "utf-8")


def link_the_card(base):
    (base / "card.json").unlink()
    (base / "card.json").symlink_to(base / "1" / exports.CARD)


def lose_the_card(base):
    (base / "card.json").unlink()


@pytest.mark.parametrize(
    "damage", [lose_readme, change_readme, change_a_fact, link_the_card, lose_the_card]
)
def test_a_changed_card_of_an_older_zoo_is_found_by_the_facts_in_the_version(base, damage):
    good = verifying.beside(base / "1")
    assert good.passed
    assert "older zoo wrote no checksums" in good.found
    damage(base)
    assert not verifying.beside(base / "1").passed


def test_a_version_alone_can_serve(base):
    for name in exports.BESIDE:
        (base / name).unlink()
    check = verifying.beside(base / "1")
    assert check.passed
    assert "no card" in check.found


def test_a_process_holds_its_lock_until_its_end(base):
    with publishing.hidden(base) as hidden:
        assert not publishing._is_abandoned(hidden)
    os.mkdir(hidden)
    assert publishing._is_abandoned(hidden)
