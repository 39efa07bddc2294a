"""Short texts that many messages share."""

import difflib
import unicodedata
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return a question with the nearest of the known names; `otherwise` if none is near."""
    nearest = difflib.get_close_matches(str(name), list(known), 1)
    return f"Did you mean {nearest[0]!r}?" if nearest else otherwise


def flag(field: str) -> str:
    """Return the command-line flag of a recipe's field: "batch_size" -> "--batch-size"."""
    return f"--{field.replace('_', '-')}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 minute", "2 minutes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as a percentage: 0.1234 -> "12.34 %", and None -> "-"."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def printable(text: object) -> str:
    """Return the text with visible escapes for what a terminal or a reader would not show as text.

    These are control characters (a label may hold the codes that colour or move a terminal's
    text), marks that reverse the direction of writing, line breaks, and bytes of file names that
    are not UTF-8: "a\\x1b[31m" and "caf\\udce9".
    """
    return "".join(
        character if _is_text(character) else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def _is_text(character: str) -> bool:
    # Scripts such as Persian need the two joiners, and French the spaces that do not break.
    joiners = "\u200c\u200d"
    return (
        character.isprintable() or character in joiners or unicodedata.category(character) == "Zs"
    )


def one_line(message: object) -> str:
    """Return the message as one `printable` line, without repeated spaces."""
    return printable(" ".join(str(message).split()))


def reason(message: str) -> str:
    """Return the line of a TensorFlow error that is for people, which precedes the node's name."""
    lines = message.partition("\n\t [[")[0].splitlines()
    line = lines[-1] if lines else message
    own_check = "assertion failed: ["
    return line[len(own_check) : -1] if line.startswith(own_check) else line
