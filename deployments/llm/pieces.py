"""What language models answer: pieces on their way, and the whole that they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class TokenChance(NamedTuple):
    """A token that was written, and how likely the model found it."""

    text: str
    logprob: float
    bytes: tuple[int, ...]
    #: The likeliest tokens at its place, where they were asked for: text, logprob and bytes of each.
    top: tuple[tuple[str, float, tuple[int, ...]], ...] = ()


class CallPiece(NamedTuple):
    """A part of the call of a tool. The first one has its id and its name."""

    #: Which of the calls.
    place: int
    id: str = ""
    name: str = ""
    #: More of the JSON of its arguments.
    arguments: str = ""


class TalkUsage(NamedTuple):
    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    #: Tokens that were guessed before they were written, and how many of those were right.
    guessed: int = 0
    right: int = 0


class Piece(NamedTuple):
    """What a step of the engine added to one of the answers that were asked for."""

    choice: int
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    chances: tuple[TokenChance, ...] = ()
    #: Why it ends: stop, length or tool_calls.
    finish: str | None = None
    #: With the last piece of all.
    usage: TalkUsage | None = None
    #: The stop string that it ended at.
    stop: str | None = None


class ToolCall(NamedTuple):
    id: str
    name: str
    arguments: str


class Choice(NamedTuple):
    """One whole answer."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    chances: tuple[TokenChance, ...]
    finish: str
    stop: str | None = None


class Reply(NamedTuple):
    choices: tuple[Choice, ...]
    usage: TalkUsage


def whole(pieces: Sequence[Piece], choices: int) -> Reply:
    """All pieces together."""
    usage = next((piece.usage for piece in reversed(pieces) if piece.usage is not None), TalkUsage(0, 0))
    return Reply(tuple(_choice([piece for piece in pieces if piece.choice == n]) for n in range(choices)), usage)


def _choice(pieces: Sequence[Piece]) -> Choice:
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for piece in pieces for part in piece.calls):
        call = calls.setdefault(part.place, {"id": "", "name": "", "arguments": ""})
        for name in call:
            call[name] += getattr(part, name)
    ended = next((piece for piece in pieces if piece.finish is not None), None)
    return Choice(
        "".join(piece.text for piece in pieces),
        "".join(piece.reasoning for piece in pieces),
        tuple(ToolCall(**calls[number]) for number in sorted(calls)),
        tuple(chance for piece in pieces for chance in piece.chances),
        (ended and ended.finish) or "stop",
        ended.stop if ended is not None else None,
    )
