"""Classify images with a server, and compare its answers with Keras'."""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo import tables
from zoo.serving import example_requests, rest_client
from zoo.serving.servers import EXPECTED, Refused, ServerError

__all__ = ["Refused", "ServerError", "check", "connect", "show_predictions"]

TOLERANCE = 1e-5


def connect(url: str, *, timeout: float = 10.0, retries: int = 2) -> Any:
    """Return a server's model: an object with `post` and `status`.

    Arguments:
        url: http://HOST:8501/v1/models/NAME, or grpc://HOST:8500/v1/models/NAME. Add /versions/N
            for one version.
        timeout: seconds for each try.
        retries: how often a request without an answer is sent again.

    Raises:
        ValueError: for another URL.
    """
    parts = urlsplit(url)
    model = parts.path.removeprefix("/v1/models/")
    named = model and model != parts.path and not model.endswith("/")
    if parts.scheme not in ("http", "https", "grpc") or not parts.hostname or not named:
        raise ValueError(f"Received the server {url!r}; expected {EXPECTED}.")
    if parts.scheme == "grpc":
        from zoo.serving import grpc_client  # imports TensorFlow

        return grpc_client.Server(parts.netloc, model, timeout=timeout, retries=retries)
    return rest_client.Server(url, timeout=timeout, retries=retries)


def show_predictions(
    server: Any, images: Sequence[Path], top: int, read: Callable[[Path], bytes] = Path.read_bytes
) -> list[str]:
    """Print the `top` most probable classes of each image file, or as many as the export names.

    `read` returns the bytes that are sent for a file.

    Returns:
        A message for each image that the server refused.

    Raises:
        ServerError: if there is no answer.
    """
    classified, ranked, refused, classes = [], [], [], 0
    for image in images:  # one at a time: in a batch, one bad image makes all of them fail
        encoded = base64.b64encode(read(image)).decode()
        body = {"signature_name": "predict_bytes", "instances": [{"b64": encoded}]}
        try:
            (row,) = server.post("predict", body)["predictions"]
        except Refused as error:
            refused.append(f"{image}: {error}")
            continue
        classified.append(image)
        ranked.append(list(zip(row["classes"], row["scores"], strict=True))[:top])
        classes = len(row["probabilities"])
    if classified:
        tables.show_predictions(classified, ranked, classes)
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
        ServerError: if there is no answer.
    """
    folder = example_requests.find(folder)
    stored, good = example_requests.read(folder), True
    labels = (folder.parent / "labels.txt").read_text(encoding="utf-8").splitlines()
    card = json.loads((folder.parent / "card.json").read_text(encoding="utf-8"))
    tolerance = max(TOLERANCE, card["tolerance"]) if tolerance is None else tolerance
    for example in stored:
        try:
            answer = server.post(example.method, example.request)
        except Refused as refused:
            good = False
            print(f"wrong  {example.name}: {refused}")
            continue
        difference = example_requests.difference(example, answer, labels)
        good &= difference <= tolerance
        verdict = "right" if difference <= tolerance else "wrong"
        print(
            f"{verdict}  {example.name}: largest difference {difference:.1e}; "
            f"{tolerance:.0e} allowed"
        )
    return good
