"""Tells a model that repeats itself endlessly from one that copies a long table. Imports no library."""

from __future__ import annotations

from collections.abc import Sequence

#: The longest sequence whose repetition counts, in tokens; a row of a wide table has as many.
LONGEST = 120
#: A sequence must have been repeated so often, and over so many tokens.
TIMES = 8
LEAST_TOKENS = 64
#: A text is checked once in so many tokens.
EVERY = 16


def begins_to_repeat(tokens: Sequence[int]) -> int | None:
    """The number of tokens up to the end of the first repetition, where the text ends in nothing but repetitions."""
    for period in range(1, LONGEST + 1):
        needed = max(TIMES * period, LEAST_TOKENS)
        if len(tokens) < needed:
            return None
        if _repeats(tokens, period, needed):
            return _first_end(tokens, period)
    return None


def _repeats(tokens: Sequence[int], period: int, needed: int) -> bool:
    start = len(tokens) - needed
    return all(tokens[index] == tokens[index + period] for index in range(start, len(tokens) - period))


def _first_end(tokens: Sequence[int], period: int) -> int:
    index = len(tokens) - period
    while index > 0 and tokens[index - 1] == tokens[index - 1 + period]:
        index -= 1
    return index + period
