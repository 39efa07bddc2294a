"""What the README shows is what happens."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.strip().splitlines()[-1])
def test_the_python_of_the_readme_runs(code, tmp_path, monkeypatch):
    """With 24 images in the place of the reader's own."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    names = {
        "images": rng.integers(0, 256, (24, 32, 32, 3)).astype("float32"),
        "labels": np.arange(24) % 5,
    }
    exec(compile(code, "README.md", "exec"), names)
    model = names["model"]
    assert model.predict(names["images"], verbose=0).shape == (24, 5)
    assert model.optimizer.iterations.numpy() > 0
    assert isinstance(model, keras.Model)


def test_there_is_an_example_of_at_most_ten_lines():
    lines = [[line for line in code.splitlines() if line.strip()] for code in BLOCKS]
    assert any(len(block) <= 10 and "from zoo import nin_dsn" in block for block in lines)


def test_every_file_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_recipe_is_in_the_table():
    for file in (ROOT / "recipes").glob("*.py"):
        assert f"`{file.stem}`" in README, file.stem


def test_the_commands_the_readme_names_exist():
    from zoo.commands.main import COMMANDS

    for command in re.findall(r"^zoo (\w+)", README, re.MULTILINE):
        assert command in COMMANDS, command
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile, target
