"""Ask a server: classify images, and compare its answers with Keras'."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo import tables
from zoo.serving import examples, rest_client
from zoo.serving.servers import EXPECTED, Refused, ServerError

__all__ = ["Refused", "ServerError", "check", "connect", "show_predictions"]

TOLERANCE = 1e-5


def connect(url: str, *, timeout: float = 10.0, retries: int = 2) -> Any:
    """A server's model: an object with `post` and `status`. `timeout` is in seconds per try.

    `url` is http://HOST:8501/v1/models/NAME, with /versions/N behind it for one version; or the
    same with grpc:// and port 8500.

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


def show_predictions(server: Any, images: Sequence[Path], top: int) -> None:
    """Print the `top` classes of each image file, or as many as the export names."""
    ranked: list = []
    classes = 0
    for image in images:  # one by one: in a batch, one bad image costs the others their answers
        encoded = base64.b64encode(image.read_bytes()).decode()
        body = {"signature_name": "predict_bytes", "instances": [{"b64": encoded}]}
        try:
            (row,) = server.post("predict", body)["predictions"]
        except Refused as refused:
            raise Refused(f"{image}: {refused}") from refused
        ranked.append(list(zip(row["classes"], row["scores"], strict=True))[:top])
        classes = len(row["probabilities"])
    tables.show_predictions(images, ranked, classes)


def check(server: Any, folder: Path, tolerance: float | None = None) -> bool:
    """Whether a server answers the examples in `folder` as Keras did; prints a line for each.

    A probability may differ from Keras' by `tolerance`. By default that is what the card says, and
    at least 1e-5, since the server's processor may round otherwise than that of the export.

    Raises:
        FileNotFoundError: if there are no examples.
        ServerError: if there is no answer.
    """
    stored, good = examples.read(folder), True
    labels = (folder.parent / "labels.txt").read_text(encoding="utf-8").splitlines()
    card = json.loads((folder.parent / "card.json").read_text(encoding="utf-8"))
    tolerance = max(TOLERANCE, card["tolerance"]) if tolerance is None else tolerance
    for example in stored:
        try:
            answered = server.post(example.method, example.request)
        except Refused as refused:
            good = False
            print(f"wrong  {example.name}: {refused}")
            continue
        off = examples.difference(example, answered, labels)
        good &= off <= tolerance
        verdict = "right" if off <= tolerance else "wrong"
        print(f"{verdict}  {example.name}: off by {off:.1e} at most; {tolerance:.0e} allowed")
    return good
