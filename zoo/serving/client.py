"""A client of TensorFlow Serving's REST API, of the standard library alone: it starts at once."""

import base64
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from zoo import tables
from zoo.errors import ZooError
from zoo.serving import examples
from zoo.text import reason

TOLERANCE = 1e-5
EXPECTED = "http://HOST:8501/v1/models/NAME or grpc://HOST:8500/v1/models/NAME"


class ServerError(ZooError):
    """No answer, or not one of a server that has the model."""


class Refused(ServerError):
    """The server says that the request is wrong."""

    exit_code = 2


def connect(url, *, timeout=10.0, retries=2):
    """A server's model: an object with `post` and `status`; `timeout` is in seconds, a try.

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
        from zoo.serving import grpc_client

        return grpc_client.Server(parts.netloc, model, timeout=timeout, retries=retries)
    return Server(url, timeout=timeout, retries=retries)


class Server:
    """A model behind a server's REST API; see `connect`."""

    def __init__(self, url, *, timeout, retries):
        self.url, self.timeout, self.retries = url, timeout, retries

    def post(self, method, body):
        """The answer to a request: bodies as the REST API has them; `method` is its verb.

        Raises:
            Refused: for a request that is wrong, at once.
            ServerError: when there is no answer after all tries.
        """
        return self._ask(f"{self.url}:{method}", json.dumps(body).encode())

    def status(self):
        """{version: state}; a version answers once it is AVAILABLE. Raises as `post`."""
        found = self._ask(self.url, None)["model_version_status"]
        return {int(each["version"]): each["state"] for each in found}

    def _ask(self, url, body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers)

        def ask():
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _parsed(response.status, response.read())
            except urllib.error.HTTPError as error:
                # Of a server that is starting, loading or full, which can be asked again:
                # predictions change nothing.
                kind = ServerError if error.code == 429 or error.code >= 500 else Refused
                said = _error(error)
                raise kind(f"{self.url} answers {error.code}: {reason(said)}") from error
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", None) or error
                raise ServerError(f"No answer from {self.url}: {cause}") from error

        return retrying(ask, self.retries)


def retrying(ask, retries):
    """What `ask` gives, or its last ServerError; one that is not Refused is tried again."""
    for turn in range(retries + 1):
        try:
            return ask()
        except Refused:
            raise
        except ServerError:
            if turn == retries:
                raise
            # Clients that a server has failed together should not all come back together.
            time.sleep(0.2 * 2**turn * random.uniform(0.5, 1.5))


def show_predictions(server, images, top):
    """Print the `top` classes of each image file, as far as the export names them."""
    ranked, classes = [], 0
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


def check(server, folder, tolerance=None):
    """Whether a server answers the examples in `folder` as Keras did; prints a line for each.

    A probability may be off by `tolerance`; by default 1e-5, since the server's processor may round
    otherwise than that of the export, or what the card says if that is more.

    Raises:
        FileNotFoundError: where there are no examples.
        ServerError: when there is no answer.
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


def _error(error):
    """What the server, or a proxy in front of it, says of its refusal."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return error.reason


def _parsed(status, body):
    try:
        return json.loads(body)
    except ValueError:
        start = body[:80].decode(errors="replace")
        raise ServerError(
            f"The answer, status {status}, is no JSON: {start!r}. Is that TensorFlow Serving?"
        ) from None
