"""A client of TensorFlow Serving's REST API. It needs the standard library alone."""

import http.client
import json
import urllib.error
import urllib.request

from zoo.serving.servers import Refused, ServerError, retrying
from zoo.text import reason


class Server:
    """A model behind a server's REST API; see `zoo.serving.client.connect`."""

    def __init__(self, url: str, *, timeout: float, retries: int) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries

    def post(self, method: str, body: dict) -> dict:
        """Send a request and return the answer. Both are bodies of the REST API.

        `method` is the verb of the API: predict or classify.

        Raises:
            Refused: if the request is wrong; at once.
            ServerError: if there is no answer after all tries.
        """
        return self._ask(f"{self.url}:{method}", json.dumps(body).encode())

    def status(self) -> dict[int, str]:
        """{version: state}. A version answers once it is AVAILABLE. Raises as `post`."""
        states = self._ask(self.url, None)["model_version_status"]
        return {int(state["version"]): state["state"] for state in states}

    def _ask(self, url, body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers)

        def ask():
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _parsed(response.status, response.read())
            except urllib.error.HTTPError as error:
                # A server that starts, loads or is full can be asked again, since a prediction
                # changes nothing.
                kind = ServerError if error.code == 429 or error.code >= 500 else Refused
                message = _error(error)
                raise kind(f"{self.url} answers {error.code}: {reason(message)}") from error
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", None) or error
                raise ServerError(f"No answer from {self.url}: {cause}") from error

        return retrying(ask, self.retries)


def _error(error):
    """The message of the server, or of a proxy in front of it."""
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
            f"The answer, status {status}, is not JSON: {start!r}. Is that TensorFlow Serving?"
        ) from None
