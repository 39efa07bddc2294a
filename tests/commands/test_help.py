"""The help of every command can be read, and an error of a value says what the help says."""

import itertools
import re
import warnings
from pathlib import Path

import pytest

import zoo.commands.main

RECIPES = sorted(file.stem for file in (Path(__file__).parents[2] / "recipes").glob("*.py"))
COMMANDS = [[command] for command in zoo.commands.main.COMMANDS]
COMMANDS += [["train", recipe] for recipe in RECIPES]
COMMANDS += [["tune", "small_net"], ["pack", "digits_nin_dsn"]]


def shown(capsys, monkeypatch, *arguments):
    """The help of a command, without its box and without the breaks that a terminal makes."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        zoo.commands.main.main([*arguments, "--help"])
    return [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_has_readable_values_and_breaks_lines_between_sentences(
    command, capsys, monkeypatch
):
    lines = shown(capsys, monkeypatch, *command)
    flags = [line for line in lines if re.match(r"(--|usage)", line)]
    assert flags
    for line in flags:
        before = re.split(r" {2,}", line)[0]
        assert not re.search(r"\{\{|\[\w+ \[|INT\}|\{\w+\}", before), line
    # What stands in a place has a name.
    assert not [line for line in lines if re.match(r"\[?(STR|PATH)\b", line)]
    for line, following in itertools.pairwise(lines):
        if following and following[0].isalpha() and not line.startswith(("╭", "╰")):
            is_a_flag_alone = line.startswith("-") and "  " not in line
            is_whole = line == "" or line[-1] in ".:)" or " " not in line
            assert is_whole or is_a_flag_alone, f"{line} / {following}"


def test_flags_that_had_braces_have_words(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, "finetune")
    for flag in ("--image-size N | H W", "--class-weights balanced", "--freeze until STR"):
        assert any(line == flag or line.startswith(f"{flag} ") for line in lines), flag
    assert any("--examples PATH..." in line for line in shown(capsys, monkeypatch, "export"))
    assert "[STUDY]" in shown(capsys, monkeypatch, "figure")[0]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--resize", ("aspect ratio", "stretch", "cut off", "add black")),
        ("--channels", ("grey (1)", "RGB (3)")),
        ("--class-weights", ("few images", "training loss")),
    ],
)
def test_the_help_says_in_a_sentence_what_a_flag_does(flag, words, capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, "train", "nin_dsn")
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{flag} "))
    sentence = " ".join(lines[start : start + 2]).partition(". ")[0]
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-size", "a"], "--image-size: expected N | H W; received 'a'"),
        (["--image-size", "8", "b"], "--image-size: expected N | H W; received '8 b'"),
        (["--image-size", "1", "2", "3"], "--image-size: expected N | H W; received '1 2 3'"),
        (["--epochs", "three"], "--epochs: expected INT; received 'three'"),
        (["--learning-rate", "x"], "--learning-rate: expected FLOAT; received 'x'"),
        (["--freeze", "since", "x"], "--freeze: expected until STR; received 'since x'"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_in_the_words_of_the_help(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main(["finetune", "--data", "photographs", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("size", "expected"), [("8", (8, 8)), ("6 9", (6, 9)), (None, None)])
def test_an_image_size_is_one_number_or_two(size, expected, monkeypatch):
    recipes = []
    described, options, _ = zoo.commands.main.OF_A_RECIPE["train"]
    keep = (described, options, lambda recipe, *_: recipes.append(recipe))
    monkeypatch.setitem(zoo.commands.main.OF_A_RECIPE, "train", keep)
    flags = ["--image-size", *size.split()] if size else []
    zoo.commands.main.main(["train", "nin_dsn", *flags])
    assert recipes[0].image_size == expected


def test_a_warning_is_one_line_without_the_place_in_the_code(capsys, monkeypatch):
    def warned(arguments):
        warnings.warn("It gives\nprobabilities.", UserWarning, stacklevel=1)

    monkeypatch.setattr(zoo.commands.main, "_run", warned)
    shown = warnings.showwarning
    zoo.commands.main.main(["list"])
    assert capsys.readouterr().err == "Warning: It gives probabilities.\n"
    assert warnings.showwarning is shown
