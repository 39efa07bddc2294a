"""`zoo reproduce`: it trains an export again from its card, and compares the errors."""

import json
import statistics

import pytest
from scipy import stats

import zoo.commands.main
from zoo import exports as layout
from zoo.experiments import reproducing
from zoo.models import pretrained
from zoo.recipe import RecipeError
from zoo.serving import card

RECIPE = """\"\"\"A net for tests: not measured.\"\"\"

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 2
    batch_size: int = 64
    precision: zoo.recipe.Precision = "float32"
    hidden: tuple[int, ...] = (8,)

    def model(self, data, steps):
        return zoo.mlp(data.image_shape, data.classes, hidden=self.hidden)
"""


def command(*arguments):
    """Run a `zoo` command, and return its exit code."""
    try:
        zoo.commands.main.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two seeds of the recipe, trained and exported together as saved_models/toy."""
    place = tmp_path_factory.mktemp("place")
    (place / "recipes").mkdir()
    (place / "recipes" / "toy.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for seed in (0, 1):
            flags = ["--name", seed, "--seed", seed, "--no-page"]
            assert command("train", "recipes/toy.py", *flags) == 0
        assert command("export", "runs/toy/0", "--repeats", "runs/toy/1") == 0
    return place


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def results(place, folder):
    return json.loads((place / "runs" / folder / "results.json").read_text())


def card_of_toy(place):
    return json.loads((place / "saved_models" / "toy" / "card.json").read_text())


def test_the_card_has_every_seed_its_mean_and_its_spread(place):
    errors = [results(place, f"toy/{seed}")["errors"] for seed in (0, 1)]
    seeds, first = card_of_toy(place)["seeds"], results(place, "toy/0")
    assert (seeds["seeds"], seeds["errors"]) == ([0, 1], errors)
    percent = [100 * count / first["examples"] for count in errors]
    assert seeds["mean_error_percent"] == pytest.approx(statistics.fmean(percent))
    assert seeds["deviation_percent"] == pytest.approx(abs(percent[0] - percent[1]) / 2**0.5)
    page = (place / "saved_models" / "toy" / "README.md").read_text()
    spread = f"{seeds['mean_error_percent']:.2f} ± {seeds['deviation_percent']:.2f} %"
    calibration = f"calibration error {100 * first['calibration_error']:.2f} %"
    three = next(row for row in first["classes"] if row["name"] == "3")
    row = f"| 3 | {100 * three['recall']:.2f} % | {100 * three['precision']:.2f} % |"
    true, answer, count = first["confusions"][0]
    mistakes = f"Most frequent mistakes: {true} for {answer} ({count})"
    for text in (spread, calibration, row, mistakes):
        assert text in page, text
    assert "zoo reproduce ." in page


def test_the_list_has_the_exports_of_this_folder(place, capsys):
    assert command("list") == 0
    seeds = card_of_toy(place)["seeds"]
    spread = f"{seeds['mean_error_percent']:.2f} ± {seeds['deviation_percent']:.2f} %"
    row = next(line for line in capsys.readouterr().out.splitlines() if spread in line)
    assert row.split() == ["toy", *spread.split(), "2", "610"]


def test_the_same_seed_trains_to_the_same_errors(place, capsys):
    assert command("reproduce", "toy") == 0
    weights = card_of_toy(place)["fingerprint"]["checkpoint_hash"][:8]
    folder = place / "runs" / "reproduced" / "toy" / f"toy,{weights},seed=0"
    again = json.loads((folder / "results.json").read_text())
    assert again["errors"] == results(place, "toy/0")["errors"]
    assert again["loss"] == results(place, "toy/0")["loss"]
    assert "as the card says" in capsys.readouterr().out
    # It is complete: asked again, it answers at once.
    assert command("reproduce", "saved_models/toy/1") == 0


def test_what_is_not_as_the_card_says_fails(monkeypatch, capsys):
    monkeypatch.setattr(reproducing, "expected", lambda card: (0.0, 0.1, "for a test"))
    assert command("reproduce", "toy", "--seed", 0) == 1
    assert "NOT as the card says, 0.00 to 0.10 % (for a test)" in capsys.readouterr().out


def _card(*errors, examples=1000):
    share = errors[0] / examples
    return {
        "results": {"examples": examples, "error_interval": [share / 2, share * 2]},
        "seeds": {"seeds": list(range(len(errors))), "errors": list(errors)},
    }


def test_another_seed_falls_into_students_interval():
    low, high, _ = reproducing.expected(_card(30, 36, 33))
    reach = stats.t(2).ppf(0.975) * 0.3 * (4 / 3) ** 0.5
    assert (low, high) == pytest.approx((3.3 - reach, 3.3 + reach))
    # Errors that happen to be equal do not promise that all others are.
    low, high, _ = reproducing.expected(_card(1, 1, 1, examples=400))
    assert (low, high) == pytest.approx((0, 0.5))
    low, high, _ = reproducing.expected(_card(3, 3, 3, examples=359))
    assert low <= 100 * 2 / 359
    assert high >= 100 * 4 / 359


def test_one_seed_has_the_interval_of_its_images():
    assert reproducing.expected(_card(40))[:2] == pytest.approx((2, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "toys"], "Did you mean 'toy'?"),
        (["export", "runs/toy/0", "--repeats", "runs/toy/0"], "same seed"),
        (
            ["export", "runs/toy/0", "--repeats", "runs/toy/9"],
            "neither a finished run nor an export",
        ),
        (["export", "saved_models/toy", "--repeats", "runs/toy/1"], "beside a run"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_runs_that_differ_in_more_than_the_seed_are_no_repeats(place):
    one = card.record(place / "runs" / "toy" / "0")
    other = card.record(place / "runs" / "toy" / "1")
    other["recipe"]["fields"]["epochs"] = 3
    with pytest.raises(ValueError, match="differ in more than the seed: epochs"):
        card.over_seeds([one, other])
    other["recipe"]["fields"]["epochs"] = one["recipe"]["fields"]["epochs"]
    card.over_seeds([one, other])
    # The same recipe, precision "auto", on another processor.
    other["versions"]["precision"] = "mixed_bfloat16"
    with pytest.raises(ValueError, match="differ in more than the seed: precision"):
        card.over_seeds([one, other])
    other["versions"]["precision"] = one["versions"]["precision"]
    # The same place of a teacher, who was trained again.
    other["results"]["teacher"] = ["another"]
    with pytest.raises(ValueError, match="differ in more than the seed: teacher"):
        card.over_seeds([one, other])


def test_an_export_stands_for_the_run_that_it_was_made_of(place, tmp_path):
    flags = ["--repeats", "saved_models/toy", "--out", tmp_path / "toy"]
    assert command("export", "runs/toy/1", *flags) == 0
    seeds = json.loads((tmp_path / "toy" / "card.json").read_text())["seeds"]
    both = card_of_toy(place)["seeds"]
    for name in ("seeds", "errors", "seconds"):
        assert seeds[name] == both[name][::-1]
    assert seeds["mean_error_percent"] == pytest.approx(both["mean_error_percent"])


def test_an_export_is_exported_once_more_with_all_that_its_card_says(place, tmp_path):
    assert command("export", "saved_models/toy", "--out", tmp_path / "toy") == 0
    again = json.loads((tmp_path / "toy" / "card.json").read_text())
    before = card_of_toy(place)
    for key in ("labels", "training", "results", "seeds", "data", "source", "exits", "weights"):
        assert again[key] == before[key], key
    hashes = [card["fingerprint"]["checkpoint_hash"] for card in (again, before)]
    assert hashes[0] == hashes[1]
    pictures = [
        sorted(file.name for file in folder.glob("*/assets.extra/examples/*.png"))
        for folder in (tmp_path / "toy", place / "saved_models" / "toy")
    ]
    assert pictures[0] == pictures[1] != []


def test_a_recipe_that_has_changed_says_so(place, monkeypatch):
    file = place / "recipes" / "toy.py"
    changed = RECIPE.replace("hidden: tuple[int, ...] = (8,)", "hid: int = 8")
    file.write_text(changed)
    try:
        with pytest.raises(RecipeError, match=r"has changed since .*'hidden'"):
            reproducing.reproduce(layout.names()["toy"])
    finally:
        file.write_text(RECIPE)


def test_what_the_card_does_not_know_is_named(place, monkeypatch):
    read = pretrained.read_card

    def older(weights):
        version, card = read(weights)
        del card["training"]["fields"]["hidden"]
        card["training"]["precision"] = "mixed_bfloat16"
        card["training"]["data"]["test"][3] = "other pixels"
        return version, card

    monkeypatch.setattr(pretrained, "read_card", older)
    _, _, (_, _, reason) = reproducing.reproduce("toy", seed=0)
    assert "precision is float32 now, mixed_bfloat16 on the card" in reason
    assert "hidden is (8,) now, not known on the card" in reason
    assert "the test images are [" in reason
    assert "the train images" not in reason


def test_an_export_of_a_file_names_no_recipe(place, tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{i}\n" for i in range(10)))
    model = place / "runs" / "toy" / "0" / "model.keras"
    flags = ["--labels", tmp_path / "labels.txt", "--out", tmp_path / "file"]
    assert command("export", model, *flags) == 0
    with pytest.raises(RecipeError, match="names no recipe"):
        reproducing.reproduce(tmp_path / "file")
    with pytest.raises(card.RepeatError, match="has no training"):
        card.repeat(tmp_path / "file" / "1")


def test_a_student_is_not_compared_with_one_of_another_teacher(place, monkeypatch):
    version, card_of_student = pretrained.read_card("toy")
    card_of_student["training"]["teacher"] = ["the fingerprint of a teacher trained again"]
    monkeypatch.setattr(pretrained, "read_card", lambda weights: (version, card_of_student))
    with pytest.raises(RecipeError, match=r"The teacher now is None; expected .*trained again"):
        reproducing.reproduce(place / "saved_models" / "toy", runs=place / "other")
    assert not list(place.glob("other/**/recipe.json"))
