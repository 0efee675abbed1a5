"""Raises the number of files and connections that a process may have open, and warns where it stays too small."""

from __future__ import annotations

import resource

#: Thousands of clients, and what Ray opens beside them.
WANTED = 65_536
#: With fewer, some hundred clients are enough to leave the cluster without a socket for its own.
LEAST = 4096


def raise_limit() -> int:
    """What it is from now on, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted_of(soft, hard)
    if wanted == soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # Some systems let a process have fewer than they say.
    except (OSError, ValueError):
        return soft
    return wanted


def wanted_of(soft: int, hard: int) -> int:
    if soft == resource.RLIM_INFINITY or soft >= WANTED:
        return soft
    return WANTED if hard == resource.RLIM_INFINITY else max(soft, min(WANTED, hard))


def warning_of(limit: int) -> str | None:
    if limit >= LEAST or limit == resource.RLIM_INFINITY:
        return None
    return (
        f"A process may have {limit} files and connections open here, and {LEAST} are needed: raise the hard limit "
        f"(`ulimit -Hn {WANTED}` as root, or LimitNOFILE of the service), or callers will be refused."
    )
