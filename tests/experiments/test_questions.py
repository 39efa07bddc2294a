"""Each command of docs/questions.md exists, and the numbers of the cheap ones are right."""

import importlib.util
import re
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from pages import ROOT, blocks

import zoo

pytestmark = pytest.mark.eager

PAGE = ROOT / "docs" / "questions.md"
FILE = ROOT / "benchmarks" / "questions.py"


@pytest.fixture(scope="module")
def questions():
    spec = importlib.util.spec_from_file_location("questions_of_the_page", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def pictures(questions, monkeypatch):
    """Pictures of noise in the place of CIFAR-10, so that the tests need no download."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), "uint8")
    data = SimpleNamespace(images=images, labels=np.arange(40) % 10, label_names=[*"abcdefghij"])
    monkeypatch.setattr(questions, "load", lambda name, split: data)


def answer(questions, number, **settings):
    """Return the rows of an answer as {first cell: other cells}; question 1 has two first cells."""
    columns, rows = questions.QUESTIONS[number - 1](questions.Settings(number, **settings))
    assert {len(row) for row in rows} == {len(columns)}
    assert all(isinstance(cell, str) for row in rows for cell in row)
    keys = 2 if number == 1 else 1
    found = {" ".join(row[:keys]): row[keys:] for row in rows}
    assert len(found) == len(rows)
    return found


def number(cell):
    return float(re.match(r"-?[\d.,e+-]+", cell)[0].replace(",", ""))


def test_the_page_has_ten_questions_with_a_command_that_exists(questions):
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (\d+)\. ", text, re.MULTILINE) == [f"{n}" for n in range(1, 11)]
    commands = [shlex.split(line) for _, block in blocks(PAGE, "sh") for line in block.splitlines()]
    assert all(command[0] in ("python", "zoo") for command in commands)  # test_docs has zoo's
    asked = [command[1:] for command in commands if command[0] == "python"]
    assert {file for file, *_ in asked} == {"benchmarks/questions.py"}
    parsed = [tyro.cli(questions.Settings, args=arguments) for _, *arguments in asked]
    assert [each.question for each in parsed] == [*range(1, 11)]
    assert len(questions.QUESTIONS) == 10
    assert all(each.__doc__.endswith("?") for each in questions.QUESTIONS)


@pytest.mark.parametrize("number", [0, 11])
def test_another_question_is_refused_before_anything_runs(questions, number):
    with pytest.raises(SystemExit, match=f"questions 1 to 10; received {number}"):
        questions.main(questions.Settings(number))


def test_the_first_two_answers_have_a_number_for_each_net(questions):
    for asked, rows in ((1, 4), (2, 5)):
        found = answer(questions, asked, seeds=1, steps=2)
        assert len(found) == rows
        for cells in found.values():
            assert all(np.isfinite(number(cell)) for cell in cells[-2:])
        key = "3 training: mean square gradient of the first kernel, step 1 (1e-6)"
        if asked == 2:
            without, with_ = map(number, found[key])
            assert 0 < without != with_ > 0


def test_a_step_is_the_sum_of_the_gradients_of_all_classifiers(questions, capsys):
    found = answer(questions, 3)
    assert float(re.search(r"but for (\S+) of it", capsys.readouterr().out)[1]) < 1e-4
    # A normal step is the output's gradient alone.
    assert found["the output"] == found["a normal step"]
    assert found["the sum of these three"] == found["a deeply supervised step"]
    assert number(found["a deeply supervised step"][2]) < 0.999


def test_smoothing_is_a_teacher_that_gives_every_class_the_same(questions, pictures, capsys):
    found = answer(questions, 5)
    assert float(re.search(r"at most (\S+) nats", capsys.readouterr().out)[1]) < 1e-5
    assert {cells[0] for cells in found.values()} == {"1.0"}
    for most, least in (cells[1:] for cells in found.values()):
        assert number(most.split()[1]) > number(least.split()[1])


def test_a_temperature_flattens_and_its_gradient_nears_the_limit(questions, pictures):
    found = [[number(cell) for cell in cells] for cells in answer(questions, 6).values()]
    entropy, apart = np.transpose(found)[-2:]
    assert (np.diff(entropy) > 0).all()
    assert entropy[-1] == pytest.approx(np.log(10), abs=0.01)
    assert apart[-1] < 0.1 < apart[0]
    first = np.transpose(found)[0]
    assert (np.diff(first) < 0).all()


def test_one_convolution_finds_what_a_line_separates_and_mlpconv_also_the_other(questions):
    found = answer(questions, 7, steps=80)
    assert found["two corners are both bright"] == ("100", "100")
    line, mlp = map(number, found["two corners are alike"])
    assert line <= 76  # a line is right in three of four cases at most
    assert mlp == 100


def test_the_mlp_is_the_same_everywhere(questions):
    (apart,), (small,), (large,), (own,) = answer(questions, 8).values()
    assert float(apart) < 1e-5
    first, *others = 5 * 5 * 3 * 192 + 192, 192 * 160 + 160, 160 * 96 + 96
    assert number(small) == number(large) == first + sum(others)
    assert number(own) == 1024 * number(small)


def test_pooling_has_no_weights_and_does_not_see_a_move(questions, pictures):
    weights, change, mean, value = answer(questions, 9).values()
    assert weights == ("0", f"{8 * 8 * 10 * 10 + 10:,}")
    assert number(change[0]) < 1e-6 < number(change[1])
    model = zoo.nin(weights="cifar10")
    images = questions.load("cifar10", "test").images.astype("float32")
    right = model.predict(images, verbose=0).argmax(1) == np.arange(40) % 10
    assert number(mean[0]) == pytest.approx(100 * right.mean(), abs=0.06)
    assert 0 <= number(value[0]) <= 100


def test_the_terms_sum_to_what_the_model_minimizes(questions):
    found = answer(questions, 10, steps=2)
    assert len(found) == 10
    rows = [[number(cell) for cell in cells] for cells in found.values()]
    np.testing.assert_allclose(*rows[-2:], rtol=1e-4)
    norm, output, *companions = np.array(rows[:-2])
    w, loss, bracket = np.reshape(companions, (2, 3, 2)).transpose(1, 0, 2)
    np.testing.assert_allclose(bracket, np.maximum(0, w + loss - 0.1), atol=2e-4)
    np.testing.assert_allclose(
        norm + output + questions.WEIGHT * bracket.sum(0), rows[-1], rtol=1e-3
    )
