"""The code blocks of a page of Markdown, run and parsed as a reader would."""

import contextlib
import functools
import re
import shlex
from pathlib import Path

from zoo.commands import main

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SETS_A_VARIABLE = re.compile(r"\w+=")


def blocks(page, *languages):
    """(number of the line before it, text) of each block in one of these languages."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: block.start(2)].count("\n"), block[2])
        for block in _BLOCK.finditer(text)
        if block[1] in languages
    ]


def run(page, line, code, names):
    """Run a block; a traceback names the page and the line."""
    exec(compile("\n" * line + code, str(page), "exec"), names)


def zoo_commands(page):
    """The arguments of each `zoo ...` command in the shell blocks of a page."""
    for _, text in blocks(page, "sh", "bash", "console"):
        lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", "\n;"), punctuation_chars=True)
        lexer.whitespace_split = True
        command = []
        for token in [*lexer, ";"]:
            if set(token) <= set("();<>|&"):
                while command and _SETS_A_VARIABLE.match(command[0]):
                    command = command[1:]
                if command and Path(command[0]).name == "zoo":
                    yield command[1:]
                command = []
            else:
                command.append(token)


@contextlib.contextmanager
def commands_parse_only(monkeypatch):
    """Meanwhile `zoo.commands.main.main` parses a command line, and carries nothing out."""
    with monkeypatch.context() as patch:
        for name, command in main.COMMANDS.items():
            patch.setitem(main.COMMANDS, name, functools.wraps(command)(lambda *_, **__: None))
        for name, (described, options, _) in main.OF_A_RECIPE.items():
            patch.setitem(main.OF_A_RECIPE, name, (described, options, lambda *_: None))
        yield main.main
