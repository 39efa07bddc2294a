"""What the README shows is what happens."""

import collections
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from pages import ROOT, blocks, commands_parse_only, run, zoo_commands
from PIL import Image

pytestmark = pytest.mark.long

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(PAGE, "python")


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With 25 images in the place of the reader's own: as arrays, and in a folder."""
    monkeypatch.chdir(tmp_path)
    own = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3), "uint8")
    for index, pixels in enumerate(own):
        file = Path("photos", "abcde"[index % 5], f"{index:02}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    names = {"images": own.astype("float32"), "labels": np.arange(25) % 5}
    steps = []
    for block in BLOCKS:
        run(PAGE, *block, names)
        steps.append(int(names["model"].optimizer.iterations))
    assert len(steps) == 2
    assert 0 < steps[0] < steps[1]
    model, images, labels = names["model"], names["images"], names["labels"]
    assert isinstance(model, keras.Model)
    assert model.predict(own.astype("float32"), verbose=0).shape == (25, 5)
    # The arrays and our data set have the same images, and Keras' has all.
    assert (images.shape, images.dtype, labels.dtype) == ((20, 32, 32, 3), "uint8", "int64")
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    seen = collections.Counter()
    for batch, of_batch in names["dataset"].take(5).as_numpy_iterator():  # 8 passes
        for image, label in zip(batch.astype("uint8"), of_batch, strict=True):
            assert label_of[image.tobytes()] == label
            seen[image.tobytes()] += 1
    assert (len(seen), {*seen.values()}) == (20, {8})
    assert names["test"].examples == 5
    everything = np.concatenate([batch for batch, _ in names["all_of_them"].as_numpy_iterator()])
    by_content = [{image.astype("uint8").tobytes() for image in part} for part in (everything, own)]
    assert by_content[0] == by_content[1]


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
