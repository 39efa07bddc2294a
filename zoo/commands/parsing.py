"""Parse flags with tyro, show them readably, and report an error as one line."""

import contextlib
import dataclasses
import io
import itertools
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

from tyro.conf import DisallowNone
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from zoo.errors import UsageError

_REGISTRY = ConstructorRegistry()
_SIZE = {int, tuple[int, int]}  # of images
_ONE_CHOICE = re.compile(r"\{([^{}|,]+)\}")
_SEVERAL = re.compile(r"\[(\w+) \[\1 \.\.\.\]\]")


@_REGISTRY.primitive_rule
def _readable(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | Any:
    """Let the help show the values that people write.

    A flag of `X | None` is shown as X, since nobody writes None; an image size as `N | H W`; the
    only choice as that word, without braces; and several paths as `PATH...`. An error of a value
    says the same.
    """
    if DisallowNone in kind.markers:  # the rule calls itself once
        return None
    without = dataclasses.replace(kind, markers=kind.markers | {DisallowNone})
    spec = ConstructorRegistry.get_primitive_spec(without)
    if not isinstance(spec, PrimitiveConstructorSpec):
        return spec
    if {*typing.get_args(kind.type)} - {type(None)} == _SIZE:
        metavar = "N | H W"
    else:
        metavar = _ONE_CHOICE.sub(r"\1", _ONE_CHOICE.sub(r"\1", spec.metavar))  # {{until} STR}
        metavar = _SEVERAL.sub(r"\1...", metavar)

    def value(words: list[str]) -> Any:
        try:
            return spec.instance_from_str(words)
        except ValueError:
            raise ValueError(f"expected {metavar}; received {' '.join(words)!r}") from None

    return dataclasses.replace(spec, metavar=metavar, instance_from_str=value)


def parse(parser: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call one of tyro's parsers and return what it parsed.

    Arguments:
        parser: `tyro.cli`, or another function of tyro's.
        arguments: the parser's positional arguments.
        keywords: the parser's other arguments; `prog` is required.

    Raises:
        UsageError: if the flags are wrong; its message is one line, in place of tyro's box.
        SystemExit: after `--help`, with code 0.
    """
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return parser(*arguments, **keywords, registry=_REGISTRY)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        message = _one_line(shown.getvalue(), keywords["prog"])
        raise UsageError(_switch_with_a_value(keywords["args"], message) or message) from None


def _switch_with_a_value(arguments: Sequence[str], message: str) -> str:
    """Return the error for `--flip False`, where --flip takes no value; "" for another error."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        if flag.startswith("--") and f"Unrecognized options: {value}" in message:
            name = flag.removeprefix("--").removeprefix("no-")
            if value.lower() in ("true", "false"):
                return f"{flag} takes no value; received {value}. Write --{name} or --no-{name}."
    return ""


def _one_line(box: str, prog: str) -> str:
    """Return the error in tyro's box of text, and the flag that tyro suggests."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    # A rule separates two parts of the box.
    lines = ["\n" if line.count("─") > 8 or line.count("-") > 8 else line for line in lines]
    parts = [part for part in " ".join(lines).split("\n") if part.strip()]
    # If tyro cannot draw boxes, the title is a part of its own.
    message, *hints = parts if box.lstrip().startswith("╭") else parts[1:]
    suggestion = next((hint for hint in hints if "Perhaps you meant" in hint), "")
    flags = suggestion.replace("Perhaps you meant:", "").split()[:1]
    question = f" Did you mean {flags[0]}?" if flags else ""
    return f"{message.strip().rstrip('.')}.{question} See {prog} --help."
