"""A run folder: its name and its flags, what it holds, and what it refuses."""

import dataclasses
import fcntl
import json
import math

import numpy as np
import pytest

from zoo.errors import UsageError
from zoo.recipe import Recipe, RecipeError
from zoo.runs import Run, flags_of, folder_of, name_of, record_of


@dataclasses.dataclass(frozen=True)
class Small(Recipe):
    """A recipe with fields of several types."""

    width: float = 1.0
    teachers: tuple[str, ...] = ()


def values_in(flags):
    """{flag: text} of a command line."""
    words = flags.split()
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"epochs": 3},
        {"seed": 1, "batch_size": 64},
        {"learning_rate": 0.025, "weight_decay": 1e-05, "precision": "mixed_bfloat16"},
        {"validation": 0.1, "width": 0.5, "data": "cifar10"},
    ],
    ids=str,
)
def test_the_flags_of_a_run_name_make_the_same_run(fields):
    flags = values_in(flags_of(name_of(Small(**fields))))
    assert set(flags) == {f"--{field.replace('_', '-')}" for field in fields}
    types = {field.name: type(field.default) for field in dataclasses.fields(Small)}
    again = {field: types[field](flags[f"--{field.replace('_', '-')}"]) for field in fields}
    assert Small(**again) == Small(**fields)
    assert name_of(Small(**again)) == name_of(Small(**fields))


def test_fields_at_their_defaults_are_not_in_the_name():
    assert name_of(Small(epochs=30, width=1.0)) == "default"
    assert name_of(Small(epochs=30, width=2.0)) == "width=2.0"
    assert flags_of("default") == ""


@pytest.mark.parametrize("name", ["mine", "epochs=", "seed=1,mine"])
def test_a_name_that_is_not_made_of_fields_is_a_flag_itself(name):
    assert flags_of(name) == f" --name {name}"


def test_a_long_name_is_cut_and_still_tells_runs_apart():
    long = [("x" * 300 + end,) for end in "ab"]
    names = [name_of(Small(teachers=teachers)) for teachers in long]
    assert len(set(names)) == 2
    assert all(len(name) == 199 and name[:190] == names[0][:190] for name in names)


def test_a_name_is_cut_by_bytes_and_names_that_fitted_before_stay():
    assert name_of(Small(data="é" * 100)) == f"data={'é' * 100}"
    for letter in "éあ𐐷":
        names = [name_of(Small(data=letter * 150 + end)) for end in "ab"]
        assert len({*names}) == 2
        assert all(len(name.encode()) <= 255 for name in names)
    assert name_of(Small(data="\udce9" * 300)).startswith("data=____")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../../x", "a/../b", "/abs", "a/", "a//b", "a\nb", "a\x1b[31m", "\udce9"),
        *("x" * 256, "é" * 128, "a/" + "x" * 256),
    ],
)
def test_a_name_that_leads_elsewhere_or_that_no_folder_can_have_is_refused(name):
    with pytest.raises(UsageError, match="--name") as error:
        folder_of(Small(), "small.py", "runs", name)
    assert "\n" not in str(error.value)


def test_a_folder_in_which_no_run_was_begun_is_removed(tmp_path):
    run = Run(tmp_path / "runs" / "small" / "run")
    with run.locked():
        run.find_checkpoints(tmp_path / "elsewhere")
    assert not (tmp_path / "runs").exists()
    run.folder.mkdir(parents=True)  # someone's own folder stays
    with run.locked():
        pass
    assert [*run.folder.iterdir()] == []
    with run.locked():
        run.write_recipe({"recipe": "small"})
    assert {file.name for file in run.folder.iterdir()} == {".lock", "recipe.json"}
    with run.locked():
        (run.folder / "recipe.json").unlink()
        run.checkpoints.mkdir()
        (run.checkpoints / "state").touch()
    assert (run.folder / ".lock").is_file()


def test_a_name_has_no_characters_that_a_file_system_refuses():
    assert name_of(Small(data="../a b")) == "data=.._a_b"
    assert name_of(Small(teachers=("../a b",))) == "teachers=__.._a_b_,_"


def test_a_run_lies_below_its_recipe():
    assert folder_of(Small(seed=1), "recipes/small.py", "runs", None).parts == (
        *("runs", "small", "seed=1"),
    )
    assert folder_of(Small(seed=1), "small.py", "elsewhere", "mine").parts[-3:] == (
        *("elsewhere", "small", "mine"),
    )


def test_a_run_is_finished_when_its_results_are_written(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UsageError, match=r"not a finished run: there is no .*results\.json"):
        Run.finished_at(tmp_path)
    assert not run.is_finished
    run.write_results({"errors": 3, "label_names": ["a", "b"]})
    assert run.is_finished
    finished = Run.finished_at(tmp_path)
    assert finished.results == {"errors": 3, "label_names": ["a", "b"]}
    assert finished.label_names == ["a", "b"]


def test_what_is_written_again_is_read_again(tmp_path):
    run = Run(tmp_path)
    assert run.versions_before is None
    for number in (1, 2):
        run.write_results({"errors": number})
        run.write_versions({"commit": number})
        run.write_recipe({"fields": {"image_size": [8, number]}})
        assert run.results == {"errors": number}
        assert run.versions == run.versions_before == {"commit": number}
        assert run.fields == {"image_size": (8, number)}
    assert Run(tmp_path).results == {"errors": 2}


def test_the_history_has_every_column_and_nan_where_a_cell_is_empty(tmp_path):
    run = Run(tmp_path)
    run.write_history([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 2.0}])
    assert list(run.history) == ["epoch", "loss", "val_loss"]
    np.testing.assert_array_equal(run.history["epoch"], [1, 2])
    np.testing.assert_array_equal(run.history["loss"], [0.5, 0.25])
    np.testing.assert_array_equal(run.history["val_loss"], [math.nan, 2.0])
    assert all(column.dtype == "float64" for column in run.history.values())


def test_a_run_without_an_epoch_has_an_empty_history(tmp_path):
    run = Run(tmp_path)
    run.write_history([])
    assert run.history == {}


def test_the_most_complete_model_is_the_one_with_companions(tmp_path):
    run = Run(tmp_path)
    assert not run.has_model
    run.model_file.touch()
    assert run.has_model
    assert run.most_complete_file == run.model_file
    run.with_companions_file.touch()
    assert run.most_complete_file == run.with_companions_file


RECORD = {"recipe": "small", "file": "small.py", "title": "A net.", "fields": {"seed": 0}}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", b"", "Expecting value"),
        ("results.json", b'{"accuracy": 0.9', "Expecting ',' delimiter"),
        ("results.json", b"[]", "no JSON object"),
        ("results.json", b'{"accuracy": "high"}', "accuracy is 'high', expected a number"),
        ("results.json", b'{"accuracy": true}', "accuracy is True, expected a number"),
        ("results.json", b'{"label_names": [1, 2]}', "label_names is .*, expected a list of texts"),
        ("results.json", b"{}", "it has no 'label_names'"),
        ("results.json", b"[" * 100_000, "recursion"),
        ("recipe.json", b"\xff\xfe", "utf-8"),
        ("recipe.json", b"{}", "it has no 'fields'"),
        ("recipe.json", b'{"fields": 3}', "fields is 3, expected an object"),
        (
            "recipe.json",
            {**RECORD, "fields": {"epochs": "three"}},
            "epochs is 'three', expected int",
        ),
        ("recipe.json", {**RECORD, "fields": {"data": 5}}, "data is 5, expected str"),
        (
            "recipe.json",
            {**RECORD, "fields": {"image_size": [8]}},
            r"image_size is \(8,\), expected",
        ),
        (
            "recipe.json",
            {**RECORD, "fields": {"precision": "half"}},
            "precision is 'half', expected",
        ),
        ("versions.json", b"nothing", "Expecting value"),
        ("versions.json", b'{"hardware": []}', "hardware is .*, expected an object"),
        ("versions.json", b'{"hardware": {}}', "it has no 'gpus'"),
        ("metrics.csv", b"epoch,loss\n1,low\n", "could not convert string to float: 'low'"),
        ("metrics.csv", b"epoch,loss\n1,2,3\n", "could not broadcast"),
        ("metrics.csv", b"\xff\n", "utf-8"),
        ("metrics.csv", b"", "it has no 'epoch'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, file, content, message):
    run = Run(tmp_path)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        {
            "results.json": lambda: run.label_names,
            "recipe.json": lambda: run.fields,
            "versions.json": lambda: run.versions["hardware"]["gpus"],
            "metrics.csv": lambda: run.history["epoch"],
        }[file]()
    assert str(error.value).startswith(f"{tmp_path / file} is damaged: ")
    assert error.value.exit_code == 2


def test_fields_that_the_recipe_does_not_have_are_damage(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(
        '"""Small."""\nimport dataclasses\nimport zoo.recipe\n'
        "@dataclasses.dataclass(frozen=True)\n"
        "class Recipe(zoo.recipe.Recipe):\n    width: int = 1\n"
    )
    run = Run(tmp_path)
    for fields, message in (
        ({"lost": 1}, "unexpected keyword argument 'lost'"),
        ({"width": "wide"}, "width is 'wide', expected int"),
    ):
        run.write_recipe({**record_of(Small(), file), "fields": fields})
        with pytest.raises(UsageError, match=rf"recipe\.json is damaged: .*{message}"):
            run.recipe(file)


def test_a_row_of_the_history_may_lack_its_last_cells(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2.5\n2\n")
    np.testing.assert_array_equal(Run(tmp_path).history["loss"], [2.5, math.nan])


@pytest.fixture
def begun(tmp_path):
    """A run that was begun with the defaults, and the record of its recipe."""
    file = tmp_path / "small.py"
    file.write_text('"""A small net."""\n')
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    record = record_of(Small(), file)
    run.write_recipe(record)
    return run, record


def test_a_record_has_the_recipe_and_its_fields(begun):
    run, record = begun
    assert run.record == record
    assert (record["recipe"], record["title"]) == ("small", "A small net.")
    assert run.fields == dataclasses.asdict(Small())


def changed(record, **fields):
    return {**record, "fields": {**record["fields"], **fields}}


def test_a_folder_refuses_another_run(begun):
    run, record = begun
    defaults = dataclasses.asdict(Small())
    run.refuse_another(record, defaults)
    with pytest.raises(RecipeError, match=r"holds a run with seed=0, now 1; choose another --name"):
        run.refuse_another(changed(record, seed=1), defaults)
    with pytest.raises(RecipeError, match=r"epochs=30, now 2, seed=0, now 1"):
        run.refuse_another(changed(record, seed=1, epochs=2), defaults)
    Run(run.folder / "new").refuse_another(changed(record, seed=1), defaults)


def test_more_epochs_of_a_finished_run_are_another_run_that_begins_with_its_weights(begun):
    run, record = begun
    defaults = dataclasses.asdict(Small())
    for fields, finished in (({"epochs": 60}, False), ({"epochs": 60, "seed": 1}, True)):
        if finished:
            (run.folder / "results.json").write_text("{}")
        with pytest.raises(RecipeError, match=r"choose another --name\.$"):
            run.refuse_another(changed(record, **fields), defaults)
    command = rf"its weights: zoo finetune --data digits --weights {run.folder}$"
    with pytest.raises(RecipeError, match=command):
        run.refuse_another(changed(record, epochs=60), defaults)


def test_a_field_newer_than_the_folder_had_its_default_then(begun):
    run, record = begun
    defaults = dataclasses.asdict(Small())
    old = {key: value for key, value in record["fields"].items() if key != "width"}
    run.write_recipe({**record, "fields": old})
    run.refuse_another(record, defaults)
    with pytest.raises(RecipeError, match=r"width=1\.0, now 2\.0"):
        run.refuse_another(changed(record, width=2.0), defaults)


def test_a_field_that_the_recipe_lost_is_a_difference(begun):
    run, record = begun
    run.write_recipe(changed(record, lost=3))
    with pytest.raises(RecipeError, match=r"lost=3, now None"):
        run.refuse_another(record, dataclasses.asdict(Small()))


def test_a_folder_refuses_another_recipe(begun):
    run, record = begun
    with pytest.raises(RecipeError, match=r"holds a run with the recipe 'small', now 'other'"):
        run.refuse_another({**record, "recipe": "other"}, dataclasses.asdict(Small()))


def test_whoever_has_the_lock_removes_what_dead_processes_left(tmp_path):
    run = Run(tmp_path)
    dead = [".model.1.partial.keras", ".results.22.partial.json", "figures/.a.1.partial.png"]
    dead += ["examples/.b.1.partial.png", "tmpab12_xyz"]  # Keras' file when memory is short
    alive = [".recipe.3.partial.json", "model.keras", "figures/a.png", "tmp", "tmp-of-my-own.txt"]
    for name in (*dead, *alive):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with open(tmp_path / alive[0]) as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        with run.locked():
            pass
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {*alive, "figures", "examples", ".lock"}
    with run.locked():
        pass
    assert not (tmp_path / alive[0]).exists()


def test_the_lock_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), Run(tmp_path).locked():
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_locked_run_knows_where_its_folder_is(tmp_path):
    folder = tmp_path / "run"
    run = Run(folder)
    with run.locked():
        assert run.place == folder
        folder.rename(tmp_path / "other")
        assert run.place == tmp_path / "other"
        folder.mkdir()  # another folder of that name
        assert run.place == tmp_path / "other"
        (tmp_path / "other" / ".lock").unlink()
        (tmp_path / "other").rmdir()
        assert run.place is None


def test_a_folder_for_checkpoints_is_empty_and_stays_the_same(tmp_path):
    run, used, other = Run(tmp_path / "run"), tmp_path / "used", tmp_path / "other"
    run.checkpoints.mkdir(parents=True)
    run.find_checkpoints(None)
    assert run.checkpoints.is_dir()
    assert not run.checkpoints.is_symlink()
    (used / "file").mkdir(parents=True)
    with pytest.raises(UsageError, match="is not empty"):
        run.find_checkpoints(used)
    run.find_checkpoints(other)
    assert run.checkpoints.resolve() == other
    run.find_checkpoints(other)
    run.find_checkpoints(None)
    with pytest.raises(UsageError, match=f"leads to {other}"):
        run.find_checkpoints(used)
    own = Run(tmp_path / "own")
    (own.checkpoints / "step-0000000001").mkdir(parents=True)
    with pytest.raises(UsageError, match="already has checkpoints"):
        own.find_checkpoints(tmp_path / "third")


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    folder = tmp_path / "small" / "run"
    with Run(folder).locked():
        assert folder.is_dir()
        with (
            pytest.raises(RecipeError, match="Another process is training in"),
            Run(folder).locked(),
        ):
            pass
        with Run(tmp_path / "small" / "other").locked():
            pass
    with Run(folder).locked():  # free again
        pass
