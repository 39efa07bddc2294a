"""The pages of docs/ show what happens, and lead where they say."""

import importlib
import re
import shutil

import pytest
import yaml
from pages import ROOT, blocks, commands_parse_only, run, zoo_commands

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if any(zoo_commands(page))]


def named(page):
    return page.relative_to(DOCS).as_posix()


@pytest.mark.long
@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for line, code in blocks(page, "python"):
        run(page, line, code, names)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_the_commands_of_a_page_are_those_of_zoo(page, tmp_path, monkeypatch):
    shutil.copy(ROOT / "recipes" / "nin_dsn.py", tmp_path / "my_recipe.py")
    monkeypatch.chdir(tmp_path)
    with commands_parse_only(monkeypatch) as parse:
        for arguments in zoo_commands(page):
            parse(["digits_nin_dsn" if each == "RECIPE" else each for each in arguments])


def test_every_page_is_in_the_menu_once():
    def targets(menu):
        for entry in menu:
            value = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from targets(value) if isinstance(value, list) else [value]

    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(targets(menu)) == sorted(map(named, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_every_name_of_the_reference_has_a_docstring():
    for page in DOCS.glob("reference/*.md"):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_every_public_name_is_in_the_reference():
    import zoo

    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    for name in zoo.__all__:
        assert re.search(rf"^::: zoo\.[\w.]*\b{name}$", pages, re.MULTILINE), name
