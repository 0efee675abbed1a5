"""Pieces of all pages under way, computed in shared batches. Each page has a thread of its own, and waits here.

A batch has pieces of one kind only. For arrays that means one shape: nothing is padded, so each piece gives the same
result as alone. The kind of the oldest piece goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from cluster.worker.family import Progress

#: How often a waiting page checks whether anybody still wants it.
CHECK_EVERY_S = 0.05

Value = TypeVar("Value")
Result = TypeVar("Result")


class _Piece(Generic[Value, Result]):
    __slots__ = ("answer", "owner", "value")

    def __init__(self, owner: _Owner, value: Value) -> None:
        self.owner = owner
        self.value = value
        #: None until its batch is done.
        self.answer: Result | Exception | None = None


class _Owner:
    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done = threading.Event()


def _shape_of(array: object) -> Hashable:
    shape: Hashable = getattr(array, "shape")  # noqa: B009
    return shape


class Sharing(Generic[Value, Result]):
    """`run` computes a batch of one kind: for each piece a result, or the error that concerns it alone."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Value]], Sequence[Result | Exception]],
        *,
        threads: int,
        room: Callable[[Any], int],
        kind: Callable[[Value], Hashable] = _shape_of,
    ) -> None:
        """`kind` says which pieces may share a batch, and `room` how many of a kind fit into one."""
        self._name = name
        self._run = run
        self._room = room
        self._kind = kind
        self._pending: list[_Piece[Value, Result]] = []
        self._changed = threading.Condition()
        self._threads = 0
        self._wanted = 0
        self._is_closed = False
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

    def close(self) -> None:
        """Ends its threads; nobody waits for answers any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def answers(self, values: Sequence[Value], progress: Progress) -> list[Result]:
        """One for each value; raises as soon as nobody wants them any more."""
        if not values:
            return []
        owner = _Owner(len(values))
        pieces: list[_Piece[Value, Result]] = [_Piece(owner, value) for value in values]
        with self._changed:
            self._pending += pieces
            self._changed.notify_all()
        try:
            while not owner.done.wait(CHECK_EVERY_S):
                progress.check()
        finally:
            self._withdraw(owner)
        answers: list[Result] = []
        for piece in pieces:
            if isinstance(piece.answer, Exception):
                raise piece.answer
            answers.append(piece.answer)  # type: ignore[arg-type]  # every piece has an answer once all are done
        return answers

    def _withdraw(self, owner: _Owner) -> None:
        with self._changed:
            if owner.left:
                self._pending = [piece for piece in self._pending if piece.owner is not owner]

    def _work(self, number: int) -> None:
        while batch := self._next(number):
            try:
                answers = self._run([piece.value for piece in batch])
                for piece, answer in zip(batch, answers, strict=True):
                    piece.answer = answer
            # A library can raise anything: each page of the batch gets the error, and the thread goes on.
            except Exception as error:
                for piece in batch:
                    piece.answer = error
            self._finish(batch)

    def _next(self, number: int) -> list[_Piece[Value, Result]]:
        """Empty once it is closed."""
        with self._changed:
            while not self._is_closed and (not self._pending or number >= self._wanted):
                self._changed.wait()
            if self._is_closed:
                return []
            kind = self._kind(self._pending[0].value)
            room = max(1, self._room(kind))
            batch = [piece for piece in self._pending if self._kind(piece.value) == kind][:room]
            taken = set(map(id, batch))
            self._pending = [piece for piece in self._pending if id(piece) not in taken]
            self.batches += 1
            self.pieces += len(batch)
            return batch

    def _finish(self, batch: Sequence[_Piece[Value, Result]]) -> None:
        with self._changed:
            for piece in batch:
                piece.owner.left -= 1
                if not piece.owner.left:
                    piece.owner.done.set()
