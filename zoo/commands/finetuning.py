"""The command `zoo finetune`: `zoo train finetune`, the recipe of the same name."""

from collections.abc import Sequence

from zoo.errors import UsageError


def finetune() -> None:
    """Start from trained weights, on your own images: `zoo finetune --data FOLDER`.

    It is `zoo train finetune`. See `zoo finetune --help` for its flags.
    """
    raise UsageError("zoo finetune takes --data FOLDER, your images: see zoo finetune --help")


def in_full(arguments: Sequence[str]) -> list[str]:
    """Return the command line that `zoo finetune ...` is short for, and another one as it is."""
    if arguments and arguments[0] == "finetune":
        return ["train", *arguments]
    return list(arguments)
