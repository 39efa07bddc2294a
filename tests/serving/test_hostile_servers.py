"""Whatever a server answers, the client ends in time, in little memory, and with one plain line.

The servers are in `hostile_servers`, which also asks each of them in a process of its own.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
import tracemalloc
from pathlib import Path

import grpc
import hostile_servers
import pytest
from hostile_servers import EVIL, HTTP, PATH, PICTURE, ROW, SLOW, TIMEOUT, grpc_serving, serving

import zoo.commands.main
from zoo.errors import MOST_SECONDS
from zoo.serving import client, servers

ROOT = Path(__file__).parents[2]
CERTIFICATE = ROOT / "tests/fixtures/localhost_for_tests.pem"
RIGHT = hostile_servers.response({"predictions": [ROW]})
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "picture.png"
    file.write_bytes(PICTURE)
    return file


@pytest.fixture
def fails(capsys):
    """A function that runs `zoo predict`; it returns the one line of the error."""

    def run(code, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            zoo.commands.main.main(["predict", *map(str, arguments)])
        said = capsys.readouterr()
        assert stop.value.code == code, said
        assert said.out == ""
        assert said.err.count("\n") == 1, said
        assert not CONTROL.search(said.err), said
        return said.err

    return run


def address(port, scheme="http", host="127.0.0.1"):
    return f"{scheme}://{host}:{port}{PATH}"


def ask(url, picture, **options):
    """The error of the client for one image; a refusal counts as one."""
    try:
        server = client.connect(url, **{"timeout": 5, "retries": 0} | options)
        refused = client.show_predictions(server, [picture], 1)
    except client.ServerError as error:
        return error
    return client.Refused(*refused) if refused else None


@pytest.mark.parametrize("name", sorted(HTTP.keys() - {"megabytes of brackets"}))  # 1 s
def test_every_server_is_one_error(name, picture):
    with serving(HTTP[name].answer) as port:
        error = ask(address(port), picture)
    assert re.search(HTTP[name].said, str(error))
    assert error.exit_code == HTTP[name].code
    assert len(str(error)) < 800
    assert not CONTROL.search(str(error))


@pytest.mark.parametrize("name", ["a gigabyte", "bytes for ever", "chunks for ever", "gzip"])
def test_a_large_answer_takes_little_memory(name, picture):
    with serving(HTTP[name].answer) as port:
        tracemalloc.start()
        ask(address(port), picture)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize(
    "name",
    ["a stock export", "lists in lists", "codes in an error", "a redirect with codes", "gzip"],
)
def test_the_command_ends_with_one_line(picture, fails, name):
    with serving(HTTP[name].answer) as port:
        options = ("--timeout", "5", "--retries", "0")
        said = fails(HTTP[name].code, "--server", address(port), picture, *options)
    assert re.search(HTTP[name].said, said)


def test_the_time_is_one_for_the_whole_answer_and_all_tries(picture):
    outcomes = {}

    def hold(name):
        with serving(SLOW[name].answer) as port:
            begun = time.monotonic()
            error = ask(address(port), picture, timeout=TIMEOUT, retries=5)
            outcomes[name] = str(error), time.monotonic() - begun

    threads = [threading.Thread(target=hold, args=(name,)) for name in SLOW]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.keys() == SLOW.keys()
    for name, (said, seconds) in outcomes.items():
        assert SLOW[name].said in said, name
        assert 0.9 * TIMEOUT < seconds < TIMEOUT + 1, (name, seconds)
    busy = hostile_servers.response({"error": "busy"}, "503 Busy")
    with serving(busy) as port:
        begun = time.monotonic()
        assert "503: busy" in str(ask(address(port), picture, timeout=TIMEOUT, retries=1000))
        assert time.monotonic() - begun < TIMEOUT + 1


def test_a_second_try_has_the_rest_of_the_time():
    left = []

    def ask(seconds):
        left.append(seconds)
        raise servers.NoAnswer

    with pytest.raises(servers.NoAnswer):
        servers.retrying(ask, 2, 30)
    assert len(left) == 3
    assert 29 < left[0] <= 30
    assert left[1] < left[0] - 0.09
    assert left[2] < left[1] - 0.19


def test_no_thread_stays_with_a_server_that_does_not_end(picture):
    with serving(SLOW["a body by the byte"].answer) as port:
        assert "timed out" in str(ask(address(port), picture, timeout=0.1))
        for thread in [t for t in threading.enumerate() if t.name == "zoo-client"]:
            thread.join(2)
            assert not thread.is_alive()


def test_labels_are_text_and_nothing_else(picture, capsys):
    row = {**ROW, "classes": [EVIL + "\ud800"]}
    with serving(hostile_servers.response({"predictions": [row]})) as port:
        zoo.commands.main.main(["predict", "--server", address(port), str(picture)])
    said = capsys.readouterr().out
    assert not CONTROL.search(said)
    for shown in (r"\x1b[31mred", "[bold]x[/red]", r"\ud800"):
        assert shown in said


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_proxy_stands_between(scheme, picture, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    by = serving(RIGHT) if scheme == "http" else grpc_serving(hostile_servers.tensors())
    with by as port:
        assert ask(address(port, scheme, "localhost"), picture) is None
    assert "cat" in capsys.readouterr().out


@contextlib.contextmanager
def over_tls(scheme, received):
    """A server with the certificate of the tests; the tokens that it gets go to `received`."""
    pem = CERTIFICATE.read_bytes()
    if scheme == "grpcs":

        def answer(context):
            received.append(dict(context.invocation_metadata()).get("authorization"))
            return hostile_servers.tensors()

        with grpc_serving(answer, grpc.ssl_server_credentials([(pem, pem)])) as port:
            yield port
        return

    def reply(connection):
        lines = connection.recv(65536).decode().splitlines()
        tokens = [line.partition(": ")[2] for line in lines if line.startswith("Authorization")]
        received.append(tokens[0] if tokens else None)
        connection.sendall(RIGHT)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    with serving(reply, tls) as port:
        yield port


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_tls_trusts_the_named_authority_alone_and_carries_the_token(
    scheme, picture, tmp_path, monkeypatch, capfd
):
    received = []
    with over_tls(scheme, received) as port:
        there = address(port, scheme, "localhost")
        assert "not trusted" in str(ask(there, picture, retries=9))
        error = ask(address(port, scheme), picture, ca=CERTIFICATE)
        assert re.search(r"not trusted|UNAVAILABLE", str(error)), "it names localhost, no number"
        assert error.exit_code == 1
        assert received == []
        secret = tmp_path / "token"
        secret.write_text("s3cret=\n", "ascii")
        command = ["predict", "--server", there, str(picture), "--ca", str(CERTIFICATE)]
        monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
        zoo.commands.main.main(command)
        assert scheme == "https" or os.environ["GRPC_VERBOSITY"] == "NONE"
        monkeypatch.setenv("ZOO_TOKEN", "of.the-environment")
        zoo.commands.main.main(command)
        zoo.commands.main.main([*command, "--token-file", str(secret)])
        assert capfd.readouterr().out.count("cat") == 3
    assert received == [None, "Bearer of.the-environment", "Bearer s3cret="]


def test_a_server_without_tls_is_no_server_with_it(picture):
    with serving(lambda connection: connection.sendall(RIGHT)) as port:
        assert "No answer" in str(ask(address(port, "https", "localhost"), picture))


def test_a_token_is_sent_with_tls_or_to_this_machine(picture, fails, tmp_path, monkeypatch):
    received = []

    def reply(connection):
        received.append(connection.recv(65536))
        connection.sendall(RIGHT)

    monkeypatch.setenv("ZOO_TOKEN", "s3cret")
    with serving(reply) as port:
        assert ask(address(port), picture, token="s3cret") is None
        assert b"Authorization: Bearer s3cret\r\n" in received[0]
        for scheme in ("http", "grpc"):
            said = fails(2, "--server", address(port, scheme, "192.0.2.1"), picture)
            assert "unencrypted" in said
            assert "s3cret" not in said
        monkeypatch.setenv("ZOO_TOKEN", "two words\r\nHost: x")
        assert "no bearer token" in fails(2, "--server", address(port), picture)
        file = tmp_path / "token"
        file.write_bytes(b"\xff")
        assert "holds no token" in fails(
            2, "--server", address(port), picture, "--token-file", file
        )
        missing = ("--token-file", tmp_path / "none")
        assert "no file" in fails(2, "--server", address(port), picture, *missing)
    assert len(received) == 1


WRONG_FLAGS = {
    "--timeout nan": "--timeout",
    "--timeout inf": "--timeout",
    "--timeout 0": "--timeout",
    "--timeout -1": "--timeout",
    "--timeout 1e12": "--timeout",
    "--retries -1": "--retries",
    "--ca {root}/README.md": "https://",
    "--ca {root}/README.md --server https://localhost/v1/models/x": "no certificates in PEM",
    "--ca nowhere.pem --server grpcs://localhost/v1/models/x": "no certificates in PEM",
    "--server ftp://localhost/v1/models/x": "expected http",
    "--server http:///v1/models/x": "expected http",
    "--server http://[::1/v1/models/x": "expected http",
    "--server http://localhost:99999/v1/models/x": "expected http",
    "--server http://localhost:x/v1/models/x": "expected http",
    "--server http://user:password@localhost/v1/models/x": "expected http",
    "--server http://localhost/v1/models/x?a=b": "expected http",
    "--server grpc://localhost:1/v1/models/x/versions/99999999999999999999": "expected http",
}


@pytest.mark.parametrize("flags", WRONG_FLAGS)
def test_a_wrong_flag_is_one_line(flags, picture, fails):
    words = flags.format(root=ROOT).split()
    if "--server" not in words:
        words += ["--server", "http://127.0.0.1:9/v1/models/x"]
    assert WRONG_FLAGS[flags] in fails(2, picture, *words)


def test_a_flag_of_a_server_needs_one(picture, fails):
    assert "needs --server" in fails(2, "model", picture, "--ca", CERTIFICATE)
    assert "needs --server" in fails(2, "model", picture, "--token-file", CERTIFICATE)


def test_a_host_that_cannot_be_is_no_answer(picture):
    assert "No answer" in str(ask("http://a..b:1/v1/models/x", picture))


def test_every_answer_over_grpc_is_one_error(picture):
    answers = hostile_servers.tensor_answers()
    waiting = iter(answers.values())
    with grpc_serving(lambda _: next(waiting)) as port:
        server = client.connect(address(port, "grpc"), timeout=20, retries=0)
        for name in answers:
            with pytest.raises(client.ServerError) as error:
                client.show_predictions(server, [picture], 1)
            assert error.value.exit_code == 1, name
            assert len(str(error.value)) < 800, name
        assert "RESOURCE_EXHAUSTED" in str(error.value), "the last one is too large"
    with grpc_serving(hostile_servers.tensors()) as port:
        assert ask(address(port, "grpc"), picture) is None


def test_an_error_over_grpc_is_one_line(picture, fails):
    def refuse(context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, EVIL)

    with grpc_serving(refuse) as port:
        assert "second line" in fails(2, "--server", address(port, "grpc"), picture)


@pytest.mark.parametrize("name", ["an SSH banner", "HTML", "silence"])
def test_what_speaks_no_grpc_is_no_answer(name, picture, capfd):
    with serving((HTTP | SLOW)[name].answer) as port:
        begun = time.monotonic()
        error = ask(address(port, "grpc"), picture, timeout=TIMEOUT, retries=3)
        assert time.monotonic() - begun < TIMEOUT + 1
    assert re.search("UNAVAILABLE|DEADLINE_EXCEEDED", str(error))
    assert capfd.readouterr().err == ""


class Fixed:
    """A server that answers every request with one body."""

    def __init__(self, body):
        self.body = body

    def post(self, method, body):
        return self.body


EXAMPLES = next(ROOT.glob("saved_models/digits_nin_dsn/*/assets.extra"))


@pytest.mark.parametrize(
    "name",
    [
        *["an empty object", "no predictions", "a stock export", "predictions as an object"],
        *["predictions as text", "two images", "labels that are numbers", "labels that are lists"],
        "lists in lists, within bounds",
    ],
)
def test_a_wrong_answer_to_an_example_is_wrong(name, capsys):
    _, _, body = HTTP[name].answer.partition(b"\r\n\r\n")
    assert not client.check(Fixed(json.loads(body)), EXAMPLES / "examples")
    said = capsys.readouterr().out
    assert set(re.findall(r"^\w+", said, re.MULTILINE)) == {"wrong"}


def test_a_number_of_an_answer_that_is_none_is_wrong(capsys):
    for spoilt in (float("nan"), float("inf"), "0.5", True, None, [0.5], 10**4000):
        for file in (EXAMPLES / "examples").glob("predict*.expected.json"):
            body = json.loads(file.read_text("utf-8"))
            body["predictions"][0]["probabilities"][0] = spoilt
            assert not client.check(Fixed(body), EXAMPLES / "examples")
    assert "right" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("card.json", b"{}"),
        ("card.json", b"[" * 10**5),
        ("card.json", b'{"tolerance": "x"}'),
        ("labels.txt", b"\xff"),
        ("examples/predict.json", b"[]"),
        ("examples/predict.json", b"\xff"),
        ("examples/predict.expected.json", b""),
        ("examples/predict.expected.json", b'{"predictions": [1]}'),
        ("examples/predict.expected.json", b"[]"),
    ],
)
def test_damaged_examples_are_one_line(file, content, tmp_path, fails):
    shutil.copytree(
        EXAMPLES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.keras")
    )
    (tmp_path / file).write_bytes(content)
    url = "http://127.0.0.1:9/v1/models/x"  # never asked
    assert "damaged" in fails(2, "--server", url, "--check", tmp_path / "examples")


def test_a_port_where_nobody_listens_is_no_answer(picture):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for scheme in ("http", "https", "grpc", "grpcs"):
        assert ask(address(port, scheme), picture).exit_code == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_the_longest_timeout_can_be_waited_for(scheme, picture):
    by = serving(RIGHT) if scheme == "http" else grpc_serving(hostile_servers.tensors())
    with by as port:
        assert ask(address(port, scheme), picture, timeout=MOST_SECONDS) is None
