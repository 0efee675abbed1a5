"""Names and values that callers send, as messages repeat them: cut where they are long, with the nearest that exist."""

from __future__ import annotations

import difflib
import re
import reprlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice

#: Characters of a name that a message repeats. Nothing has a longer name, so a longer one is no typing error.
LONGEST = 100
#: Comparing takes up to 80 nanoseconds per pair of characters, on the event loop: 40 ms in all.
MOST_PAIRS = 500_000

#: Of more names, only so many are compared; and how many last characters have to be the same.
MOST_LIKELY, LIKE_ENDING = 200, 4

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = LONGEST


def cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}…"


def quoted(value: object) -> str:
    """The value as Python writes it, however large it is: only the beginning is looked at."""
    return cut(_repr.repr(value[: LONGEST + 1] if isinstance(value, str) else value))


def nearest(name: str, existing: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The existing names that look most like this one; none for a name that is too long to be compared."""
    if len(name) > LONGEST:
        return []
    compared: list[str] = []
    pairs = 0
    # Of very many, those with the same first letter are compared.
    for other in sorted(existing, key=lambda other: other[:1] != name[:1]):
        pairs += len(name) * len(other)
        if pairs > MOST_PAIRS:
            break
        compared.append(other)
    return difflib.get_close_matches(name, compared, most, cutoff)


def likely(name: str, ordered: Sequence[str]) -> Sequence[str]:
    """Of very many names, in order, those that `nearest` should compare: the ones that begin or end like this one."""
    if len(ordered) <= MOST_LIKELY:
        return ordered
    index = bisect_left(ordered, name)
    begin = ordered[max(index - MOST_LIKELY // 4, 0) : index + MOST_LIKELY // 4]
    end = islice((other for other in ordered if other.endswith(name[-LIKE_ENDING:])), MOST_LIKELY // 2)
    return list(dict.fromkeys((*begin, *end)))


#: What a model may also be called: other servers' names for models have an owner before them.
ALIAS_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}")
UID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_uid(text: str) -> bool:
    """Whether it can name a model; `-rep<number>` at its end names a replica of one."""
    return UID_PATTERN.fullmatch(text) is not None and re.search(r"-rep\d+$", text) is None


def written(value: object) -> str:
    """The value of a launch option as people write it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
