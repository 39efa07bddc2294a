"""Recipe files: found by name or path, read, and run only if the user knows them."""

import dataclasses

import pytest

from zoo import files
from zoo.recipe import (
    Recipe,
    RecipeError,
    approve,
    fields_from_json,
    file_of_run,
    find,
    load,
    names,
    title,
)

OWN = '''"""A recipe: for tests."""

from dataclasses import dataclass

import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 7
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A recipe file of one's own, which was never trained with."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def test_a_recipe_is_found_by_name_and_by_path(own):
    assert find("nin_dsn") == names()["nin_dsn"]
    assert find(own) == find(str(own)) == own
    with pytest.raises(RecipeError, match=r"no recipe 'nin_dns'\. Did you mean 'nin_dsn'\?"):
        find("nin_dns")
    with pytest.raises(RecipeError, match="`zoo list` shows the recipes"):
        find("a name that is near to none")
    with pytest.raises(RecipeError, match=r"There is no recipe file 'none\.py'"):
        find("none.py")


def test_the_recipes_of_the_current_folder_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("nin_dsn", "_draft", "other"):
        (tmp_path / "recipes" / f"{name}.py").write_text(OWN)
    assert find("nin_dsn").resolve() == tmp_path / "recipes" / "nin_dsn.py"
    assert list(names())[:2] == ["nin_dsn", "other"]
    assert "mnist_nin" in names()
    assert "_draft" not in names()


def test_the_title_is_read_without_running_the_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text('"""A title.\n\nMore."""\nraise SystemExit(1)\n')
    assert title(file) == "A title."
    file.write_text("x = 1\n")
    assert title(file) == "no first line"


def test_a_recipe_file_gives_its_class(own):
    recipe = load(own)
    assert issubclass(recipe, Recipe)
    assert recipe().epochs == 7


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.py", "raise ValueError('no')", r"could not be read: ValueError: no"),
        ("own.py", "raise SystemExit(3)", r"could not be read: SystemExit: 3"),
        ("own.py", "x = 1", "defines no recipe; it needs a frozen dataclass"),
        ("own.py", "from zoo.recipe import Recipe", "defines no recipe"),
        ("own.txt", OWN, "is no Python file"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message):
        load(tmp_path / name)


ABSURD = (float("nan"), float("inf"), -float("inf"), -1, 1e308, 10**30)


@pytest.mark.parametrize("name", names())
def test_a_number_that_no_training_can_use_is_refused_in_every_field(name):
    options = {"teachers": ("mine.keras",)} if name in ("student", "methods") else {}
    recipe = load(names()[name])(data="digits", **options)  # some have no defaults for these two
    recipe.check()
    numbers = [
        field.name
        for field in dataclasses.fields(recipe)
        if type(getattr(recipe, field.name)) in (int, float)
    ]
    assert len(numbers) >= 9
    for field in numbers:
        for value in ABSURD:
            flag = "--" + field.replace("_", "-")
            if value == 10**30 and isinstance(getattr(recipe, field), float):
                continue
            with pytest.raises(
                RecipeError, match=f"^{flag} is .*; received {value}".replace("+", ".")
            ):
                dataclasses.replace(recipe, **{field: value}).check()


def test_the_numbers_of_a_tuple_are_refused_too_and_signs_are_allowed_by_name():
    with pytest.raises(RecipeError, match="--image-size is a number from 0 to 2147483647"):
        Recipe(image_size=(8, -8)).check()

    @dataclasses.dataclass(frozen=True)
    class Signed(Recipe):
        signed = ("tilt",)
        tilt: float = -0.5
        level: float = 0.0

    Signed().check()
    for field, value in (("tilt", -1e39), ("tilt", float("nan")), ("level", -0.5)):
        with pytest.raises(RecipeError, match=f"--{field} is a number from"):
            Signed(**{field: value}).check()


def test_json_lists_are_tuples_in_a_recipe():
    assert fields_from_json({"image_size": [8, 9], "epochs": 1}) == {
        "image_size": (8, 9),
        "epochs": 1,
    }


def test_a_file_of_ones_own_runs_after_it_was_trained_with(own):
    record = {"recipe": "own", "file": str(own)}
    sha256 = files.sha256(own)
    with pytest.raises(RecipeError, match=f"never used on this machine: {own}"):
        file_of_run(record, sha256)
    assert file_of_run(record, sha256, own) == own  # the user named it
    with pytest.raises(RecipeError, match="never used on this machine"):
        file_of_run(record, sha256)  # naming it once is not approving it
    approve(own)
    assert file_of_run(record, sha256) == own
    own.write_text(OWN + "# changed\n")
    for given in (None, own):
        with pytest.raises(RecipeError, match="it has changed since"):
            file_of_run(record, sha256, given)
    own.unlink()
    with pytest.raises(RecipeError, match=r"recipe 'own' is not there.*--recipe FILE"):
        file_of_run(record, sha256)


def test_a_recipe_that_has_its_name_runs_wherever_the_run_was_trained():
    record = {"recipe": "nin_dsn", "file": "/another/machine/nin_dsn.py"}
    assert file_of_run(record, None) == names()["nin_dsn"]


def test_a_file_elsewhere_with_the_name_of_a_recipe_is_not_that_recipe(own):
    impostor = own.rename(own.with_name("nin_dsn.py"))
    record = {"recipe": "nin_dsn", "file": str(impostor)}
    with pytest.raises(RecipeError, match="never used on this machine"):
        file_of_run(record, files.sha256(impostor))
