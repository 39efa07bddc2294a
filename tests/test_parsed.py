"""Whatever a file or a server holds, reading it ends in a value or in one line: never a traceback.

Hypothesis makes the contents up. The same ones each time: `make soak` has the random ones.
"""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo import data, exports, files, programs, recipe, records
from zoo.errors import ZooError
from zoo.exports import ExportError
from zoo.runs import Run, name_of
from zoo.serving import example_requests
from zoo.serving.rest_client import _parsed
from zoo.text import one_line, printable
from zoo.training import checkpoint

quick = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def records_with(*keys):
    """JSON objects that have some of these keys, and any values."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), VALUES, max_size=len(keys))


@contextlib.contextmanager
def one_line_or_right():
    """An error that the command line shows as one line is right; any other is a traceback."""
    message = ""
    try:
        yield
    except (ZooError, OSError) as error:
        message = one_line(error)
    assert "\n" not in message
    assert len(message) < 2000


@quick
@given(st.text())
def test_a_name_is_shown_in_one_line(name):
    shown = printable(name)
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    shown.encode()


@quick
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_checksums_of_any_bytes(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("sums")
    (folder / files.CHECKSUMS).write_bytes(content)
    with one_line_or_right():
        exports.verify_checksums(folder)
        assert not content.strip(), "files that are not there were found to be right"


@quick
@given(
    st.binary(max_size=200)
    | records_with("labels", "input", "exits").map(json.dumps).map(str.encode)
)
def test_a_card_of_any_bytes(tmp_path_factory, content):
    version = tmp_path_factory.mktemp("version") / "1"
    (version / "assets.extra").mkdir(parents=True)
    (version / exports.CARD).write_bytes(content)
    with one_line_or_right():
        assert isinstance(exports.card(version), dict)


@quick
@given(st.binary(max_size=300))
def test_a_graph_of_any_bytes(tmp_path_factory, content):
    version = tmp_path_factory.mktemp("graph")
    (version / exports.PROGRAM).write_bytes(content)
    with pytest.raises(ExportError):
        programs.read(version)


RESULTS = (
    "label_names",
    "accuracy",
    "errors",
    "examples",
    "warnings",
    "evaluated_on",
    "data",
    "exits",
)


@quick
@given(st.binary(max_size=100) | records_with(*RESULTS).map(json.dumps).map(str.encode))
def test_the_results_of_a_run_of_any_bytes(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    for name in ("results", "recipe", "versions"):
        (folder / f"{name}.json").write_bytes(content)
    run = Run(folder)
    for read in (lambda: run.results["accuracy"], lambda: run.label_names, lambda: run.fields):
        with one_line_or_right():
            read()
    with one_line_or_right():
        run.recipe()
    with one_line_or_right():
        assert isinstance(records.read(folder / "versions.json"), dict)


@quick
@given(
    st.binary(max_size=200)
    | st.lists(st.text(max_size=12), max_size=5).map("\n".join).map(str.encode)
)
def test_the_metrics_of_a_run_of_any_bytes(tmp_path_factory, content):
    run = Run(tmp_path_factory.mktemp("run"))
    run.metrics_file.write_bytes(content)
    with one_line_or_right():
        assert all(len(column) >= 0 for column in run.history.values())


@quick
@given(st.binary(max_size=120), st.integers(0, 10**6))
def test_a_commit_of_any_bytes_is_damaged(tmp_path_factory, content, step):
    commit = tmp_path_factory.mktemp("commits") / f"step-{step:010d}"
    commit.mkdir()
    (commit / "meta.json").write_bytes(content)
    (commit / "state.npz").write_bytes(content)
    assert checkpoint.latest_step(commit.parent) is None
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.restore(commit.parent, [])


ARRAYS = st.one_of(
    st.integers(0, 4).map(lambda n: np.zeros((n, 3, 3), "uint8")),
    st.lists(st.integers(-3, 300), max_size=6).map(np.array),
    st.lists(st.floats(), max_size=6).map(np.array),
    st.lists(st.text(max_size=3), min_size=1, max_size=4).map(np.array),
    st.just(np.zeros((6, 3, 3, 2), "int16")),
    st.just(np.arange(54, dtype="float32").reshape(6, 3, 3)),
)
NAMES = st.sampled_from(["images", "labels", "x_train", "y_train", "x_test", "y_test", "other"])


@quick
@given(st.dictionaries(NAMES, ARRAYS, max_size=5))
def test_arrays_of_any_kind(tmp_path_factory, arrays):
    file = tmp_path_factory.mktemp("npz") / "images.npz"
    np.savez(file, **arrays)
    with one_line_or_right():
        images = data.load(file, "train")
        assert images.images.dtype == np.uint8
        assert 0 <= images.labels.min() <= images.labels.max() < images.classes


@quick
@given(st.binary(max_size=200), st.binary(max_size=40), st.booleans())
def test_an_archive_of_any_bytes(tmp_path_factory, content, header, zipped):
    file = tmp_path_factory.mktemp("npz") / "images.npz"
    if zipped:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in ("images", "labels"):
                archive.writestr(f"{name}.npy", b"\x93NUMPY\1\0" + header + content)
        content = packed.getvalue()
    file.write_bytes(content)
    with pytest.raises(data.DataError):
        data.load(file, "train")


@quick
@given(st.binary(max_size=300), st.sampled_from([".png", ".jpg"]))
def test_an_image_of_any_bytes(tmp_path_factory, content, suffix):
    file = tmp_path_factory.mktemp("images") / f"image{suffix}"
    starts = {".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ".jpg": b"\xff\xd8\xff"}
    file.write_bytes(starts[suffix] + content)
    with one_line_or_right():
        assert data.read_image(file, (8, 8, 3)).shape == (8, 8, 3)


@quick
@given(st.binary(max_size=200) | VALUES.map(json.dumps).map(str.encode))
def test_an_answer_of_any_bytes(content):
    with one_line_or_right():
        _parsed(content, "http://127.0.0.1:1")


@quick
@given(
    records_with("signature_name", "instances", "examples"), records_with("predictions", "results")
)
def test_examples_of_any_kind(tmp_path_factory, request_body, expected):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "predict.json").write_text(json.dumps(request_body), encoding="utf-8")
    (folder / "predict.expected.json").write_text(json.dumps(expected), encoding="utf-8")
    with one_line_or_right():
        (example,) = example_requests.read(folder)
        with contextlib.suppress(ValueError, KeyError):  # `verify` shows them as a failed check
            example_requests.difference(example, expected, ["a", "b"])


@quick
@given(st.text(max_size=400))
def test_a_run_has_a_name_that_a_folder_can_have(tmp_path_factory, text):
    name = name_of(recipe.Recipe(data=text))
    assert 0 < len(name.encode()) <= 255
    (tmp_path_factory.getbasetemp() / name).mkdir(exist_ok=True)
