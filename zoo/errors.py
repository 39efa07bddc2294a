"""Errors with a message for people: what was received, what was expected, and what to do."""

MOST_SECONDS = 10**9
"""The longest time that can be asked for, 30 years. The system refuses much longer waits."""


class ZooError(Exception):
    """An error that the `zoo` command shows as one line; `exit_code` is what it ends with."""

    exit_code = 1


class UsageError(ZooError):
    """Wrong input at the command line."""

    exit_code = 2


def check_number(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number out of range, and what is no number, such as nan.

    Arguments:
        name: the flag or argument, such as "--timeout".
        value: the number.
        least: the smallest number that is allowed.
        most: the largest number that is allowed.

    Raises:
        UsageError: if the number is not in this range.
    """
    if not least <= value <= most:
        raise UsageError(f"{name} is a number from {least:,} to {most:,}; received {value}.")
