"""The memory that this machine has left, and a refusal of what needs more."""

import contextlib
import contextvars
import re
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import UsageError

_checked = contextvars.ContextVar("checked", default=True)
# Folder of a control group's version, file of its limit, file of its use.
_GROUPS = {
    True: ("sys/fs/cgroup", "memory.max", "memory.current"),
    False: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}


class TooLarge(UsageError, ValueError):
    """Something needs more memory than this machine has left."""


@contextlib.contextmanager
def forced(force: bool = True) -> Iterator[None]:
    """Let `require` pass everything, if `force` is true. Some machines have room that nobody sees.

    An example is swap space.
    """
    token = _checked.set(not force)
    try:
        yield
    finally:
        _checked.reset(token)


def require(needed: int, what: str, remedy: str) -> None:
    """Refuse what needs more memory than there is. It passes if the memory is not known.

    Arguments:
        needed: a number of bytes.
        what: what needs it, with its numbers.
        remedy: what to do, as the end of a sentence: "give a smaller --width".

    Raises:
        TooLarge: if fewer bytes are available.
    """
    free = available()
    if _checked.get() and free is not None and needed > free:
        raise TooLarge(
            f"{what} would take {in_gib(needed)} of memory, and this machine has {in_gib(free)} "
            f"left: {remedy}, or try it with --force."
        )


def in_gib(size: int) -> str:
    """Return a number of bytes as text in GiB."""
    gib = size / 2**30
    return f"{gib:,.1f} GiB" if gib < 1e6 else f"{gib:.1e} GiB"


def available(root: Path = Path("/")) -> int | None:
    """Return how many bytes a process can still get; None where nobody says.

    Linux says how much is available in /proc/meminfo. A container has less: its control group has a
    limit, as each group around it may have.

    Arguments:
        root: the folder that has proc/ and sys/.
    """
    try:
        meminfo = (root / "proc/meminfo").read_text()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = [1024 * int(kib) for kib in re.findall(r"(?m)^MemAvailable:\s*(\d+) kB$", meminfo)]
    for line in groups:
        number, controllers, group = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            top, limit, use = _GROUPS[number == "0"]
            folder = root / top / group.lstrip("/")
            rooms += [
                room
                for parent in (folder, *folder.parents)
                if parent.is_relative_to(root / top)
                and (room := _room_in(parent, limit, use)) is not None
            ]
    return max(min(rooms), 0) if rooms else None


def _room_in(folder: Path, limit_file: str, use_file: str) -> int | None:
    """Return the bytes that a control group has left; None without a limit."""
    try:
        limit, use = ((folder / name).read_text().strip() for name in (limit_file, use_file))
        details = (folder / "memory.stat").read_text()
    except OSError:  # in a container, the groups around it cannot be seen
        return None
    if limit == "max":
        return None
    # The system takes the pages of files back. Version 1 has the groups inside in the totals.
    total = "total_" if "total_active_file" in details else ""
    pages = re.findall(rf"(?m)^{total}(?:in)?active_file (\d+)$", details)
    return int(limit) - int(use) + sum(map(int, pages))
