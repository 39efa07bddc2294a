"""The `zoo` command: its start, its flags, its errors, and a folder of photographs end to end."""

import html
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
import zoo.data.readers
from zoo.markup import markdown

ROOT = Path(__file__).parents[2]
# Names that a terminal, Markdown, HTML and a shell would take for something else.
GRASS, SKY = "[red]<b>grass|`$x$", "*sky*_{{7}}"
ODD_FILE = os.fsdecode(b"\x1b[31m[bold]caf\xe9.jpg")


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
        (["train", "digits_nin_dsn", "--width", "-1"], "--width is a number from 0"),
        (["train", "digits_nin_dsn", "--width", "0"], "width is a positive factor"),
        (["train", "digits_nin_dsn", "--data", "digitz"], "digits"),
        (["train", "nin_dsn", "--data", "/nowhere"], "/nowhere"),
        (["evaluate", "runs/none"], "no model 'runs/none'"),
        (["export", "runs/none"], "no model 'runs/none'"),
        (["report", "runs/none"], "no model 'runs/none'"),
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
        (["verify", "runs/none"], "no model 'runs/none'"),
        (["verify", "recipes"], "neither an export nor a folder"),
        (["export", __file__], "nor a .keras file"),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    trains = arguments[0] == "train" and len(arguments) > 2
    runs = ["--runs", tmp_path, "--no-deterministic"] if trains else []
    assert message in refused(capsys, *arguments, *runs)
    assert not list(tmp_path.glob("**/*.npz"))


TRAIN, TUNE = ["train", "digits_nin_dsn"], ["tune", "small_net", "--validation", "0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ([*TRAIN, f"--{flag}={value}"], f"--{flag} is ")
            for flag, values in {
                "width": "nan inf 1e308 -1 -inf",
                "minutes": "nan inf -1 0 1e308",
                "checkpoint-seconds": "nan inf -1 1e308",
                "seed": f"-1 {10**30}",
                "epochs": f"-1 {10**30}",
                "steps-per-epoch": f"-1 {10**30}",
                "validation": "nan inf 1",
                "replicas": "-1",
                "name": ".. . /abs ../../x a/../b a/",
            }.items()
            for value in values.split()
        ),
        ([*TRAIN, "--name="], "--name is the name of a new folder"),
        ([*TRAIN, "--name", "a\nb\x1b[31m"], r"received 'a\nb\x1b[31m'"),
        ([*TRAIN, "--name", "é" * 128], "--name has 256 bytes; a file system takes 255"),
        ([*TRAIN, "--name", "x" * 300], "--name has 300 bytes"),
        ([*TRAIN, "--seed", "1e30"], "1e30"),
        ([*TRAIN, "--image-size", "100000", "100000"], "GiB of memory"),
        ([*TRAIN, "--image-size", "0", "8"], "image_size is (height, width)"),
        ([*TRAIN, "--replicas", "999"], "--replicas is 999"),
        ([*TUNE, "--checkpoint-seconds", "nan"], "--checkpoint-seconds is "),
        ([*TUNE, "--name", "../x"], "--name is the name of a new folder"),
        ([*TUNE, "--learning-rate", "nan"], "--learning-rate is"),
        (["pack", "digits_nin_dsn", "--name", ".."], "--name is the name of a new folder"),
        (["pack", "digits_nin_dsn", "--width", "nan"], "--width is a number"),
        (["figure", "dropout", "--seeds", "0"], "--seeds is a number from 1"),
        (["figure", "dropout", "--out", __file__], "--out is a folder"),
        (["export", "runs/none", "--version", "0"], "--version is a number from 1"),
        (["export", "runs/none", "--top-k", "0"], "--top-k is a number from 1"),
        (["export", "runs/none", "--tolerance", "nan"], "--tolerance is a number from 0 to 1"),
        (["verify", "runs/none", "--tolerance", "nan"], "--tolerance is a number from 0 to 1"),
        (["verify", "runs/none", "--timeout", "nan"], "--timeout is a number"),
        (["predict", "runs/none", __file__, "--timeout", "inf"], "--timeout is a number"),
        (["predict", "runs/none", __file__, "--tolerance", "-1"], "--tolerance is a number"),
        (["evaluate", "x" * 300], "File name too long"),
        (["train", "x" * 300 + ".py"], "File name too long"),
        ([*TRAIN, "--runs", "x" * 300], "File name too long"),
        ([*TRAIN, "--runs", "file"], "Not a directory"),
        ([*TRAIN, "--runs", "file/runs"], "Not a directory"),
    ],
    ids=lambda text: (
        (" ".join(text) if isinstance(text, list) else text)[:40].encode("unicode_escape").decode()
    ),
)
def test_a_refused_command_reads_no_data_and_leaves_nothing(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(zoo.data.readers, "_read_digits", None)
    assert message in refused(capsys, *arguments)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "flags", [["--data="], ["--data", "file"], ["--batch-size", "9999"], ["--dropout", "2"]]
)
def test_a_command_that_is_refused_later_leaves_nothing(flags, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    flags = [*flags, "--no-deterministic"]
    for command in (TRAIN, [*TUNE, "--trials=1"]):
        if command == TRAIN or "--data" in flags[0]:
            refused(capsys, *command, *flags)
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_is_no_wrong_input(capsys, monkeypatch):
    for error, code in (
        (PermissionError(13, "Permission denied"), 1),
        (OSError(28, "No space left on device"), 1),
        (OSError(5, "Input/output error"), 1),
        (MemoryError(), 1),
        (IsADirectoryError(21, "Is a directory"), 2),
    ):
        monkeypatch.setattr(zoo.commands.main, "parse", raising(error))
        with pytest.raises(SystemExit) as stop:
            zoo.commands.main.main(["list"])
        assert stop.value.code == code
        assert capsys.readouterr().err.count("\n") == 1


def raising(error):
    """Return a function that raises the error."""

    def function(*_, **__):
        raise error

    return function


def test_list_says_which_cards_and_recipes_are_damaged(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    whole = (ROOT / "saved_models" / "mnist_student" / "card.json").read_bytes()
    damaged = [b"", b"{", b"[]", b"null", b"3", b'"text"', b"{}", b"\xff\xfe", b"[" * 100_000]
    damaged += [b'{"name": "x"}', whole.replace(b'"seeds"', b'"seeds": 3, "s"')]
    damaged += [whole.replace(b'"parameters"', b'"parameters": "many", "p"', 1)]
    for index, text in enumerate([whole, *damaged]):
        folder = tmp_path / "saved_models" / f"card{index:02d}"
        folder.mkdir(parents=True)
        (folder / "card.json").write_bytes(text)
    (tmp_path / "saved_models" / "card99" / "card.json").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    for name, text in (("a", b"1 +"), ("b", b"\xff"), ("c", b"(" * 10_000)):
        (tmp_path / "recipes" / f"{name}.py").write_bytes(text)
    lines = output_of(capsys, "list").splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert "0.59" in rows["mnist_student"] or "%" in rows["mnist_student"]
    for index in (*range(1, len(damaged) + 1), 99):
        assert "card.json is damaged" in rows[f"card{index:02d}"]
    for name in "abc":
        assert "could not be read" in rows[name]
    assert "nin_dsn" in rows


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
    for label, base in ((GRASS, (40, 160, 50)), (SKY, (90, 140, 230))):
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
    assert not (tmp_path / "runs").exists()
    trained = output_of(capsys, "train", "nin_dsn", *flags, "--image-size", 16, "--resize", "crop")
    assert "test accuracy 100.00 % (0 errors in 12)" in trained
    run = tmp_path / "runs" / "nin_dsn" / "a"

    evaluated = output_of(capsys, "evaluate", run)
    assert "accuracy 100.00 %" in evaluated
    assert GRASS in evaluated
    others = shutil.copytree(folder, tmp_path / "others")
    # Of all sizes, and all images: the run was not trained on this folder.
    assert "errors in 60" in output_of(capsys, "evaluate", run, "--data", others)
    # With one image less, the folder may be divided in another way.
    (folder / SKY / "00.jpg").rename(tmp_path / "00.jpg")
    for command in ("evaluate", "report"):
        assert "may be among those trained on" in refused(capsys, command, run)
    (tmp_path / "00.jpg").rename(folder / SKY / "00.jpg")
    assert "neither a finished run nor an export" in refused(capsys, "export", others)

    export = tmp_path / "saved_models" / "photographs"
    output_of(capsys, "export", run, "--out", export, "--exits")
    assert "can serve" in output_of(capsys, "verify", export, "--model", run)
    assert "100.00 % accuracy, last epoch: 0 errors in 12" in (export / "README.md").read_text()

    card = (export / "README.md").read_text("utf-8")
    assert markdown(GRASS) in card
    assert GRASS not in card
    assert html.escape(GRASS) in (run / "report.html").read_text("utf-8")
    assert "<b>grass" not in (run / "report.html").read_text("utf-8")

    odd = tmp_path / ODD_FILE
    shutil.copy(folder / SKY / "03.jpg", odd)
    images = [folder / SKY / "03.jpg", folder / GRASS / "04.jpg", odd]
    for model in (run, export):
        answers = output_of(capsys, "predict", model, *images)
        lines = [line.split() for line in answers.splitlines() if ".jpg" in line]
        assert [line[1] for line in lines] == [SKY, GRASS, SKY]
        assert r"\x1b[31m[bold]caf\udce9.jpg" in answers
        assert "\x1b" not in answers
    assert output_of(capsys, "report", run).strip().endswith("report.html")

    broken = tmp_path / "\x1b[31mbroken.png"
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
        assert "\x1b" not in captured.err


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
        "print(port.IsMklEnabled(), os.environ.get('TF_ENABLE_ONEDNN_OPTS'))\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    for chosen, expected in ((None, "True None"), ("0", "False 0")):
        names = ("TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")
        environment = {k: v for k, v in os.environ.items() if k not in names}
        if chosen:
            environment["TF_ENABLE_ONEDNN_OPTS"] = chosen
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert ran.stdout.split("\n")[:2] == [expected, "3"], ran.stderr[-2000:]
        assert not ran.stderr  # TensorFlow's own messages, E0000 too, reach no person
