"""A server's answers through the client, and through the client of others, are Keras' answers.

The server is `stand_in.StandIn`; what it imitates, and what not, is said there.
"""

import base64
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from nets_and_images import COLOUR, LABELS, encode, network, pixels, probabilities_of
from stand_in import StandIn

import zoo.commands.main
from zoo import CompanionHead, DeeplySupervised
from zoo import exports as layout
from zoo.serving import client, example_requests, exporting

NAME = "animals"


@pytest.fixture(scope="module")
def supervised():
    return DeeplySupervised(network(), {"conv": CompanionHead(7)})


@pytest.fixture(scope="module")
def base(supervised, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / NAME
    images = pixels(count=3)
    exporting.export_savedmodel(supervised, LABELS, folder, exits=True, images=images)
    return folder


@pytest.fixture(scope="module")
def stand_in(base):
    with StandIn({NAME: base}) as stand_in:
        yield stand_in


@pytest.fixture(params=["http", "grpc"])
def server(stand_in, request):
    return client.connect(stand_in.url(NAME, request.param), timeout=60)


def as_files(images):
    return [{"b64": base64.b64encode(encode(image)).decode()} for image in images]


def in_bytes(images):
    return {"signature_name": "predict_bytes", "instances": as_files(images)}


def test_pixels_and_files_are_answered_as_keras_answers(server, supervised):
    images = pixels(count=4, seed=11)
    expected = probabilities_of(supervised.trunk, images)
    for body in ({"instances": images.tolist()}, in_bytes(images)):
        rows = server.post("predict", body)["predictions"]
        found = np.array([row["probabilities"] for row in rows])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert [row["classes"][0] for row in rows] == [LABELS[i] for i in expected.argmax(axis=1)]
    labels = {"signature_name": "classify"}
    labels["examples"] = [{"image/encoded": file} for file in as_files(images)]
    results = server.post("classify", labels)["results"]
    assert [row[0][0] for row in results] == [LABELS[i] for i in expected.argmax(axis=1)]


def test_the_examples_are_answered_and_a_wrong_one_is_found(server, base, tmp_path, capsys):
    assert client.check(server, base, 1e-6)
    said = capsys.readouterr().out
    for name in ("classify", "exits", "predict", "predict_bytes"):
        assert f"right  {name}: largest difference" in said
    shutil.copytree(base / "1/assets.extra", tmp_path, dirs_exist_ok=True)
    copied = tmp_path / "examples"
    file = copied / "classify.expected.json"
    body = json.loads(file.read_text("utf-8"))
    body["results"][2][0][1] += 2e-6
    file.write_text(json.dumps(body), "utf-8")
    (copied / "predict.json").write_text('{"instances": [[[1]]]}')
    assert not client.check(server, copied, 1e-6)
    said = capsys.readouterr().out
    assert "wrong  classify: largest difference 2." in said
    assert "wrong  predict: " in said
    assert "right  predict_bytes" in said
    shutil.copy(base / "1" / layout.EXAMPLES / "predict.json", copied)
    assert client.check(server, copied), "2e-6 is rounding between processors"
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    (tmp_path / "card.json").write_text(json.dumps({**card, "tolerance": 0.1}), "utf-8")
    body["results"][2][0][1] += 0.05
    file.write_text(json.dumps(body), "utf-8")
    assert client.check(server, copied), "the card allows it"
    assert not client.check(server, copied, 1e-2)
    with pytest.raises(FileNotFoundError, match=r"no examples.*expected an export"):
        client.check(server, tmp_path)


def test_the_example_requests_are_plain_rest(stand_in, base):
    """What `curl -d @examples/NAME.json` sends, and a JSON that has nothing of ours."""
    for example in example_requests.read(base):
        body = (base / "1" / layout.EXAMPLES / f"{example.name}.json").read_bytes()
        request = urllib.request.Request(f"{stand_in.url(NAME)}:{example.method}", body)
        with urllib.request.urlopen(request) as response:
            answered = json.load(response)
        assert example_requests.difference(example, answered, LABELS) < 1e-6


def test_status_and_one_version(stand_in, server):
    assert server.status() == {1: "AVAILABLE"}
    for scheme in ("http", "grpc"):
        url = stand_in.url(NAME, scheme)
        one = client.connect(f"{url}/versions/1")
        assert one.post("predict", in_bytes(pixels(count=1)))["predictions"]
        with pytest.raises(client.Refused, match=r"NOT_FOUND|404"):
            client.connect(f"{url}/versions/7").post("predict", in_bytes(pixels(count=1)))
        with pytest.raises(client.Refused, match=r"NOT_FOUND|404"):
            client.connect(stand_in.url("plants", scheme)).status()


def get(url):
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_metadata_are_the_signatures(stand_in):
    status, body = get(f"{stand_in.url(NAME)}/metadata")
    assert status == 200
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "predict_bytes", "classify", "exits"} < set(signatures)
    (images,) = signatures["serving_default"]["inputs"].values()
    assert images["dtype"] == "DT_FLOAT"
    assert [int(dim["size"]) for dim in images["tensor_shape"]["dim"]] == [-1, *COLOUR]


GOOD = pixels(count=1)
BAD = {
    "not a PNG or JPEG": in_bytes(GOOD) | {"instances": [{"b64": "aGVsbG8="}]},
    "expected shape": {"instances": np.ones((1, 9, 9, 3)).tolist()},
    "Expects arg|expected shape": {"instances": [1.0]},
    "NaN or infinity": {"instances": np.full((1, *COLOUR), np.nan).tolist()},
    "Serving signature key": in_bytes(GOOD) | {"signature_name": "predictions"},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_wrong_request_is_refused_with_its_reason(server, reason):
    with pytest.raises(client.Refused, match=f"(INVALID_ARGUMENT|400): .*({reason})") as refused:
        server.post("predict", BAD[reason])
    assert "function_node" not in str(refused.value)
    assert server.post("predict", in_bytes(GOOD))["predictions"], "the next one is answered"


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"{", b"[]", b"{}", b'{"instances": []}', b'{"instances": 3, "inputs": 3}'],
        *[b'{"instances": [[1, 2], [3]]}', b'{"instances": ["a", 1]}', b'{"instances": [true]}'],
        *[b'{"signature_name": "predict_bytes", "instances": [{"b64": "*"}]}'],
        *[b'{"signature_name": "predict_bytes", "instances": [{"b65": ""}]}'],
        *[b'{"signature_name": "predict_bytes", "instances": [1]}', b"\xff\xfe", b"null"],
    ],
)
def test_a_body_that_is_no_request_is_refused(stand_in, body):
    status, said = get(urllib.request.Request(f"{stand_in.url(NAME)}:predict", body))
    assert status == 400
    assert said["error"]


def test_other_paths_are_refused(stand_in):
    for path in ("", ":predict", "/metadata/x", "/versions/one"):
        assert get(stand_in.url(NAME) + path)[0] == (200 if path == "" else 400), path
    assert get(stand_in.url("plants"))[0] == 404


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with one status after the other, and counts."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.script[min(self.server.asked, len(self.server.script) - 1)]
        self.server.asked += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.asked = 0
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


BUSY = (503, b'{"error": "busy"}')
RIGHT = (200, b'{"predictions": []}')


@pytest.mark.parametrize(
    ("script", "asked", "said"),
    [
        ([BUSY, BUSY, RIGHT], 3, None),
        ([BUSY, RIGHT], 2, None),
        ([BUSY], 3, "answers 503: busy"),
        ([(400, b'{"error": "wrong"}')], 1, "answers 400: wrong"),
        ([(404, b'{"error": "none"}')], 1, "answers 404: none"),
        ([(413, b"<html>of a proxy")], 1, "answers 413: "),
        ([(401, b'{"error": {"code": 7}}')], 1, "answers 401: .*7"),
        ([(500, b"[1]"), (429, b"<html>"), RIGHT], 3, None),
        ([(200, b"<html>hello")], 1, "not JSON: '<html>hello'"),
        ([(302, b"")], 1, "points to nowhere"),
    ],
)
def test_what_may_pass_is_asked_again_and_what_is_wrong_is_not(scripted, script, asked, said):
    scripted.script = script
    server = client.connect(f"http://127.0.0.1:{scripted.server_port}/v1/models/{NAME}")
    if said is None:
        assert server.post("predict", {}) == {"predictions": []}
    else:
        with pytest.raises(client.ServerError, match=said):
            server.post("predict", {})
    assert scripted.asked == asked


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_silent_or_gone_is_an_error_in_time(scheme):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        url = f"{scheme}://127.0.0.1:{port}/v1/models/{NAME}"
        begun = time.perf_counter()
        with pytest.raises(client.ServerError, match=r"timed out|DEADLINE_EXCEEDED|UNAVAILABLE"):
            client.connect(url, timeout=0.3, retries=0).status()
        assert time.perf_counter() - begun > 0.25
    with pytest.raises(client.ServerError, match=r"refused|UNAVAILABLE|DEADLINE"):
        client.connect(url, timeout=5, retries=1).status()


def zoo_predict(*arguments):
    zoo.commands.main.main(["predict", *map(str, arguments)])


def test_the_command_asks_a_server(stand_in, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(GOOD[0]))
    bad.write_bytes(b"hello")
    zoo_predict("--server", stand_in.url(NAME), good, "--top", 2)
    over_rest = capsys.readouterr().out
    zoo_predict("--server", stand_in.url(NAME, "grpc"), good, "--top", 2)
    assert capsys.readouterr().out == over_rest
    zoo_predict(base, good, "--top", 2)
    assert capsys.readouterr().out == over_rest
    zoo_predict("--server", stand_in.url(NAME), "--check", base)
    assert capsys.readouterr().out.count("right") == 4

    def fails(code, *arguments):
        with pytest.raises(SystemExit) as stop:
            zoo_predict(*arguments)
        said = capsys.readouterr().err
        assert stop.value.code == code, said
        assert said.count("\n") == 1, said
        return said

    url = stand_in.url(NAME)
    for where in (["--server", url], ["--server", stand_in.url(NAME, "grpc")], [base]):
        with pytest.raises(SystemExit) as stop:
            zoo_predict(*where, good, bad, good, "--top", 2)
        captured = capsys.readouterr()
        assert stop.value.code == 1
        assert captured.err.count("\n") == 1
        assert "bad.png" in captured.err
        assert captured.out.count("good.png") == 2
        assert "bad.png" not in captured.out
    assert "not a PNG or JPEG image" in fails(2, "--server", url, bad)
    assert "404" in fails(2, "--server", stand_in.url("plants"), good)
    assert "expected http://HOST" in fails(2, "--server", "localhost:8501", good)
    assert "expected http://HOST" in fails(2, "--server", "http://localhost:8501", good)
    assert "no image" in fails(2, "--server", url)
    assert "needs --server" in fails(2, good, "--check", base)
    assert "--timeout" in fails(2, "--server", url, good, "--timeout", 0)
    gone = "http://127.0.0.1:9/v1/models/x"
    assert "No answer" in fails(1, "--server", gone, good, "--retries", 0)
    with pytest.raises(SystemExit) as stop:
        zoo_predict("--server", url, "--check", base / "1", "--tolerance", 0)
    assert stop.value.code == 1


def test_the_client_starts_without_tensorflow_and_without_numpy(stand_in, base):
    picture = next((base / "1" / layout.EXAMPLES).glob("*.png"))
    arguments = ["predict", "--server", stand_in.url(NAME), str(picture)]
    program = f"import sys, zoo.commands.main\nzoo.cli.main({arguments})\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert picture.name in run.stdout, run.stderr
    assert not {"tensorflow", "keras", "numpy"} & set(run.stdout.split())


def test_eight_clients_with_a_hundred_requests_each_of_which_some_are_wrong(stand_in, supervised):
    images = pixels(count=24, seed=21)
    expected = probabilities_of(supervised.trunk, images)
    wrong = list(BAD.values())
    outcomes = []

    def ask(number):
        server = client.connect(stand_in.url(NAME), timeout=120, retries=0)
        random = np.random.default_rng(number)
        for turn in range(100):
            if turn % 20 == number % 20:  # 5 %
                try:
                    server.post("predict", wrong[random.integers(len(wrong))])
                    outcomes.append("a wrong request was answered")
                except client.Refused:
                    outcomes.append("refused")
                continue
            chosen = random.integers(0, len(images), random.integers(1, 4))
            of_pixels = {"instances": images[chosen].tolist()}
            body = of_pixels if turn % 2 else in_bytes(images[chosen])
            rows = server.post("predict", body)["predictions"]
            found = np.array([row["probabilities"] for row in rows])
            right = np.abs(found - expected[chosen]).max() <= 1e-6
            outcomes.append("right" if right else "wrong")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {outcome: outcomes.count(outcome) for outcome in outcomes}
    assert counts == {"right": 760, "refused": 40}


def publish(source, base, number, damage=None):
    """As `zoo export` does: complete under a hidden name, and then renamed."""
    draft = shutil.copytree(source, base / f".draft-{number}")
    if damage:
        damage(draft)
    draft.rename(base / str(number))


def cut_the_graph(version):
    graph = (version / "saved_model.pb").read_bytes()
    (version / "saved_model.pb").write_bytes(graph[: len(graph) // 2])


def lose_the_graph(version):
    (version / "saved_model.pb").unlink()


def spoil_the_warm_up(version):
    import tensorflow as tf

    from zoo.serving import warmup

    log = warmup.predict("x", "serving_default", images=np.ones((1, 9, 9, 3), "float32"))
    with tf.io.TFRecordWriter(str(version / warmup.FILE)) as records:
        records.write(log.SerializeToString())


def test_versions_are_swapped_under_load_and_bad_ones_never_serve(base, supervised, tmp_path):
    first, images = base / "1", pixels(count=2, seed=31)
    other = network(seed=12)
    second = exporting.export_savedmodel(other, LABELS, tmp_path / "other")
    answers = [probabilities_of(model, images) for model in (supervised.trunk, other)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    folder = tmp_path / NAME
    folder.mkdir()
    publish(first, folder, 1)
    seen, stop = [], threading.Event()

    with StandIn({NAME: folder}, poll_seconds=0.02) as stand_in:
        server = client.connect(stand_in.url(NAME), timeout=120, retries=0)

        def load():
            while not stop.is_set():
                try:
                    rows = server.post("predict", in_bytes(images))["predictions"]
                    found = np.array([row["probabilities"] for row in rows])
                    off = [np.abs(found - answer).max() for answer in answers]
                    seen.append(int(np.argmin(off)) if min(off) <= 1e-6 else "wrong")
                except client.ServerError as error:
                    seen.append(str(error))

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        bad = {2: cut_the_graph, 4: spoil_the_warm_up, 6: lose_the_graph}
        for number in range(2, 8):
            source = first if number in (5, 6) else second
            publish(source, folder, number, bad.get(number))
            state = "END" if number in bad else "AVAILABLE"
            while server.status().get(number) != state:
                time.sleep(0.02)
            count = len(seen)  # each thread may still wait for an answer of the version before
            while len(seen) < count + 4:
                assert all(thread.is_alive() for thread in threads)
                time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        states = server.status()
    assert set(seen) == {0, 1}, set(seen)
    assert seen[0] == 0
    assert seen[-1] == 1
    assert {n for n, state in states.items() if state == "AVAILABLE"} == {7}


def test_the_client_of_others_gets_the_same_answers(stand_in, supervised):
    ovmsclient = pytest.importorskip("ovmsclient")
    images = pixels(count=2, seed=41)
    expected = probabilities_of(supervised.trunk, images)
    clients = [
        ovmsclient.make_grpc_client(f"127.0.0.1:{stand_in.grpc_port}"),
        ovmsclient.make_http_client(f"127.0.0.1:{stand_in.rest_port}"),
    ]
    for other in clients:
        inputs = {"images": images.astype("float32")}
        answer = other.predict(inputs=inputs, model_name=NAME, model_version=1)
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
        status = other.get_model_status(model_name=NAME, model_version=1)
        assert status[1]["state"] == "AVAILABLE"
        with pytest.raises(Exception, match="expected shape"):
            other.predict({"images": np.ones((1, 9, 9, 3), "float32")}, NAME, 1)
    # Over gRPC alone: over REST it wants the names of OpenVINO's server, signatureDef.
    metadata = clients[0].get_model_metadata(model_name=NAME, model_version=1)
    assert metadata["inputs"]["images"]["shape"] == [-1, *COLOUR]
