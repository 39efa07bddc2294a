import csv
import dataclasses
import functools
import importlib
import json
import re
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import zoo.commands.main
import zoo.recipe
import zoo.training
from zoo.errors import UsageError
from zoo.experiments import studies
from zoo.experiments.studies import convergence, drawing, dropout, dsn_fig2_examples, gradients
from zoo.runs import Run, name_of
from zoo.saving import load_model
from zoo.tables import Table
from zoo.text import counted

PAGES = Path(__file__).parents[2] / "docs" / "results"
# The studies that need no model, but only metrics.csv and results.json.
OF_NUMBERS = (
    "dsn_fig2_epochs",
    "dsn_fig2_examples",
    "convergence",
    "gradients",
    "deep_and_narrow",
    "dropout",
    "removal",
)


def recipe_of(fields):
    """Return the class of a study's recipe, and its fields without the labels of teachers."""
    given = {key: value for key, value in fields.items() if key not in ("recipe", "teachers")}
    return studies.recipe_class(fields.get("recipe", "small_net")), given


def study(name):
    return importlib.import_module(f"zoo.studies.{name}")


@pytest.mark.parametrize("name", studies.NAMES)
def test_a_study_has_a_title_runs_seeds_and_something_to_show(name):
    module = study(name)
    title, blank, *rest = module.__doc__.splitlines()
    assert title == studies.title(name)
    assert len(title) <= 97
    assert blank == ""
    assert rest
    assert module.SEEDS >= 1
    assert callable(module.show)


@pytest.mark.parametrize("name", studies.NAMES)
def test_the_page_of_a_study_begins_with_its_docstring(name):
    heading, _, text = study(name).__doc__.partition("\n")
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {heading}\n\n{text.strip()}\n\n![{heading}]({name}.png)\n\n|")


@pytest.mark.parametrize("name", studies.NAMES)
def test_the_page_of_a_study_ends_with_what_would_be_written_now(name):
    module = study(name)
    last = (PAGES / f"{name}.md").read_text(encoding="utf-8").splitlines()[-1]
    if not module.RUNS:
        assert re.sub(r" on .*, without", "", last) == re.sub(
            r" on .*, without", "", studies._made_by(name, {})
        )
        return
    recipes = sorted({fields.get("recipe", "small_net") for fields in module.RUNS.values()})
    links = " and ".join(f"[recipes/{each}.py](../../recipes/{each}.py)" for each in recipes)
    seeds = range(module.SEEDS)
    runs = {str({"seed": seed, **fields}) for fields in module.RUNS.values() for seed in seeds}
    which = "seed 0" if len(seeds) == 1 else f"seeds 0 to {seeds[-1]}"
    minutes = counted(studies.MINUTES[name], "minute")
    made_by = (
        f"Made by `zoo figure {name}`: {counted(len(runs), 'run')}, {which} of {links}, {minutes} "
        "of training in all on 2 cores ("
    )
    assert last.startswith(made_by)
    not_committed = " with changes that were not committed, so nobody can check out the code"
    rest = last.removeprefix(made_by)
    assert re.fullmatch(rf"[^;]+\), commit [0-9a-f]{{7}}({not_committed})?\.", rest)


def test_the_list_of_the_pages_has_each_study_and_its_minutes():
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\d+) \|", text, re.MULTILINE)
    assert [(name, int(minutes)) for name, _, minutes in rows] == [*studies.MINUTES.items()]
    assert all(name == page for name, page, _ in rows)


@pytest.mark.parametrize("name", studies.NAMES)
def test_the_fields_of_a_study_are_those_of_the_recipe_with_allowed_values(name):
    runs = study(name).RUNS
    assert len(runs or study(name).MODELS) >= 1
    before = set()
    for label, fields in runs.items():
        cls, given = recipe_of(fields)
        assert set(fields.get("teachers", ())) <= before
        before.add(label)
        cls(**given).check()
        for field, value in given.items():
            hint = typing.get_type_hints(cls)[field]
            if typing.get_origin(hint) is typing.Literal:
                assert value in typing.get_args(hint), field
            elif hint is float:
                assert isinstance(value, (int, float)), field
            elif isinstance(hint, type):
                assert type(value) is hint, field


def test_runs_of_different_fields_have_different_folders():
    recipes = {
        recipe_of(fields)[0](**{"seed": seed, **recipe_of(fields)[1]})
        for name in studies.NAMES
        for fields in study(name).RUNS.values()
        if "teachers" not in fields
        for seed in (0, 1, 2)
    }
    folders = {(type(recipe), name_of(recipe)) for recipe in recipes}
    assert len(folders) == len(recipes)


def test_gradients_and_removal_share_the_runs_of_convergence():
    assert gradients.RUNS == convergence.RUNS
    assert convergence.RUNS.items() <= study("removal").RUNS.items()


@pytest.mark.parametrize("name", ["convergence", "removal", "deep_and_narrow"])
def test_what_is_compared_differs_in_the_companions_alone(name):
    runs = study(name).RUNS.values()
    others = [{**fields, "companions": None} for fields in runs]
    assert all(other == others[0] for other in others)
    assert len({fields["companions"] for fields in runs}) == len(runs)


def test_a_spread_is_the_mean_and_the_sample_standard_deviation():
    assert studies.spread([1, 2, 3]) == "2.00 ± 1.00"
    assert studies.spread([1.25, 1.75], 1) == "1.5 ± 0.4"
    assert studies.spread([1.5]) == "1.50 (1 seed)"


def test_a_table_in_markdown():
    table = Table(("Net", "Error"), (("a", "1.0"), ("b", "2.0")))
    assert table.markdown() == "| Net | Error |\n| --- | --- |\n| a | 1.0 |\n| b | 2.0 |"


def test_steps_to_an_accuracy_are_read_off_the_line_between_evaluations():
    steps, accuracy = [200, 400, 600, 800], [20, 40, 35, 60]
    to = functools.partial(convergence.steps_to, steps=steps, accuracy=accuracy, guessing=10)
    assert to(15) == 100  # halfway from guessing, at step 0
    assert to(20) == 200
    assert to(25) == 250
    assert to(38) == 380  # the first time
    assert to(50) == 720
    assert np.isnan(to(61))


def test_seeds_that_did_not_reach_an_accuracy_are_counted():
    assert convergence.steps_cell([100.0, 200.0, 300.0]) == "200 ± 100"
    assert convergence.steps_cell([100.0, np.nan, 301.0]) == "200, by 2 of 3 seeds"
    assert convergence.steps_cell([np.nan, np.nan]) == "not reached"


def test_gradients_are_compared_seed_by_seed():
    def runs(*of_seeds):
        return [SimpleNamespace(history={"gradient_a": np.array(of, float)}) for of in of_seeds]

    first, whole = gradients.ratios(runs([8, 4], [9, 1]), runs([2, 4], [3, 2]), "a")
    np.testing.assert_allclose(first, [4, 3])
    np.testing.assert_allclose(whole, [2, 2])


def test_the_gain_is_the_share_of_errors_not_made():
    np.testing.assert_allclose(dsn_fig2_examples.gain(np.array([4.0]), np.array([3.0])), [25])


def test_a_curve_is_the_mean_in_a_band_of_all_seeds():
    _, (axes,) = drawing.panels("a title")
    drawing.curve(axes, [1, 2], np.array([[1.0, 5.0], [3.0, 9.0], [8.0, 1.0]]), label="net")
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [4, 5])
    corners = axes.collections[0].get_paths()[0].vertices
    assert {(x, y) for x, y in corners} == {(1, 1), (1, 8), (2, 1), (2, 9)}


def invented(folder, fields, errors, gradients=(), seconds=60.0):
    """Write a run folder with these test errors (%) and mean square gradients; return the run."""
    folder.mkdir(parents=True)
    cls, given = recipe_of(fields)
    recipe = cls(**given)
    columns = {
        "epoch": np.arange(1, len(errors) + 1),
        "step": (recipe.steps_per_epoch or 469) * np.arange(1, len(errors) + 1),
        "accuracy": 1 - np.array(errors) / 120,
        "val_accuracy": 1 - np.array(errors) / 100,
    }
    columns |= {f"gradient_mlpconv{n + 1}": of for n, of in enumerate(gradients)}
    with open(folder / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    results = {"error_percent": errors[-1], "seconds": seconds, "label_names": list("0123456789")}
    versions = {"commit": None, "dirty": True, "hardware": {"cores": 2, "cpu": "none"}}
    (folder / "recipe.json").write_text(
        json.dumps({"recipe": "small_net", "fields": dataclasses.asdict(recipe)})
    )
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "versions.json").write_text(json.dumps(versions))
    return Run(folder)


@pytest.mark.parametrize(
    ("name", "seeds"), [*((name, 3) for name in OF_NUMBERS), ("convergence", 1)]
)
def test_a_study_draws_and_tabulates_its_runs(name, seeds, tmp_path):
    module, rng = study(name), np.random.default_rng(0)
    finished = {
        label: [
            invented(
                tmp_path / f"{index}_{seed}",
                {**fields, "seed": seed},
                np.geomspace(60, 5 + index, fields["epochs"]) + rng.uniform(0, 1),
                rng.uniform(1e-5, 1e-3, (8, fields["epochs"])),
            )
            for seed in range(seeds)
        ]
        for index, (label, fields) in enumerate(module.RUNS.items())
    }
    figure, table = module.show(finished)
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] == 6.4
    assert all(axes.get_xlabel() for axes in figure.axes)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    for label in finished:
        wanted = label.split(",")[0]  # of "DSN-SVM, 500" the method
        assert any(text.startswith(wanted) for text in shown)
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert all(isinstance(cell, str) for cell in row)
    assert studies.write(name, figure, table, finished, tmp_path / "out") is table
    page = (tmp_path / "out" / f"{name}.md").read_text()
    assert page.startswith(f"# {studies.title(name)}\n")
    assert table.markdown() in page
    runs = seeds * len(module.RUNS)
    which = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    assert f": {runs} runs, {which} of [recipes/" in page
    assert f", {runs} minutes of training in all on 2 cores (none), commit unknown with" in page
    of_first = next(iter(finished.values()))[0]
    records = Run(tmp_path / "out" / "records" / tmp_path.name / of_first.folder.name)
    assert (records.fields, records.results) == (of_first.fields, of_first.results)
    assert records.versions == of_first.versions
    assert [*records.history] == [*of_first.history]


def test_a_page_counts_each_run_and_its_time_once_and_in_english(tmp_path):
    """A run that stands for several seeds or labels is one run."""
    run = invented(tmp_path / "small_net" / "a", {}, [50.0])
    for finished, counts in (
        ({"a": [run]}, "1 run, seed 0 of "),
        ({"a": [run, run, run], "b": [run, run, run]}, "1 run, seeds 0 to 2 of "),
    ):
        table = Table(("Net",), (("a",),))
        studies.write("removal", Figure(), table, finished, tmp_path / "out")
        last = (tmp_path / "out" / "removal.md").read_text().splitlines()[-1]
        link = "[recipes/small_net.py](../../recipes/small_net.py)"
        assert last == (
            f"Made by `zoo figure removal`: {counts}{link}, 1 minute of training in all on 2 cores "
            "(none), commit unknown with changes that were not committed, so nobody can check out "
            "the code."
        )
    short = invented(tmp_path / "small_net" / "b", {}, [50.0], seconds=3.0)
    studies.write("removal", Figure(), table, {"a": [short]}, tmp_path / "out")
    page = (tmp_path / "out" / "removal.md").read_text()
    assert ", less than a minute of training in all" in page


def test_the_command_lists_the_studies(capsys):
    zoo.commands.main.main(["figure"])
    shown = capsys.readouterr().out
    assert all(name in shown and studies.title(name).split()[0] in shown for name in studies.NAMES)
    rows = dict(re.findall(r"^(\w+) +(\d+) +\S", shown, re.MULTILINE))
    assert rows == {name: str(minutes) for name, minutes in studies.MINUTES.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convergance"], "Did you mean 'convergence'"),
        (["removal", "--seeds", "0"], "a number from 1"),
    ],
)
def test_the_command_refuses(arguments, message, capsys, monkeypatch):
    monkeypatch.delattr(studies, "carry_out")
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main(["figure", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_shows_the_table_and_where_the_page_is(capsys, monkeypatch):
    def carry_out(*arguments, **keywords):
        calls.append((arguments, keywords))
        return Table(("Net", "Error"), (("of nine", "1.23 ± 0.04"),))

    calls = []
    monkeypatch.setattr(studies, "carry_out", carry_out)
    zoo.commands.main.main(
        ["figure", "removal", "--seeds", "2", "--runs", "there", "--out", "here"]
    )
    assert calls == [(("removal",), {"seeds": 2, "runs": Path("there"), "out": Path("here")})]
    shown = capsys.readouterr().out
    for part in ("of nine", "1.23 ± 0.04", "here/removal.md", "here/removal.png"):
        assert part in shown


def test_a_page_of_fewer_seeds_replaces_none_of_more(tmp_path, monkeypatch):
    name = "removal"
    whole = study(name).SEEDS
    assert studies.default_folder(name, None) == studies.default_folder(name, whole)
    assert studies.default_folder(name, whole) == Path("docs/results")
    assert studies.default_folder(name, 1) == Path("results")
    monkeypatch.setattr(zoo.training, "train", None)
    with pytest.raises(UsageError, match=f"has {whole} seeds; --seeds 1 would"):
        studies.carry_out(name, seeds=1, runs=tmp_path, out=PAGES)
    for page in PAGES.glob("*.md"):
        if page.stem in studies.NAMES:
            studies._refuse_fewer(page, study(page.stem).SEEDS)
    monkeypatch.chdir(tmp_path)
    assert studies.default_folder(name, None) == Path("results")
    studies._refuse_fewer(tmp_path / "none.md", 1)


def test_a_study_is_carried_out_once(tmp_path, monkeypatch):
    """The study trains, draws and tabulates two seeds. The same call again trains nothing."""
    tiny = {"data": "digits", "examples": 200, "width": 0.05, "epochs": 1, "steps_per_epoch": 2}
    tiny |= {"precision": "float32", "companions": "kept", "measure_gradients": True}
    monkeypatch.setattr(dropout, "RUNS", {"no dropout": tiny})
    # Keras would stay deterministic in the tests after this one.
    train = functools.partial(zoo.training.train, deterministic=False)
    monkeypatch.setattr(zoo.training, "train", train)
    call = functools.partial(
        studies.carry_out, "dropout", seeds=2, runs=tmp_path / "runs", out=tmp_path / "out"
    )
    table = call()
    assert [row[0] for row in table.rows] == ["no dropout"]
    page = (tmp_path / "out" / "dropout.md").read_text()
    assert (tmp_path / "out" / "dropout.png").read_bytes().startswith(b"\x89PNG")

    models = sorted(tmp_path.glob("runs/small_net/*/model.keras"))
    written = [model.stat().st_mtime_ns for model in models]
    assert call() == table
    assert (tmp_path / "out" / "dropout.md").read_text() == page
    assert [model.stat().st_mtime_ns for model in models] == written
    assert len([*tmp_path.glob("runs/small_net/*")]) == len(models) == 2

    # Studies also read the run's fields, data, model and history.
    first, second = (Run(model.parent) for model in models)
    assert (first.fields["seed"], second.fields["seed"]) == (0, 1)
    training, test = first.recipe().datasets()
    assert (training.examples, test.examples) == (200, first.results["examples"])
    assert load_model(first.folder).output_shape == (None, 10)
    assert first.history["step"] == [2]
    for layer in gradients.LAYERS:
        assert first.history[f"gradient_{layer}"] > 0
        assert first.history[f"gradient_{layer}"] != second.history[f"gradient_{layer}"]
