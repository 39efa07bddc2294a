"""Flags to values, by tyro; an error becomes one line."""

import contextlib
import io

from zoo.errors import UsageError


def parse(parser, *arguments, **keywords):
    """What tyro parses; its box of error text becomes one line."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return parser(*arguments, **keywords)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(shown.getvalue(), keywords["prog"])) from None


def _one_line(box, prog):
    """Of the parts between tyro's rules: what it said, and what it takes to be meant."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    lines = ["\n" if line.count("─") > 8 or line.count("-") > 8 else line for line in lines]
    parts = [part for part in " ".join(lines).split("\n") if part.strip()]
    # Where it cannot draw boxes, the title is a part of its own.
    said, *hints = parts if box.lstrip().startswith("╭") else parts[1:]
    nearest = next((hint for hint in hints if "Perhaps you meant" in hint), "")
    nearest = nearest.replace("Perhaps you meant:", "").split()[:1]
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"{said.strip().rstrip('.')}.{hint} See {prog} --help."
