"""No name is taken for markup: every output form shows hostile names as they are."""

import ast
import html
import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from zoo import markup, terminal
from zoo.tables import Table
from zoo.text import one_line, printable

ROOT = Path(__file__).parent.parent
# Names of classes, files and models, as a folder from elsewhere may have them.
NAMES = [
    *(
        "[bold red]x",
        "[/red]",
        "[/]",
        ":smile:",
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x9b1m",
    ),
    *(
        "<script>alert(1)</script>",
        "<!-- x",
        "&lt;",
        "a|b",
        "`code`",
        "``",
        "*x*",
        "_x_",
        "snake_case",
    ),
    *(
        "# x",
        "C#",
        "~~x~~",
        "[x](javascript:1)",
        "![x](y)",
        "a\\b",
        "$x^2$",
        "{{ 7 * 7 }}",
        "{: .x }",
    ),
    *(
        "it's",
        '"x"',
        "$(id)",
        "; id",
        "-rf",
        "--flag",
        "a b",
        "!x",
        "%41",
        "a\nb",
        "a\r\nb",
        "a\tb",
    ),
    *(
        "\u202etxt.exe",
        "\u2028x",
        "\u200bx",
        "caf\udce9",
        "\ud800",
        "日本語",
        "नमस्\u200dते",
        "é",
        "\0x",
    ),
]
SHOWN = {"\x1b[31mred": "\\x1b[31mred", "caf\udce9": "caf\\udce9", "a\nb": "a\\nb"}
MARKDOWN = MarkdownIt("commonmark").enable("table")


def text_of(page):
    """The text that a browser shows for a page of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", page)).strip()


def test_what_is_printable_has_no_character_that_a_terminal_obeys():
    for name, shown in SHOWN.items():
        assert printable(name) == shown
    for name in NAMES:
        assert not re.search(r"[\0-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", printable(name))
    for plain in ("日本語", "नमस्\u200dते", "é \N{NO-BREAK SPACE}€", "[bold]<b>"):
        assert printable(plain) == plain
    assert one_line("a\n  b\x1b[0m") == "a b\\x1b[0m"


def test_the_terminal_shows_names_as_they_are(capsys):
    shown = io.StringIO()
    console = Console(file=shown, width=200, force_terminal=True, color_system="truecolor")
    for name in NAMES:
        terminal.say(name)
        assert capsys.readouterr().out == printable(name) + "\n"
        terminal.say(name, console=console)
        terminal.show([name], [[name]], title=name, console=console)
    lines = shown.getvalue()
    for name in NAMES:
        assert lines.count(printable(name)) >= 4, name
    assert not re.search(r"\x1b\[31m|\x1b\]|\x9b", lines)


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_names_as_they_are(name):
    assert text_of(MARKDOWN.render(f"A {markup.markdown(name)} b")) == f"A {printable(name)} b"
    rendered = MARKDOWN.render(f"| c | {markup.code(name)} | d\n|---|---|---|\n| a | b | c |")
    assert rendered.count("<th>") == 3
    cell = re.search(r"<code>(.*?)</code>", rendered)[1]
    assert html.unescape(cell) == printable(name)
    assert markup.markdown(markup.markdown(name)) == markup.markdown(name)
    table = MARKDOWN.render(Table((name, "b"), ((name, 1),)).markdown())
    assert [text_of(line) for line in table.splitlines() if "<th>" in line or "<td>" in line] == [
        *(printable(name).strip(), "b", printable(name).strip(), "1")
    ]


def test_code_and_ordinary_names_stay_readable():
    assert markup.code("zoo train x --seed 4") == "`zoo train x --seed 4`"
    assert markup.markdown("mnist_nin_dsn, 3 % (7)") == "mnist_nin_dsn, 3 % (7)"
    assert markup.python("cifar10") == '"cifar10"'
    assert markup.shell("zoo", "train", "a b") == "zoo train 'a b'"


def test_a_shell_reads_the_words_again():
    names = [name for name in NAMES if "\0" not in name and name != "\ud800"]
    line = markup.shell(*names)
    assert printable(line) == line
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert read.stdout.split(b"\0")[:-1] == [os.fsencode(name) for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_python_reads_the_text_again(name):
    assert ast.literal_eval(markup.python(name)) == name
    assert printable(markup.python(name)) == markup.python(name)


@pytest.mark.parametrize("kind", ["html", "md"])
def test_a_template_escapes_all_values(kind, tmp_path):
    file = tmp_path / f"page.{kind}.jinja"
    file.write_text("x {{ name }} y {{ names | join(' ') }} {{ 0.5 | half }}", encoding="utf-8")
    page = markup.template(file, {"half": lambda number: number / 2})
    for name in NAMES:
        rendered = page.render(name=name, names=[name])
        shown = text_of(rendered if kind == "html" else MARKDOWN.render(rendered))
        assert shown == f"x {printable(name)} y {printable(name)} 0.25"


def test_nothing_else_prints():
    """All that the zoo prints goes through zoo.terminal, which shows text as text."""
    for path in (ROOT / "zoo").rglob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert name not in ("print", "print_exc"), f"{path}:{node.lineno}"
