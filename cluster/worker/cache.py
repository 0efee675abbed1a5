"""Answers that need no computing: the newest, up to so many bytes.

Exact: the key is everything that the answer depends on, and there is one cache per model process, whose weights,
revision and number format never change.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

#: What an entry takes beside its key and its answer: the two objects around them and their place in the table.
OVERHEAD_BYTES = 300


class AnswerCache:
    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable) -> Any | None:
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, answer: Any) -> None:
        size = size_of(key) + size_of(answer) + OVERHEAD_BYTES
        if size > self._most or key in self._entries:
            return
        self._entries[key] = (_owned(answer), size)
        self.bytes += size
        while self.bytes > self._most:
            _, (_, freed) = self._entries.popitem(last=False)
            self.bytes -= freed


def _owned(value: Any) -> Any:
    """The same with memory of its own: a row of a batch's array would keep the whole batch."""
    if getattr(value, "base", None) is not None:
        return value.copy()
    if isinstance(value, tuple):
        return tuple(map(_owned, value))
    if isinstance(value, dict):
        return {name: _owned(part) for name, part in value.items()}
    return value


def size_of(value: Any) -> int:
    """Bytes of an answer: arrays by what they hold, tuples and dicts by their parts."""
    nbytes = getattr(value, "nbytes", None)
    if nbytes is not None:
        return int(nbytes)
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value))
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    return sys.getsizeof(value)
