"""The page of `zoo demo` in a real browser. It needs Gradio and Chromium."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium, show_answer

pytest.importorskip("gradio", reason='needs Gradio: pip install -e ".[demo]"')
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")

EXPORT = Path(__file__).parents[2] / "saved_models" / "digits_nin_dsn"
SEVEN = EXPORT / "1" / "assets.extra" / "examples" / "00004_7.png"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def url(scratch, chromium):
    """The address of a demo in a process of its own.

    SIGTERM ends it while the browser still shows its page, and nothing stays.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "zoo", "demo", str(EXPORT), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)}
    )
    line = next(line for line in process.stdout if "answers at" in line)
    address = f"http://127.0.0.1:{port}/"
    assert address in line
    yield address
    chromium.open(address, 390, "dark")
    chromium.wait("document.querySelector('.zoo h1') !== null")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(scratch.glob("zoo-demo-*"))


@pytest.fixture
def browser(chromium):
    """The browser, with nothing noted and an empty page."""
    chromium.ask("Page.navigate", url="about:blank")
    chromium.errors.clear()
    chromium.requests.clear()
    return chromium


def check_quiet(browser, url):
    """The page had no error, and asked this address for everything."""
    assert browser.errors == []
    assert len(browser.requests) > 10
    for request in browser.requests:
        assert request.startswith((url, "data:", "blob:")), request


@pytest.mark.parametrize(
    ("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_an_image_goes_in_and_its_answer_comes_out(width, theme, url, browser):
    assert show_answer(browser, url, SEVEN, width, theme) == "7"
    browser.wait("document.querySelector('#where img')?.naturalWidth === 336")
    shown = browser.value("document.body.innerText")
    for part in ("How far to trust it", "What each depth says", "mlpconv1", "nearest mistakes"):
        assert part in shown, part
    assert browser.value("document.querySelector('#below img').naturalWidth") == 8
    # No scrolling to the side, and text that stands out from its ground.
    assert browser.value("document.documentElement.scrollWidth") <= width
    luminance = """(() => {
        const grey = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
        const ground = grey(getComputedStyle(document.body).backgroundColor);
        const texts = [...document.querySelectorAll('.zoo p, .zoo li, .zoo td')];
        return texts.map((text) => Math.abs(grey(getComputedStyle(text).color) - ground));
    })()"""
    assert min(browser.value(luminance)) > 3 * 100
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")
    check_quiet(browser, url)


def test_another_class_shows_another_map(url, browser):
    show_answer(browser, url, SEVEN, 1280, "light")
    first = browser.wait("document.querySelector('#where img')?.src")
    time.sleep(0.5)  # the page may still move
    browser.click("input[role=combobox]")
    browser.click("li[role=option][data-index='3']")
    browser.wait(f"document.querySelector('#where img')?.src !== {json.dumps(first)}")
    assert browser.value("document.querySelector('#where img').alt") == "Confidence map of 3"
    check_quiet(browser, url)


def test_what_is_no_image_is_one_line_on_the_page(url, browser, tmp_path):
    (tmp_path / "notes <b>.png").write_text("no image")
    browser.open(url, 390, "light")
    browser.upload("#picture input[type=file]", tmp_path / "notes <b>.png")
    told = browser.wait("document.querySelector('#said [role=alert]')?.textContent")
    assert "\n" not in told.strip()
    assert "predict_bytes refuses its input" in told
    assert "zoo-demo-" not in told
    shown = browser.value("document.body.innerText")
    assert "Traceback" not in shown
    assert "What each depth says" not in shown
    assert browser.requests


def test_a_drawing_is_seen_as_the_test_images_are(url, browser):
    browser.open(url, 1280, "light")
    browser.wait("""(() => {
        document.querySelectorAll('button[role=tab]')[1]?.click();
        return document.querySelector('#drawing canvas') !== null;
    })()""")
    time.sleep(2)  # the canvas is drawn
    x, y = browser.centre("#drawing canvas")
    browser.stroke([(x, y - 100), (x, y), (x, y + 100)])
    assert browser.wait("document.querySelector('#said .name')?.textContent") == "1"
    check_quiet(browser, url)


def test_another_name_of_this_machine_is_refused(url):
    request = urllib.request.Request(url, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
    assert urllib.request.urlopen(url, timeout=10).status == 200
