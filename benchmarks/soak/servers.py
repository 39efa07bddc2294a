"""Hostile servers: `zoo predict --server` ends in one line, in time, whatever one answers."""

from shared_with_tests import HTTP, PICTURE, SLOW, fault_of

SERVERS = HTTP | SLOW
COUNT = len(SERVERS)


def hostile(scratch, seed):
    """Ask one of the servers."""
    picture = scratch / f"picture-{seed}.png"
    picture.write_bytes(PICTURE)
    name = sorted(SERVERS)[seed % COUNT]
    fault = fault_of(SERVERS[name], picture)
    return 1, fault and f"{name}: {fault}"
