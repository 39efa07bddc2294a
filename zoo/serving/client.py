"""Classify images with a server, and compare its answers with Keras'."""

import base64
import ipaddress
import json
import re
import reprlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo import tables
from zoo.exports import ExportError
from zoo.serving import example_requests, rest_client
from zoo.serving.servers import EXPECTED, Refused, ServerError
from zoo.terminal import say

__all__ = ["Refused", "ServerError", "check", "connect", "show_predictions"]

TOLERANCE = 1e-5
# Probabilities are float32, and sum to 1 but for rounding.
SUM_TOLERANCE = 1e-3


def connect(
    url: str,
    *,
    timeout: float = 10.0,
    retries: int = 2,
    token: str | None = None,
    ca: Path | None = None,
) -> Any:
    """Return a server's model: an object with `post` and `status`.

    Arguments:
        url: http://HOST:8501/v1/models/NAME, or grpc://HOST:8500/v1/models/NAME. Add /versions/N
            for one version. With TLS, https:// or grpcs://.
        timeout: seconds for one request and its whole answer, with all tries.
        retries: how often a request without an answer is sent again.
        token: a bearer token for the server, or a proxy in front of it. It is sent with TLS, or to
            this machine.
        ca: a PEM file with the certificates to trust, in place of the system's.

    Raises:
        ValueError: for another URL, token or file.
    """
    try:
        address = urlsplit(url)
        host, port = address.hostname or "", address.port
    except ValueError as error:
        raise ValueError(f"Received the server {url!r}: {error}; expected {EXPECTED}.") from None
    model = address.path.removeprefix("/v1/models/")
    named = model and model != address.path and not model.endswith("/")
    place = re.fullmatch(r"[\w.:%-]+", host) and "@" not in address.netloc and port != 0
    if address.scheme not in ("http", "https", "grpc", "grpcs") or not (place and named):
        raise ValueError(f"Received the server {url!r}; expected {EXPECTED}.")
    if address.query or address.fragment:
        raise ValueError(f"Received the server {url!r}, with ? or #; expected {EXPECTED}.")
    with_tls = address.scheme in ("https", "grpcs")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise ValueError("The token has characters that no bearer token has (RFC 6750).")
    if token is not None and not (with_tls or _is_this_machine(host)):
        raise ValueError(
            f"The token would go to {host} unencrypted. Use https:// or grpcs://, or give no token."
        )
    if ca is not None:
        if not with_tls:
            raise ValueError("The certificates to trust are for https:// and grpcs:// alone.")
        try:
            ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise ValueError(f"{ca} holds no certificates in PEM: {error}") from None
    options: dict[str, Any] = {"timeout": timeout, "retries": retries, "token": token, "ca": ca}
    if address.scheme in ("grpc", "grpcs"):
        from zoo.serving import grpc_client  # imports TensorFlow

        return grpc_client.Server(address, **options)
    return rest_client.Server(address, **options)


def show_predictions(
    server: Any,
    images: Sequence[Path],
    top: int,
    read: Callable[[Path], bytes] = Path.read_bytes,
    show: Callable[..., None] | None = None,
) -> list[str]:
    """Print the `top` most probable classes of each image file, or as many as the export names.

    `read` returns the bytes that are sent for a file. `show` gets the images, their (label,
    probability) pairs and the number of classes, in place of `zoo.tables.show_predictions`.

    Returns:
        A message for each image that the server refused.

    Raises:
        ServerError: if there is no answer, or none that an export of the zoo gives.
    """
    classified, ranked, refused, classes = [], [], [], 0
    for image in images:  # one at a time: in a batch, one bad image makes all of them fail
        encoded = base64.b64encode(read(image)).decode()
        body = {"signature_name": "predict_bytes", "instances": [{"b64": encoded}]}
        try:
            answer = server.post("predict", body)
        except Refused as error:
            refused.append(f"{image}: {error}")
            continue
        ranking, classes = _ranking(answer, server.url)
        classified.append(image)
        ranked.append(ranking[:top])
    if classified:
        (show or tables.show_predictions)(classified, ranked, classes)
    return refused


def check(server: Any, folder: Path, tolerance: float | None = None) -> bool:
    """Return whether a server answers the examples as Keras did; print a line for each.

    Arguments:
        server: as `connect` returns it.
        folder: an export, one of its versions, or a folder of examples.
        tolerance: largest difference of a probability. Default: that of the card, and at least
            1e-5, since the server's processor may round otherwise than that of the export.

    Raises:
        FileNotFoundError: if there are no examples.
        ExportError: if the examples are damaged.
        ServerError: if there is no answer.
    """
    folder = example_requests.find(folder)
    good = True
    stored = example_requests.read(folder)
    try:
        labels = (folder.parent / "labels.txt").read_text(encoding="utf-8").splitlines()
        card = json.loads((folder.parent / "card.json").read_text(encoding="utf-8"))
        tolerance = max(TOLERANCE, card["tolerance"]) if tolerance is None else tolerance
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ExportError(
            f"The card or the labels beside {folder} are damaged: {error!r}. Export the model "
            "again."
        ) from error
    for example in stored:
        try:
            answer = server.post(example.method, example.request)
        except Refused as refused:
            good = False
            say(f"wrong  {example.name}: {refused}")
            continue
        if not _alike(example.expected, answer):
            good = False
            say(f"wrong  {example.name}: the answer has another form than that of Keras")
            continue
        difference = example_requests.difference(example, answer, labels)
        good &= difference <= tolerance
        verdict = "right" if difference <= tolerance else "wrong"
        say(
            f"{verdict}  {example.name}: largest difference {difference:.1e}; "
            f"{tolerance:.0e} allowed"
        )
    return good


def _is_this_machine(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ranking(answer, url):
    """Return ([(label, probability)], the number of classes) of the answer for one image."""
    try:
        (row,) = answer["predictions"]
        labels, scores, probabilities = (
            row[name] for name in ("classes", "scores", "probabilities")
        )
        if not (
            all(isinstance(values, list) for values in (labels, scores, probabilities))
            and all(isinstance(label, str) for label in labels)
            and all(map(_is_probability, scores + probabilities))
            and 0 < len(labels) == len(scores) <= len(probabilities)
            and abs(sum(probabilities) - 1) <= SUM_TOLERANCE
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ServerError(
            f"{url} answers {reprlib.repr(answer)}; expected the labels, scores and probabilities "
            "of one image. Is the model an export of `zoo export`?"
        ) from None
    return list(zip(labels, scores, strict=True)), len(probabilities)


def _is_probability(value):
    return type(value) in (int, float) and 0 <= value <= 1 + SUM_TOLERANCE  # so no NaN


def _alike(expected, answer):
    """Return whether an answer has the form of Keras': its names, its lengths and its types."""
    if isinstance(expected, dict):
        same = isinstance(answer, dict) and expected.keys() == answer.keys()
        return same and all(_alike(expected[name], answer[name]) for name in expected)
    if isinstance(expected, list):
        same = isinstance(answer, list) and len(expected) == len(answer)
        return same and all(map(_alike, expected, answer))
    if isinstance(expected, str):
        return isinstance(answer, str)
    return type(answer) in (int, float) and abs(answer) < 1e300  # so no NaN, and no infinity
