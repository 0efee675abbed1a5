"""The pieces of an answer on their way to whoever reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from cluster import errors

#: So many pieces of one answer may wait to be read. Whoever is further behind loses it.
MOST_UNREAD = 2000


class LastPiece(NamedTuple):
    """What ends an answer in pieces: the answer's last word, or an error."""

    outcome: object


class Inbox:
    """The pieces of one answer that have come and are not read yet."""

    def __init__(self, end: Callable[[], object]) -> None:
        """`end` tells the worker that nobody listens any more."""
        self._end = end
        self._pieces: list[object] = []
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        #: The worker has nothing more to say.
        self.has_ended = False
        #: All has been read.
        self.is_over = False

    def put(self, piece: object) -> None:
        self.has_ended = isinstance(piece, LastPiece)
        if self._error is not None:
            return
        if isinstance(piece, LastPiece) and isinstance(piece.outcome, errors.ClusterError):
            self._error = piece.outcome
        else:
            self._pieces.append(piece)
            if len(self._pieces) > MOST_UNREAD:
                self._pieces.clear()
                self._end()
                self._error = errors.RequestCancelled(
                    f"The answer is read too slowly: {MOST_UNREAD} pieces of it waited."
                )
        self._wake()

    def fail(self, error: errors.ClusterError) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def taken(self) -> list[object]:
        """All that is there, when there is something; what ends the answer is the last of a list."""
        if not self._pieces and self._error is None:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if not self._pieces and self._error is not None:
            self.is_over = True
            raise self._error
        pieces, self._pieces = self._pieces, []
        if isinstance(pieces[-1], LastPiece):
            self.is_over = True
            pieces[-1] = pieces[-1].outcome
        return pieces
