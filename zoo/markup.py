"""Text for Markdown, HTML and a shell, so that no name is taken for markup or a command.

Names of classes, files and models come from anywhere. What is shown on a terminal goes through
`zoo.terminal`.
"""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.text import printable

if TYPE_CHECKING:
    import jinja2

# Entities mean no structure to any renderer. An underscore within a word means none either.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$#{}]|(?<![^\W_])_|_(?![^\W_])")


class Markdown(str):
    """Markdown that is ready: a template does not escape it again."""


def markdown(text: object) -> Markdown:
    """Return the text as it must stand in Markdown, also in a table, to be shown as it is."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(lambda match: f"&#{ord(match[0])};", printable(text)))


def code(text: object) -> Markdown:
    """Return the text as code within a line of Markdown, also in a table."""
    text = printable(text)
    if text.strip() == text and text and not set("`|") & set(text):
        return Markdown(f"`{text}`")
    return Markdown(f"<code>{markdown(text)}</code>")


def shell(*words: object) -> str:
    """Return a command line of these words, as one types it in bash, in one `printable` line."""
    return " ".join(map(_quoted, map(str, words)))


def python(text: str) -> str:
    """Return a text as a literal of Python, in one `printable` line."""
    plain = printable(text) == text and not set('"\\') & set(text)
    return f'"{text}"' if plain else ascii(text)


def _quoted(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    characters = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{''.join(characters)}'"


def template(file: Path, filters: dict[str, Callable[..., Any]]) -> "jinja2.Template":
    """Return a template of HTML or Markdown (.html.jinja, .md.jinja); it escapes all values.

    Arguments:
        file: the file of the template.
        filters: the filters that it has beside `shell` and `python`, which write a word of a
            command and a text of Python, and `code` in Markdown.
    """
    import jinja2

    of_html = file.name.endswith(".html.jinja")
    environment = jinja2.Environment(
        autoescape=of_html,
        finalize=_printable if of_html else _markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    ready = str if of_html else Markdown  # what stands between fences of Markdown is not escaped
    environment.filters |= {
        "code": code,
        "shell": lambda word: ready(shell(word)),
        "python": lambda text: ready(python(text)),
        **filters,
    }
    return environment.from_string(file.read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _markdown(value: Any) -> Any:
    return markdown(value) if isinstance(value, str) else value
