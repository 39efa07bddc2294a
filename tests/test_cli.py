import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo.cli

ROOT = Path(__file__).parent.parent


def zoo_command(*arguments, folder=ROOT):
    command = [sys.executable, "-m", "zoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def refused(capsys, *arguments):
    """The one line of a command that must exit with 2."""
    with pytest.raises(SystemExit) as stop:
        zoo.cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2, said
    assert said.count("\n") == 1, said
    return said


def test_help_answers_within_half_a_second():
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        help_text = zoo_command("--help").stdout
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
    for command in zoo.cli.COMMANDS:
        assert command in help_text


def test_list_shows_each_recipe_with_its_first_line():
    shown = " ".join(zoo_command("list").stdout.split())
    for file in (ROOT / "recipes").glob("*.py"):
        assert file.stem in shown
        assert " ".join(file.read_text().splitlines()[0].strip('"').split()[:6]) in shown


def test_recipes_of_the_current_folder_come_first(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text('"""My own: 3 % error."""\n')
    assert "My own: 3 % error." in zoo_command("list", folder=tmp_path).stdout


def test_the_fields_of_a_recipe_are_its_flags():
    shown = zoo_command("train", "digits_nin_dsn", "--help").stdout
    for flag in ("--epochs", "--learning-rate", "--companion-weight", "--seed", "--runs", "--name"):
        assert flag in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "RECIPE"),
        (["train", "digit_nin_dsn"], "Did you mean 'digits_nin_dsn'"),
        (["train", "nothing.py"], "no recipe file 'nothing.py'"),
        (["train", "digits_nin_dsn", "--epoch", "3"], "Did you mean --epochs"),
        (["train", "digits_nin_dsn", "--epochs", "three"], "three"),
        (["train", "digits_nin_dsn", "--epochs", "0"], "--epochs is a positive number"),
        (["train", "digits_nin_dsn", "--learning-rate", "nan"], "--learning-rate is"),
        (["train", "digits_nin_dsn", "--precision", "float8"], "float8"),
        (["train", "digits_nin_dsn", "--width", "-1"], "width is a positive factor"),
        (["train", "digits_nin_dsn", "--data", "digitz"], "digits"),
        (["train", "nin_dsn", "--data", "/nowhere"], "/nowhere"),
        (["evaluate", "runs/none"], "not a finished run"),
        (["export", "runs/none"], "not a finished run"),
        (["report", "runs/none"], "not a finished run"),
        (["export"], "zoo export"),
        (["predict", "runs/none", "none.png"], "no image 'none.png'"),
        (["predict", "runs/none", __file__], "runs/none"),
        (["predict", "runs/none"], "no image"),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    runs = ["--runs", tmp_path] if arguments[0] == "train" and len(arguments) > 2 else []
    assert message in refused(capsys, *arguments, *runs)
    assert not list(tmp_path.glob("**/*.npz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 +", "could not be read: SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("x = 1", "defines no recipe"),
        ("class Recipe: pass", "defines no recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(f'"""Mine."""\n{text}\n')
    assert message in refused(capsys, "train", tmp_path / "mine.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Colour photographs of two kinds, as a user would have them: not all of one size."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label, base in (("grass", (40, 160, 50)), ("sky", (90, 140, 230))):
        (folder / label).mkdir()
        for index in range(30):
            size = (24 + index % 3, 20, 3)
            pixels = np.clip(rng.normal(base, 25, size), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / label / f"{index:02d}.jpg", quality=95)
    return folder


def test_a_folder_of_photographs_is_trained_evaluated_exported_and_asked(folder, tmp_path):
    flags = ["--data", folder, "--epochs", 12, "--batch-size", 16, "--width", 0.1]
    flags += ["--precision", "float32", "--runs", tmp_path / "runs", "--name", "a"]
    assert "--image-size" in zoo_command("train", "nin_dsn", *flags).stderr  # sizes differ
    trained = zoo_command("train", "nin_dsn", *flags, "--image-size", 16, 16)
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy 100.00 % (0 errors in 12)" in trained.stdout
    run = tmp_path / "runs" / "nin_dsn" / "a"

    evaluated = zoo_command("evaluate", run)
    assert "accuracy 100.00 %" in evaluated.stdout, evaluated.stderr
    assert "grass" in evaluated.stdout

    exported = zoo_command("export", run, "--out", tmp_path / "saved_models" / "photographs")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "saved_models" / "photographs" / "1" / "saved_model.pb").exists()

    images = [folder / "sky" / "03.jpg", folder / "grass" / "04.jpg"]
    for model in (run, tmp_path / "saved_models" / "photographs"):
        answered = zoo_command("predict", model, *images)
        assert answered.returncode == 0, answered.stderr
        lines = [line for line in answered.stdout.splitlines() if ".jpg" in line]
        assert ["sky" in lines[0].split(), "grass" in lines[1].split()] == [True, True], answered
    drawn = zoo_command("report", run)
    assert drawn.stdout.strip().endswith("report.html"), drawn.stderr


def test_an_image_that_cannot_be_read_is_refused_by_name(folder, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "run").mkdir()
    model = zoo.nin((8, 8, 1), 2, width=0.05)
    model.save(tmp_path / "run" / "model.keras")
    (tmp_path / "run" / "results.json").write_text('{"label_names": ["a", "b"]}')
    assert "broken.png" in refused(capsys, "predict", tmp_path / "run", broken)


def test_the_command_is_installed():
    script = Path(sys.executable).parent / "zoo"
    assert os.access(script, os.X_OK)
    assert (
        "subcommands" in subprocess.run([script, "--help"], capture_output=True, text=True).stdout
    )
