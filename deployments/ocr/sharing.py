"""Pieces of all pages under way, computed in shared batches: pages meet here, each in a thread of its own.

A batch has pieces of one kind; arrays of one shape are, so that each is computed as it would be alone. The oldest
leads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from cluster.worker.family import Progress

#: How often a page that waits looks whether somebody still waits for it.
LOOK_S = 0.05


class _Piece:
    __slots__ = ("answer", "error", "owner", "value")

    def __init__(self, owner: _Owner, value: Any) -> None:
        self.owner = owner
        self.value = value
        self.answer: Any = None
        self.error: Exception | None = None


class _Owner:
    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done = threading.Event()


class Sharing:
    """`run` answers a batch of one kind, each piece with an answer or with the error that is its own."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        threads: int,
        room: Callable[[Any], int],
        kind: Callable[[Any], Hashable] = lambda value: value.shape,
    ) -> None:
        """`room`: how many of a kind go into one batch."""
        self._name = name
        self._run = run
        self._room = room
        self._kind = kind
        self._pending: list[_Piece] = []
        self._changed = threading.Condition()
        self._threads = 0
        self._wanted = 0
        self.batches = 0
        self.pieces = 0
        self.set_threads(threads)

    def set_threads(self, threads: int) -> None:
        """How many batches are computed at once."""
        with self._changed:
            self._wanted = max(1, threads)
            for number in range(self._threads, self._wanted):
                threading.Thread(target=self._work, args=(number,), name=self._name, daemon=True).start()
            self._threads = max(self._threads, self._wanted)
            self._changed.notify_all()

    def answers(self, values: Sequence[Any], course: Progress) -> list[Any]:
        """One for each; raises as soon as nobody waits for them any more."""
        if not values:
            return []
        owner = _Owner(len(values))
        pieces = [_Piece(owner, value) for value in values]
        with self._changed:
            self._pending += pieces
            self._changed.notify_all()
        try:
            while not owner.done.wait(LOOK_S):
                course.check()
        finally:
            self._withdraw(owner)
        for piece in pieces:
            if piece.error is not None:
                raise piece.error
        return [piece.answer for piece in pieces]

    def _withdraw(self, owner: _Owner) -> None:
        with self._changed:
            if owner.left:
                self._pending = [piece for piece in self._pending if piece.owner is not owner]

    def _work(self, number: int) -> None:
        while True:
            batch = self._next(number)
            try:
                answers = self._run([piece.value for piece in batch])
                for piece, answer in zip(batch, answers, strict=True):
                    if isinstance(answer, Exception):
                        piece.error = answer
                    else:
                        piece.answer = answer
            # What the library raises is told to each page that was in the batch.
            except Exception as error:
                for piece in batch:
                    piece.error = error
            self._finish(batch)

    def _next(self, number: int) -> list[_Piece]:
        with self._changed:
            while not self._pending or number >= self._wanted:
                self._changed.wait()
            kind = self._kind(self._pending[0].value)
            room = max(1, self._room(kind))
            batch = [piece for piece in self._pending if self._kind(piece.value) == kind][:room]
            taken = set(map(id, batch))
            self._pending = [piece for piece in self._pending if id(piece) not in taken]
            self.batches += 1
            self.pieces += len(batch)
            return batch

    def _finish(self, batch: Sequence[_Piece]) -> None:
        with self._changed:
            for piece in batch:
                piece.owner.left -= 1
                if not piece.owner.left:
                    piece.owner.done.set()
