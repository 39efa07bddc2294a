"""`zoo verify` passes what may be served, and finds each thing that may not."""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from nets_and_images import COLOUR, GREY, LABELS, network, pixels, probabilities_of
from oracles import softmax
from tensorflow.core.protobuf import saved_model_pb2

import zoo.commands.main
from zoo import CompanionHead, DeeplySupervised
from zoo import exports as layout
from zoo.serving import _c_api, exporting, hostile_inputs, signatures, verifying, warmup
from zoo.serving._c_api import Stopped
from zoo.serving.server_runtime import ServerRuntime


def failed(checks):
    return [check.name for check in checks if not check.passed]


@pytest.fixture(scope="module")
def supervised():
    return DeeplySupervised(network(), {"conv": CompanionHead(7)})


@pytest.fixture(scope="module")
def version(supervised, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "animals"
    return exporting.export_savedmodel(supervised, LABELS, folder, exits=True)


@pytest.fixture(scope="module")
def server(version):
    with ServerRuntime(version) as server:
        yield server


def copied(version, tmp_path):
    return shutil.copytree(version, tmp_path / "1")


def test_a_good_export_passes_every_check(version, supervised):
    checks = verifying.verify(version.parent, model=supervised)
    assert not failed(checks), checks
    assert [check.name for check in checks] == [
        *("checksums", "graph", "loads", "card"),
        *("Keras, classify", "Keras, exits", "Keras, predict", "Keras, predict_bytes"),
        *("Keras, the model", "warm-up", "batches", "PNG and JPEG"),
        *("wrong shapes, ranks, types", "56 malformed images", "after all that"),
        *("largest batches", "costly files", "beside it"),
    ]
    for check in checks[-6:-4]:
        assert "0 aborts, 0 hangs, 0 answered, 0 unclear" in check.found


@pytest.mark.parametrize("shape", [COLOUR, GREY, (28, 28, 1), (32, 32, 3)])
def test_what_is_sent_is_wrong_in_at_least_60_and_46_different_ways(shape):
    tensors = hostile_inputs.wrong_tensors(shape, b"png")
    right = [a for s, a in tensors if s == "serving_default" and a.shape[1:] == shape and len(a)]
    assert all(array.dtype != "float32" or not np.isfinite(array).all() for array in right)
    assert len({(s, a.shape, a.dtype, repr(a.tolist())) for s, a in tensors}) == len(tensors) >= 60
    files = hostile_inputs.malformed_images(shape[-1])
    assert len(set(files.values())) == len(files) >= 46


def test_another_model_is_told_apart(server, version, supervised):
    weights = supervised.get_weights()
    kernel = max(range(len(weights)), key=lambda index: weights[index].size)
    other = DeeplySupervised(network(), {"conv": CompanionHead(7)})
    weights[kernel] = weights[kernel] * (1 + 1e-4)
    other.set_weights(weights)
    assert failed(verifying.answers(server, version, model=other)) == ["Keras, the model"]


def test_a_model_without_the_exits_is_told_apart(server, version, supervised):
    checks = verifying.answers(server, version, model=supervised.trunk)
    assert failed(checks) == ["Keras, the model"]


def swap_labels(version):
    labels = (version / layout.LABELS).read_text("utf-8").splitlines()
    (version / layout.LABELS).write_text("\n".join([labels[1], labels[0], *labels[2:]]), "utf-8")


def break_a_warm_up_request(version):
    log = warmup.predict("animals", "predict_bytes", image_bytes=np.array([b"no image"], object))
    with tf.io.TFRecordWriter(str(version / warmup.FILE)) as records:
        records.write(log.SerializeToString())


def empty_the_warm_up(version):
    (version / warmup.FILE).write_bytes(b"")


def change_an_expected_answer(version):
    file = version / layout.EXAMPLES / "exits.expected.json"
    body = json.loads(file.read_text("utf-8"))
    body["predictions"][1]["conv"][2] += 2e-5  # twice the tolerance
    file.write_text(json.dumps(body), "utf-8")


def edit_the_graph(change):
    def edit(version):
        saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
        change(saved.meta_graphs[0])
        (version / "saved_model.pb").write_bytes(saved.SerializeToString())

    return edit


def an_operation_of_another_library(graph):
    graph.graph_def.library.function[0].node_def[0].op = "MyDecoder"


def an_output_that_rest_cannot_write(graph):
    output = graph.signature_def["serving_default"].outputs["probabilities"]
    output.dtype = tf.bfloat16.as_datatype_enum


def another_tag(graph):
    graph.meta_info_def.tags[:] = ["train"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (swap_labels, ["Keras, predict", "Keras, predict_bytes"]),
        (break_a_warm_up_request, ["warm-up"]),
        (empty_the_warm_up, ["warm-up"]),
        (change_an_expected_answer, ["Keras, exits"]),
    ],
)
def test_what_does_not_belong_to_the_graph_is_found(server, version, tmp_path, damage, expected):
    broken = copied(version, tmp_path)
    damage(broken)
    assert failed(verifying.verify(broken)) == ["checksums"]
    assert failed(verifying.answers(server, broken)) == expected


def write_nonsense(version):
    (version / "saved_model.pb").write_bytes(b"no graph")


def lose_the_card(version):
    (version / layout.CARD).unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (edit_the_graph(an_operation_of_another_library), "graph"),
        (edit_the_graph(an_output_that_rest_cannot_write), "graph"),
        (edit_the_graph(another_tag), "graph"),
        (write_nonsense, "graph"),
        (lose_the_card, "card"),
    ],
)
def test_what_would_not_load_is_found(version, tmp_path, damage, expected):
    broken = copied(version, tmp_path)
    damage(broken)
    layout.write_checksums(broken)  # by someone who knows how
    assert failed(verifying.verify(broken)) == [expected]


def test_weights_that_are_too_large_for_the_graph_are_variables(tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "_MOST_CONSTANTS", 0)
    version = exporting.export_savedmodel(network(), LABELS, tmp_path / "animals")
    sizes = dict(tf.train.list_variables(str(version / "variables/variables")))
    assert [3, 3, 3, 8] in sizes.values()
    with ServerRuntime(version) as server:
        assert not failed(verifying.answers(server, version))
    (version / "variables/variables.index").write_bytes(b"")
    layout.write_checksums(version)
    assert failed(verifying.verify(version)) == ["loads"]


def change_the_weights(graph):
    """Write other numbers into the constants of an export."""
    (net,) = (f for f in graph.graph_def.library.function if "program" in f.signature.name)
    for node in net.node_def:
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tensor.dtype == tf.float32.as_datatype_enum:
            tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(tensor) + np.float32(0.1)))


def test_other_weights_are_found(version, tmp_path):
    other = copied(version, tmp_path)
    edit_the_graph(change_the_weights)(other)
    with ServerRuntime(other) as server:
        checks = failed(verifying.answers(server, other))
    expected = {"Keras, predict", "Keras, predict_bytes", "Keras, classify", "Keras, exits"}
    assert expected <= set(checks)


def unguarded(monkeypatch, tmp_path, **missing):
    """An export that lacks guards, as if its own check had not found it."""
    with monkeypatch.context() as patch:
        for name, value in missing.items():
            patch.setattr(f"zoo.serving.signatures.{name.replace('__', '.')}", value)
        patch.setattr(exporting, "_check_answers", lambda *_: {1: 0.001})
        return exporting.export_savedmodel(network(), LABELS, tmp_path / "animals")


def test_missing_shapes_are_found_as_aborts_and_as_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # whose convolutions abort on a wrong rank
    version = unguarded(monkeypatch, tmp_path, tf__ensure_shape=lambda x, shape: x)
    ranks = [("serving_default", {"images": np.ones(s, "float32")}) for s in (COLOUR, (12, 3))]
    sizes = [("serving_default", {"images": np.ones((1, n, n, 3), "float32")}) for n in (16, 24)]
    with ServerRuntime(version) as server:
        check = verifying.refused("it", server, [*ranks, *sizes])
    assert not check.passed
    assert "4 requests: 2 aborts, 0 hangs, 2 answered" in check.found


def test_every_other_guard_that_is_missing_is_found(monkeypatch, tmp_path):
    decode = tf.io.decode_jpeg
    version = unguarded(
        monkeypatch,
        tmp_path,
        tf__debugging__check_numerics=lambda x, _: x,
        decoding__MAX_BYTES=2**30,
        decoding__MAX_PIXELS=2**40,
        tf__io__decode_jpeg=lambda file, channels, dct_method: decode(file, channels),
    )
    files = hostile_inputs.malformed_images(3).items()
    files = {name: file for name, file in files if "16 MiB" in name or "8000" in name}
    monkeypatch.setattr(hostile_inputs, "malformed_images", lambda _: files)
    checks = {check.name: check for check in verifying.verify(version)}
    of_files = ["Keras, classify", "Keras, predict_bytes", "PNG and JPEG"]  # the coarse DCT
    assert failed(checks.values())[:4] == [*of_files, "wrong shapes, ranks, types"]
    assert "7 answered" in checks["wrong shapes, ranks, types"].found  # NaN and infinity
    assert "6 requests: 0 aborts, 0 hangs, 6 answered" in checks["3 malformed images"].found


def test_a_missing_bound_of_the_batch_or_of_the_cost_is_found(monkeypatch, tmp_path):
    version = unguarded(
        monkeypatch,
        tmp_path,
        _few=lambda batch, _: batch,
        decoding___paid=lambda encoded, left, *_: (encoded, left),
    )
    name = "JPEG, eight of 480 scans"
    requests = {name: hostile_inputs.costly_requests()[name]}
    monkeypatch.setattr(hostile_inputs, "costly_requests", lambda: requests)
    with ServerRuntime(version) as server:
        batches, costs = verifying._bounds(server, version)
    assert not batches.passed
    assert "257 images to classify" in batches.found
    assert not costs.passed
    assert name in costs.found


def test_the_card_of_an_older_zoo_claims_no_bounds(server, version, tmp_path):
    older = copied(version, tmp_path)
    facts = json.loads((older / layout.CARD).read_text("utf-8"))
    del facts["input"]["max_batch"]
    (older / layout.CARD).write_text(json.dumps(facts), "utf-8")
    assert verifying._bounds(server, older) == []


def test_a_request_without_an_answer_is_a_hang_and_the_next_one_is_answered(version):
    images = {"images": pixels().astype("float32")}
    with ServerRuntime(version) as server:
        expected = server("serving_default", images)["probabilities"]
        server.runtime.timeout = 3
        os.kill(server.runtime.child.pid, signal.SIGSTOP)
        with pytest.raises(Stopped, match="no answer in 3 s"):
            server("serving_default", images)
        server.runtime.timeout = 60
        again = server("serving_default", images)["probabilities"]
    np.testing.assert_array_equal(again, expected)


def test_all_outputs_come_back_as_they_are(server, supervised):
    images = pixels().astype("float32")
    answer = server("serving_default", {"images": images})
    expected = probabilities_of(supervised.trunk, images)
    assert {name: array.dtype.name for name, array in answer.items()} == {
        "probabilities": "float32",
        "class_ids": "int32",
        "classes": "object",
        "scores": "float32",
    }
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(answer["class_ids"], np.argsort(-expected, axis=1)[:, :5])
    names = np.array([LABELS[index].encode() for index in answer["class_ids"].flat], object)
    np.testing.assert_array_equal(answer["classes"].ravel(), names)


def test_the_exits_are_the_probabilities_of_every_depth(server, supervised):
    images = pixels().astype("float32")
    answer = server("exits", {"images": images})
    logits = supervised.exits(images)
    assert set(answer) == set(logits) == {"conv", "output"}
    for depth, scores in logits.items():
        expected = softmax(scores)
        np.testing.assert_allclose(answer[depth], expected, atol=1e-6)
    assert np.abs(answer["conv"] - answer["output"]).max() > 1e-3


def test_exits_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(layout.ExportError, match="expected a DeeplySupervised with companions"):
        exporting.export_savedmodel(network(), LABELS, tmp_path / "animals", exits=True)
    assert not list(tmp_path.iterdir())


def test_the_card_beside_the_versions_describes_the_newest(version, tmp_path):
    base = shutil.copytree(version.parent, tmp_path / "animals")
    newer = exporting.export_savedmodel(network(seed=9), LABELS, base)
    assert newer.name == "2"
    found = "the card describes version 2"  # and its checksums agree
    assert verifying.beside(newer) == verifying.Check("beside it", True, found)
    assert "not checked" in verifying.beside(base / "1").found
    shutil.copy(version.parent / "card.json", base)
    assert not verifying.beside(newer).passed


def test_copies_that_an_older_zoo_put_beside_the_versions_may_stay_if_equal(version, tmp_path):
    base = shutil.copytree(version.parent, tmp_path / "animals")
    only = base / version.name
    shutil.copy(only / layout.LABELS, base)
    shutil.copytree(only / layout.EXAMPLES, base / "examples")
    assert verifying.beside(only).passed
    for stale in (base / "examples" / "predict.json", base / "labels.txt"):
        stale.write_text("older", "utf-8")
        check = verifying.beside(only)
        assert not check.passed
        assert "delete it" in check.found


def test_the_command_prints_a_table_and_its_exit_code_is_honest(version, tmp_path, capsys):
    zoo.commands.main.main(["verify", str(version.parent)])
    said = capsys.readouterr().out
    assert "can serve" in said
    assert "WRONG" not in said
    broken = copied(version, tmp_path)
    file = broken / "saved_model.pb"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        zoo.commands.main.main(["verify", str(broken)])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "WRONG" in said
    assert "1 of 1 checks failed" in said
    for wrong in ([tmp_path / "none"], [version, "--timeout", "0"], [version, "--model", "none"]):
        with pytest.raises(SystemExit) as stop:
            zoo.commands.main.main(["verify", *map(str, wrong)])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_child_is_started_from_the_file_alone():
    """It must not import TensorFlow's Python, which would check what the server does not."""
    source = pathlib.Path(_c_api.__file__).read_text("utf-8")
    assert "import tensorflow" not in source
