"""The `zoo` command: its start, its flags, its errors, and a folder of photographs end to end."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo.commands.main

ROOT = Path(__file__).parents[2]


def zoo_command(*arguments, folder=ROOT):
    command = [sys.executable, "-m", "zoo", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def refused(capsys, *arguments):
    """Run a command that must exit with 2, and return its line on standard error."""
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main([str(argument) for argument in arguments])
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert message.count("\n") == 1, message
    return message


def seconds_of_children():
    """Return the CPU time of the child processes. Wall-clock time also counts other processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_answers_within_half_a_second():
    times = []
    for _ in range(5):
        begun = seconds_of_children()
        help_text = zoo_command("--help").stdout
        times.append(seconds_of_children() - begun)
    assert min(times) < 0.5
    for command in zoo.commands.main.COMMANDS:
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
        (["train"], "a name from `zoo list`"),
        (["train", "digit_nin_dsn"], "Did you mean 'digits_nin_dsn'"),
        (["train", "nothing.py"], "no recipe file 'nothing.py'"),
        (["train", "digits_nin_dsn", "--epoch", "3"], "Did you mean --epochs"),
        (["train", "digits_nin_dsn", "--epochs", "three"], "three"),
        (["train", "digits_nin_dsn", "--epochs", "0"], "--epochs is a positive number"),
        (["train", "nin_dsn", "--flip", "False"], "Write --flip or --no-flip"),
        (["train", "nin_dsn", "--no-flip=true"], "Write --flip or --no-flip"),
        (["train", "digits_nin_dsn", "--learning-rate", "nan"], "--learning-rate is"),
        (["train", "digits_nin_dsn", "--precision", "float8"], "float8"),
        (["train", "digits_nin_dsn", "--batch-size", "9999"], "--batch-size is at most 1438"),
        (["train", "digits_nin_dsn", "--width", "-1"], "width is a positive factor"),
        (["train", "digits_nin_dsn", "--data", "digitz"], "digits"),
        (["train", "nin_dsn", "--data", "/nowhere"], "/nowhere"),
        (["evaluate", "runs/none"], "not a finished run"),
        (["export", "runs/none"], "neither a finished run"),
        (["report", "runs/none"], "not a finished run"),
        (["tune"], "a name from `zoo list`"),
        (["tune", "digits_nin_dsn", "--trials", "2"], "such as --validation 0.1"),
        (["tune", "digits_nin_dsn", "--validation", "0.1"], "nothing to search"),
        (["tune", "digits_nin_dsn", "--tuner", "grid"], "grid"),
        (["export"], "zoo export"),
        (["predict", "runs/none", "none.png"], "no image 'none.png'"),
        (["predict", "runs/none", __file__], "runs/none"),
        (["predict", "runs/none"], "no image"),
        (["predict", "runs/none", __file__, "--top", "0"], "--top is"),
        (["predict"], "no image"),
        (["verify", "runs/none"], "neither an export nor a folder"),
        (["export", __file__], "neither a finished run nor a .keras file"),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    trains = arguments[0] == "train" and len(arguments) > 2
    runs = ["--runs", tmp_path, "--no-deterministic"] if trains else []
    assert message in refused(capsys, *arguments, *runs)
    assert not list(tmp_path.glob("**/*.npz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 +", "could not be read: SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("x = 1", "defines no recipe"),
        ("class Recipe: pass", "defines no recipe"),
        ("import zoo.recipe\nclass Recipe(zoo.recipe.Recipe): pass", "no method `model`"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(f'"""Mine."""\n{text}\n')
    assert message in refused(capsys, "train", tmp_path / "mine.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Colour photographs of two kinds, with different sizes, as a user would have them."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label, base in (("grass", (40, 160, 50)), ("sky", (90, 140, 230))):
        (folder / label).mkdir()
        for index in range(30):
            size = (24 + index % 3, 20, 3)
            pixels = np.clip(rng.normal(base, 25, size), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / label / f"{index:02d}.jpg", quality=95)
    return folder


def output_of(capsys, *arguments):
    """Run a command that must succeed, and return its output.

    It runs in this process, because TensorFlow takes 4 s to start.
    """
    zoo.commands.main.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_a_folder_of_photographs_is_trained_evaluated_exported_and_asked(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    flags = ["--data", folder, "--epochs", 12, "--batch-size", 16, "--width", 0.1]
    flags += ["--precision", "float32", "--runs", tmp_path / "runs", "--name", "a"]
    flags += ["--no-deterministic"]
    assert "--image-size" in refused(capsys, "train", "nin_dsn", *flags)  # sizes differ
    trained = output_of(capsys, "train", "nin_dsn", *flags, "--image-size", 16, 16)
    assert "test accuracy 100.00 % (0 errors in 12)" in trained
    run = tmp_path / "runs" / "nin_dsn" / "a"

    evaluated = output_of(capsys, "evaluate", run)
    assert "accuracy 100.00 %" in evaluated
    assert "grass" in evaluated
    others = shutil.copytree(folder, tmp_path / "others")
    assert "errors in 12" in output_of(capsys, "evaluate", run, "--data", others)  # of all sizes
    for file in others.glob("*/*.jpg"):
        Image.open(file).convert("L").save(file)
    assert "(16, 16, 1); the run's are (16, 16, 3)" in refused(
        capsys, "evaluate", run, "--data", others
    )
    # With one image less, the folder may be divided in another way.
    (folder / "sky" / "00.jpg").rename(tmp_path / "00.jpg")
    for command in ("evaluate", "report"):
        assert "may be among those trained on" in refused(capsys, command, run)
    (tmp_path / "00.jpg").rename(folder / "sky" / "00.jpg")
    assert "neither a finished run nor an export" in refused(capsys, "export", others)

    export = tmp_path / "saved_models" / "photographs"
    output_of(capsys, "export", run, "--out", export, "--exits")
    assert "can serve" in output_of(capsys, "verify", export, "--model", run)
    assert "100.00 % accuracy, last epoch: 0 errors in 12" in (export / "README.md").read_text()

    images = [folder / "sky" / "03.jpg", folder / "grass" / "04.jpg"]
    for model in (run, export):
        answers = output_of(capsys, "predict", model, *images)
        lines = [line.split() for line in answers.splitlines() if ".jpg" in line]
        assert [line[1] for line in lines] == ["sky", "grass"]
    assert output_of(capsys, "report", run).strip().endswith("report.html")

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for model in (run, export):
        assert "broken.png" in refused(capsys, "predict", model, broken)
        with pytest.raises(SystemExit) as stop:
            zoo.commands.main.main(["predict", *map(str, (model, broken, images[0]))])
        captured = capsys.readouterr()
        assert stop.value.code == 1
        assert "03.jpg" in captured.out
        assert "broken.png" in captured.err
        assert captured.err.count("\n") == 1


def test_the_command_is_installed():
    script = Path(sys.executable).parent / "zoo"
    assert os.access(script, os.X_OK)
    assert (
        "subcommands" in subprocess.run([script, "--help"], capture_output=True, text=True).stdout
    )


def test_training_has_the_fast_kernels_and_the_processes_that_try_an_export_the_default():
    program = (
        "import os; from zoo.commands.tensorflow import import_tensorflow as start; start()\n"
        "from tensorflow.python.util import _pywrap_util_port as port\n"
        "print(port.IsMklEnabled(), os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    )
    for chosen, expected in ((None, "True None"), ("0", "False 0")):
        environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
        if chosen:
            environment["TF_ENABLE_ONEDNN_OPTS"] = chosen
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert ran.stdout.strip() == expected, ran.stderr[-2000:]
