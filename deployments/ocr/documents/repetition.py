"""Tells a model that says the same for ever from one that copies a long table. Knows of no library."""

from __future__ import annotations

from collections.abc import Sequence

#: Tokens of what is repeated, at most; a row of a wide table has as many.
LONGEST = 120
#: How often, and over how many tokens, the same must have come in a row.
TIMES = 8
LEAST_TOKENS = 64
#: How often it is looked for, in tokens.
EVERY = 16


def begins_to_repeat(tokens: Sequence[int]) -> int | None:
    """Where what came before is said again and nothing else follows: the end of its first time."""
    for period in range(1, LONGEST + 1):
        needed = max(TIMES * period, LEAST_TOKENS)
        if len(tokens) < needed:
            return None
        if _repeats(tokens, period, needed):
            return _first_end(tokens, period)
    return None


def _repeats(tokens: Sequence[int], period: int, needed: int) -> bool:
    start = len(tokens) - needed
    return all(tokens[place] == tokens[place + period] for place in range(start, len(tokens) - period))


def _first_end(tokens: Sequence[int], period: int) -> int:
    place = len(tokens) - period
    while place > 0 and tokens[place - 1] == tokens[place - 1 + period]:
        place -= 1
    return place + period
