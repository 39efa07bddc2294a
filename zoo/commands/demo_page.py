"""The page of `zoo demo`: an image goes in, and what the model says about it comes out.

The page is made by Gradio, and asks nothing of another machine. What stands in it is escaped by
`zoo.markup`.
"""

import base64
import functools
import io
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import gradio as gr
import numpy as np
import uvicorn
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from PIL import Image, ImageOps

from zoo.data import DataError
from zoo.markup import template
from zoo.terminal import say
from zoo.text import one_line, percent

if TYPE_CHECKING:
    from zoo.commands.looking import Answer, Looking

_TOP = 5
_CANVAS = 280  # pixels, ten times the side of an MNIST image
_LARGEST_FILE = 64 * 2**20  # bytes
_HERE = ("127.0.0.1", "localhost")


def _unbroken(share: float | None) -> str:
    return percent(share).replace(" ", "\N{NO-BREAK SPACE}")


_PARTS: Any = template(Path(__file__).with_name("demo.html.jinja"), {"percent": _unbroken}).module


def serve(looking: "Looking", name: str, opened: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM. The files that were uploaded are removed then.

    Arguments:
        looking: the model.
        name: its name.
        opened: a socket that listens.
    """
    host, port = opened.getsockname()[:2]
    # The server raises the signal again when it has ended. Else the files would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="zoo-demo-") as scratch:
        # Gradio has no arguments for these.
        os.environ.update(GRADIO_TEMP_DIR=scratch, HF_HUB_OFFLINE="1")
        application = _application(page(looking, name, Path(scratch)))
        if host in _HERE:  # a page of another site, whose name leads here, is refused
            application.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_HERE])
        else:
            say(f"Everybody who can reach {host} can use this page.", error=True)
        at = f"[{host}]" if ":" in host else host
        say(f"{name} answers at http://{at}:{port}/ until Ctrl-C.")
        sys.stdout.flush()
        # An open page keeps a connection; the end does not wait for it, and says nothing of it.
        config = uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[opened])


def _application(blocks: Any) -> Any:
    """Return the web application of a page, without links, shares, records and other hosts."""
    fonts = ["system-ui", "sans-serif"]  # those of the machine
    theme = gr.themes.Default(
        primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        blocks,
        path="/",
        theme=theme,
        css=str(_PARTS.style()),
        footer_links=[],
        run_history=False,
        max_file_size=_LARGEST_FILE,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=False,
    )


def page(looking: "Looking", name: str, scratch: Path) -> Any:
    """Return the page as `gradio.Blocks`.

    Arguments:
        looking: the model.
        name: its name.
        scratch: a folder for what is drawn.
    """
    classes = [(str(label), index) for index, label in enumerate(looking.names)]
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title=f"{name}: zoo demo", analytics_enabled=False) as blocks:
        heading = _PARTS.heading(name, looking.image_shape, looking.data, len(classes))
        gr.HTML(heading, padding=False)
        answer = gr.State()
        with gr.Row():
            with gr.Column(min_width=320):
                picture, drawing = _inputs(looking)
            with gr.Column(min_width=320):
                said = gr.HTML(padding=False, elem_id="said")
        with gr.Row():
            with gr.Column(min_width=320, visible=looking.has_maps):
                chosen = gr.Dropdown(classes, label="Where it sees the class", visible=False)
                where = gr.HTML(padding=False, elem_id="where")
            with gr.Column(min_width=320):
                beside = gr.HTML(padding=False, elem_id="beside")
        below = gr.HTML(padding=False, elem_id="below")
        outputs = [answer, said, chosen, where, beside, below]
        look = _looker(looking)
        picture.change(look, picture, outputs, **options)
        draw = _drawer(look, scratch, looking.on_black)
        drawing.input(draw, drawing, outputs, trigger_mode="always_last", **options)
        choose = functools.partial(_map, looking)
        chosen.input(choose, [answer, chosen], where, **options)
    return blocks


def _inputs(looking: "Looking") -> tuple[Any, Any]:
    """Return the two ways in: a file or photograph, and a drawing."""
    with gr.Tab("Picture"):
        picture = gr.Image(
            label="Drop, paste or photograph an image",
            image_mode=None,
            type="filepath",
            height=_CANVAS,
            buttons=[],
            elem_id="picture",
        )
        # Gradio would decode the file, turn it and write it again. The model gets its own bytes.
        vars(picture)["preprocess"] = lambda payload: payload and payload.path
        if looking.examples:
            gr.Examples([str(file) for file in looking.examples], picture, label="Examples")
    with gr.Tab("Draw"):
        paper = Image.new("RGB", (_CANVAS, _CANVAS), "white")
        drawing = gr.ImageEditor(
            {"background": paper, "layers": [], "composite": paper},
            label="Draw with the mouse or a finger",
            type="pil",
            image_mode="RGB",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            buttons=[],
            brush=gr.Brush(default_size=11, colors=["#000000"], color_mode="fixed"),
            canvas_size=(_CANVAS, _CANVAS),
            fixed_canvas=True,
            elem_id="drawing",
        )
    return picture, drawing


def _looker(looking: "Looking") -> Callable[[str | None], tuple[Any, ...]]:
    """Return the function from the path of an image to the values of the outputs."""

    def look(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return _nothing("")
        try:
            answer = looking.answer(Path(path))
        except (DataError, OSError, MemoryError) as error:
            message = one_line(error or "The memory is full.")
            return _nothing(_PARTS.refusal(message.replace(path, Path(path).name)))
        top = int(answer.probabilities.argmax())
        teachers = [(name, _ranked(looking, row)) for name, row in answer.teachers.items()]
        said = _PARTS.answer(_ranked(looking, answer.probabilities), teachers)
        chosen = gr.Dropdown(value=top, visible=answer.maps is not None)
        where, beside = _map(looking, answer, top), _beside(looking, answer)
        return answer, said, chosen, where, beside, _below(looking, answer)

    return look


def _drawer(
    look: Callable[[str | None], tuple[Any, ...]], scratch: Path, on_black: bool
) -> Callable[..., Any]:
    """Return the function from a drawing, black on white, to the values of the outputs.

    A model of images on black gets it white on black.
    """

    def draw(value: dict[str, Any] | None) -> tuple[Any, ...]:
        drawn = value["composite"] if value else None
        if drawn is None or all(low == high for low, high in drawn.getextrema()):
            return look(None)
        with tempfile.NamedTemporaryFile(suffix=".png", dir=scratch) as file:
            (ImageOps.invert(drawn) if on_black else drawn).save(file, "PNG")
            file.flush()
            return look(file.name)

    return draw


def _nothing(said: str) -> tuple[Any, ...]:
    return None, said, gr.Dropdown(visible=False), "", "", ""


def _ranked(looking: "Looking", row: np.ndarray) -> list[tuple[str, float]]:
    return [(str(looking.names[index]), float(row[index])) for index in np.argsort(-row)[:_TOP]]


def _map(looking: "Looking", answer: "Answer | None", index: int) -> str:
    if answer is None or answer.maps is None:
        return ""
    return _PARTS.map(_source(answer.overlay(index)), str(looking.names[index]))


def _beside(looking: "Looking", answer: "Answer") -> str:
    """Return how far to trust the answer, and what each depth says."""
    accuracies = looking.results.get("exits") or {}
    exits = [
        (depth, str(looking.names[int(row.argmax())]), float(row.max()), accuracies.get(depth))
        for depth, row in answer.exits.items()
    ]
    return _PARTS.beside(looking.trust(float(answer.probabilities.max())), exits)


def _below(looking: "Looking", answer: "Answer") -> str:
    """Return the nearest mistakes, and what is not shown."""
    names = [str(name) for name in looking.names]
    mistakes = [
        (_source(each.pixels), names[each.true], names[each.said], each.probability)
        for each in answer.mistakes
    ]
    return _PARTS.below(mistakes, looking.absent)


def _source(pixels: np.ndarray) -> str:
    """Return an image (h, w, c) as the source of an HTML image."""
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
