"""The memory that this process has allocated and not given back, as the C library counts it."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


@cache
def _counting() -> Any:
    try:
        function = ctypes.CDLL(None).mallinfo2
    # Only glibc has it.
    except (OSError, AttributeError):
        return None
    function.restype = Mallinfo
    return function


def heap_bytes() -> int:
    """0 where the library does not say. Takes up to a millisecond."""
    counting = _counting()
    if counting is None:
        return 0
    info = counting()
    return int(info.uordblks + info.hblkhd)
