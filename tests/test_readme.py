"""What the README shows is what happens."""

import re

import keras
import numpy as np
import pytest
from pages import ROOT, blocks, commands_parse_only, run, zoo_commands

pytestmark = pytest.mark.long

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(PAGE, "python")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block[0]}")
def test_the_python_of_the_readme_runs(block, tmp_path, monkeypatch):
    """With 24 images in the place of the reader's own."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    names = {
        "images": rng.integers(0, 256, (24, 32, 32, 3)).astype("float32"),
        "labels": np.arange(24) % 5,
    }
    run(PAGE, *block, names)
    model = names["model"]
    assert model.predict(names["images"], verbose=0).shape == (24, 5)
    assert model.optimizer.iterations.numpy() > 0
    assert isinstance(model, keras.Model)


def test_there_is_an_example_of_at_most_ten_lines():
    lines = [[line for line in code.splitlines() if line.strip()] for _, code in BLOCKS]
    assert any(len(block) <= 10 and "from zoo import nin_dsn" in block for block in lines)


def test_every_file_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_recipe_is_in_the_table():
    for file in (ROOT / "recipes").glob("*.py"):
        assert f"`{file.stem}`" in README, file.stem


def test_the_commands_of_the_readme_are_those_of_zoo(monkeypatch):
    with commands_parse_only(monkeypatch) as parse:
        for arguments in zoo_commands(PAGE):
            parse(arguments)


def test_the_targets_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile, target
