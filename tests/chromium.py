"""A headless Chromium, asked through its DevTools protocol on a pipe: no driver is needed.

As a program it takes the picture of a page of `zoo demo` with the answer to an image:

python tests/chromium.py URL IMAGE WIDTH light|dark PICTURE.png
"""

import base64
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), None)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_FLAGS += ("--no-first-run", "--disable-background-networking", "--disable-component-update")
_FLAGS += ("--remote-debugging-pipe", "--hide-scrollbars", "--use-fake-ui-for-media-stream")


class Chromium:
    """A browser with one page; leave it by `close` or `with`.

    Attributes:
        requests: the addresses that the page asked for.
        errors: the errors of its console, and of its program.
    """

    def __init__(self):
        self.requests, self.errors = [], []
        self._number, self._received, self._session = 0, b"", None
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads from 3 and writes to 4. The numbers here must be others.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        shell = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=ends, stderr=subprocess.DEVNULL
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._session = None
        self.ask("Browser.close")
        self._process.wait(10)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def ask(self, method, **arguments):
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(time.monotonic() + 60)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, end):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            read = os.read(self._in, 2**20)
            assert read, "Chromium has ended"
            self._received += read
        message, _, self._received = self._received.partition(b"\0")
        message = json.loads(message)
        self._note(message.get("method"), message.get("params"))
        return message

    def _note(self, method, said):
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url')}")
        elif method == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(json.dumps(said["args"])[:500])

    def value(self, expression):
        """Return the value of an expression of JavaScript."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def wait(self, expression, seconds=60):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"not in {seconds} s: {expression}"
            time.sleep(0.1)
        return value

    def open(self, url, width, theme):
        """Open an address in a window of this width, "light" or "dark"."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])
        self.ask("Page.navigate", url=url)

    def upload(self, selector, file):
        """Give a file to an input."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(Path(file).resolve())])

    def centre(self, selector):
        """Return the place (x, y) of an element, when it is there."""
        element = f"document.querySelector({json.dumps(selector)})"
        place = f"(() => {{ const box = {element}.getBoundingClientRect(); "
        place += "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        self.wait(f"{element} !== null")
        return self.value(place)

    def click(self, selector):
        """Click an element, when it is there."""
        self.stroke([self.centre(selector)] * 2)

    def stroke(self, points):
        """Press the mouse at the first point, move it to the others, and release it."""
        kinds = ["mousePressed", *["mouseMoved"] * 20 * (len(points) - 1), "mouseReleased"]
        steps = [
            (x + (to_x - x) * part / 20, y + (to_y - y) * part / 20)
            for (x, y), (to_x, to_y) in itertools.pairwise(points)
            for part in range(1, 21)
        ]
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        for kind, (x, y) in zip(kinds, [points[0], *steps, points[-1]], strict=True):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
            time.sleep(0.01)

    def picture(self):
        """Return the upper 1455 pixels of the page, as PNG."""
        tall, wide = self.value("[document.documentElement.scrollHeight, innerWidth]")
        clip = {"x": 0, "y": 0, "width": wide, "height": min(tall, 1455), "scale": 1}
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(taken["data"])


def show_answer(browser, url, image, width, theme):
    """Open the page of a demo, give it an image, and wait for the answer."""
    browser.open(url, width, theme)
    browser.upload("#picture input[type=file]", image)
    return browser.wait("document.querySelector('#said .name')?.textContent")


if __name__ == "__main__":
    from PIL import Image

    address, given, wide, colours, file = sys.argv[1:]
    with Chromium() as chromium:
        print(show_answer(chromium, address, given, int(wide), colours))
        time.sleep(1)
        whole = Image.open(io.BytesIO(chromium.picture())).convert("RGB")
        whole.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(file, optimize=True)
        print(*chromium.errors, sep="\n")
        print(*(each for each in chromium.requests if not each.startswith((address, "data:"))))
