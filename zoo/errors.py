"""Errors with a message for people: what was received, what was expected, and what to do."""


class ZooError(Exception):
    """An error that the `zoo` command shows as one line; `exit_code` is what it ends with."""

    exit_code = 1


class UsageError(ZooError):
    """Wrong input at the command line."""

    exit_code = 2
