"""A client of TensorFlow Serving's REST API. It needs the standard library alone.

The server is not trusted. One deadline holds for the whole answer, which has a largest size and no
compression. No redirect is followed, and no proxy is used.
"""

import contextlib
import http.client
import json
import reprlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote

from zoo.serving.servers import NoAnswer, Refused, ServerError, retrying, shown, untrusted
from zoo.text import reason

# An image has some 20 bytes for each class. JSON of nothing but brackets takes 24 times its size
# in memory.
MAX_ANSWER = 2 * 2**20
MAX_MORE = 2**18


class Server:
    """A model behind a server's REST API; see `zoo.serving.client.connect`."""

    def __init__(
        self,
        address: SplitResult,
        *,
        timeout: float,
        retries: int,
        token: str | None = None,
        ca: Path | None = None,
    ) -> None:
        self.url, self.timeout, self.retries = address.geturl(), timeout, retries
        self._host, self._port = address.hostname, address.port
        self._path = quote(address.path, safe="/%")
        self._tls = ssl.create_default_context(cafile=ca) if address.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def post(self, method: str, body: dict) -> dict:
        """Send a request and return the answer. Both are bodies of the REST API.

        `method` is the verb of the API: predict or classify. An answer may have 2 MiB, and 256 KiB
        more for each image.

        Raises:
            Refused: if the request is wrong; at once.
            ServerError: if there is no answer in time, or none that is JSON.
        """
        images = body.get("instances", body.get("examples"))
        limit = MAX_ANSWER + MAX_MORE * (len(images) if isinstance(images, list) else 1)
        return self._ask("POST", f"{self._path}:{method}", json.dumps(body).encode(), limit)

    def status(self) -> dict[int, str]:
        """{version: state}. A version answers once it is AVAILABLE. Raises as `post`."""
        answer = self._ask("GET", self._path, None, MAX_ANSWER)
        try:
            states = answer["model_version_status"]
            return {int(state["version"]): str(state["state"]) for state in states}
        except (KeyError, TypeError, ValueError):
            raise ServerError(f"{self.url} answers no status: {reprlib.repr(answer)}") from None

    def _ask(self, verb, path, body, limit):
        def ask(seconds):
            response, content = self._exchange(verb, path, body, limit, seconds)
            self._refuse_other_than_success(response, content)
            if response.getheader("Content-Encoding", "identity").lower() != "identity":
                raise ServerError(f"{self.url} answers compressed; nobody asked for that.")
            if len(content) > limit:
                raise ServerError(f"{self.url} answers more than {limit:,} bytes.")
            if response.length:
                raise NoAnswer(f"No answer from {self.url}: {response.length} bytes are missing")
            return _parsed(content, self.url)

        return retrying(ask, self.retries, self.timeout)

    def _refuse_other_than_success(self, response, content):
        status = response.status
        if 300 <= status < 400:
            place = shown(response.getheader("Location", "nowhere"))
            raise ServerError(
                f"{self.url} answers {status}, which points to {place}. The client follows no "
                "redirect; give the address of the server itself."
            )
        if status != 200:
            # A server that starts, loads or is full can be asked again, since a prediction changes
            # nothing.
            may_pass = status == 429 or status >= 500
            kind = NoAnswer if may_pass else Refused if status >= 400 else ServerError
            message = shown(reason(_error(content) or response.reason))
            raise kind(f"{self.url} answers {status}: {message}")

    def _exchange(self, verb, path, body, limit, seconds):
        """Send a request. Return the response, and its content if that is within the limit.

        The time limit of a socket is one for each of its reads. So another thread talks to the
        server, and its socket is shut down when the time is over.
        """
        connection, outcome = self._connection(seconds), []

        def talk():
            try:
                connection.connect()
                sockets.append(connection.sock)  # http.client may forget it
                connection.request(verb, path, body, self._headers)
                response = connection.getresponse()
                outcome.append((response, response.read(limit + 1)))
            except Exception as error:  # raised below, in the thread that asks
                outcome.append(error)
            finally:
                connection.close()

        sockets: list[socket.socket] = []
        thread = threading.Thread(target=talk, name="zoo-client", daemon=True)
        thread.start()
        thread.join(seconds)
        if not outcome:
            for opened in sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
            raise NoAnswer(f"No answer from {self.url}: timed out after {seconds:.1f} s")
        (result,) = outcome
        if isinstance(result, ssl.SSLCertVerificationError):
            raise untrusted(self.url, result.verify_message)
        if isinstance(result, (OSError, http.client.HTTPException, ValueError)):
            raise NoAnswer(f"No answer from {self.url}: {shown(result)}") from result
        if isinstance(result, Exception):
            raise result
        return result

    def _connection(self, seconds):
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=seconds, context=self._tls
        )


def _error(content):
    """Return the message of the server, or "" if that is a proxy with a page of its own."""
    try:
        return str(_json(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _parsed(content, url):
    try:
        answer = _json(content)
        if not isinstance(answer, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        start = content[:80].decode(errors="replace")
        raise ServerError(
            f"The answer of {url} is not JSON: {start!r} ({shown(error)}). Is that TensorFlow "
            "Serving?"
        ) from None
    return answer


def _json(content: bytes) -> Any:
    return json.loads(content.decode(), object_pairs_hook=_named_once)


def _named_once(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields
