"""Requests to an engine that has a scheduler of its own: which may enter it, what it says of each, and when each ends.

It knows nothing of models: `begin` gives one value to the engine. All of this is used from one event loop; the engine's
threads only append to `_news`, which the loop then carries out, once for everything that a step of the engine has told.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from cluster import errors
from cluster.calls import OpenCall, View
from cluster.worker.admission import QueueLimits, QueueState, is_for_the_oldest, refusal
from cluster.worker.family import Finished, Stop, Tell
from cluster.worker.lanes import ahead_of, in_turn
from cluster.worker.load import Backlog
from cluster.worker.open_requests import OpenRequest, OpenRequests

Begin = Callable[[Any, Tell], Stop]
#: Takes the pieces of one answer as they come, on the loop.
Send = Callable[[object], None]

#: An engine that has work and tells nothing for so long counts as hung. A long prompt is computed without a word.
SILENT_S = 120.0
#: Weight of the newest answer in the measured speed.
NEWEST = 0.1


class TalkRequest(OpenRequest):
    def __init__(
        self, owner: str, values: Sequence[Any], costs: Sequence[float], luggage: Sequence[float], send: Send | None
    ) -> None:
        super().__init__(owner, values, costs)
        self.luggage = luggage or [0.0] * len(values)
        self.send = send
        #: Ends what the engine has of it.
        self.stops: dict[int, Stop] = {}

    @property
    def cost_waiting(self) -> float:
        return sum(self.costs[self.begun :])

    @property
    def next_luggage(self) -> float:
        """Of its next value, while one waits."""
        return self.luggage[self.begun]


class TalkQueue:
    def __init__(
        self, begin: Begin, *, slots: int, room: float | None, limits: QueueLimits, luggage: float = inf
    ) -> None:
        """`slots` values at most are in the engine, of `room` cost and of so much luggage together."""
        self._begin = begin
        self._slots = slots
        self._room = room
        self._luggage = luggage
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._open: OpenRequests[TalkRequest] = OpenRequests(self._stop, self._answered)
        self._news: deque[tuple[TalkRequest, int, object]] = deque()
        self._is_called = False
        self._turn = 0
        #: Values in the engine, their cost, and what they have brought.
        self.running = 0
        self.held = 0.0
        self.brought = 0.0
        #: Those that were told of answers, ever.
        self.pieces = 0
        #: Recently finished cost, and the seconds in which it was finished.
        self._done = (0.0, 0.0)
        self._finished_at = 0.0
        self.heard_at = time.monotonic()

    # ------------------------------------------------------------------------------------------- asked for

    def submit(
        self,
        values: Sequence[Any],
        costs: Sequence[float],
        luggage: Sequence[float] = (),
        *,
        owner: str,
        seconds_left: float,
        send: Send | None = None,
    ) -> TalkRequest:
        """Refuses at once a request that would have to wait for too long."""
        self._open.refuse_blocked(owner)
        most = self._room if self._room is not None else float("inf")
        request = TalkRequest(owner, values, [min(cost, most) for cost in costs], luggage, send)
        waiting = [int(other.cost_waiting) for other in ahead_of(owner, self._open) if other.cost_waiting]
        state = QueueState(len(waiting), sum(waiting), self.speed)
        too_much = refusal(int(request.cost_waiting), seconds_left, state, waiting, self._limits)
        if too_much is not None:
            raise too_much.error
        self._open.add(request, seconds_left)
        self._start()
        return request

    def cancel(self, owner: str, block_s: float = 0.0) -> bool:
        """Drops that request, waiting or begun, and refuses its id for `block_s` seconds."""
        return self._open.cancel(owner, block_s)

    def under_way(self) -> list[OpenCall]:
        """How long an answer will be is not known before it ends."""
        answering, waiting = View(0, "running", stage="answering"), View(0, "waiting")
        return [request.told(answering if request.begun else waiting) for request in self._open]

    @property
    def waiting(self) -> int:
        return self._open.waiting

    @property
    def backlog(self) -> Backlog:
        """What the engine has of room may run out before its places do."""
        taken = max(self.running / self._slots, self.held / self._room if self._room else 0.0)
        waiting = sum(request.cost_waiting for request in self._open)
        return Backlog(waiting, self.held, self.speed, self._open.oldest_s, min(taken, 1.0))

    @property
    def is_alive(self) -> bool:
        """Whether the engine has told something lately, if it has anything to tell of."""
        return not self.running or time.monotonic() - self.heard_at < SILENT_S

    @property
    def speed(self) -> float:
        """Cost that the engine finishes in a second; 0 until that is known."""
        cost, seconds = self._done
        return cost / seconds if seconds > 0 else 0.0

    # ------------------------------------------------------------------------------------------- decisions

    def _next(self) -> TalkRequest | None:
        """The request with least to do, but every few turns the oldest, so that large ones are begun as well. None when
        that one has to wait for room: others would keep it waiting for ever."""
        if self.running >= self._slots:
            return None
        now = time.perf_counter()
        waiting = self._those_whose_luggage_fits(self._open.with_waiting, now)
        if not waiting:
            return None
        is_oldest = is_for_the_oldest(self._turn + 1, False)
        waiting = in_turn(waiting, self._turn + 1, now)
        request = waiting[0] if is_oldest else min(waiting, key=lambda each: each.cost_waiting)
        fits = self._room is None or self.held + request.costs[request.begun] <= self._room
        return request if fits or not self.running else None

    def _those_whose_luggage_fits(self, waiting: Sequence[TalkRequest], now: float) -> list[TalkRequest]:
        """Of those that bring some only the one whose turn it is: smaller ones would keep it waiting for ever."""
        loaded = in_turn((request for request in waiting if request.next_luggage), self._turn + 1, now)
        first = loaded[0] if loaded else None
        fits = first is not None and (not self.brought or self.brought + first.next_luggage <= self._luggage)
        return [request for request in waiting if not request.next_luggage or (fits and request is first)]

    # ------------------------------------------------------------------------------------------------ work

    def _start(self) -> None:
        while (request := self._next()) is not None:
            self._turn += 1
            index = request.begin()
            if not self.running:
                self.heard_at = self._finished_at = time.monotonic()
            self.running += 1
            self.held += request.costs[index]
            self.brought += request.luggage[index]
            try:
                request.stops[index] = self._begin(request.values[index], self._teller(request, index))
            # Whatever an engine raises is the end of this request and of no other.
            except Exception as error:
                self._release(request, index)
                self._stop(request, errors.as_ours(error))

    def _teller(self, request: TalkRequest, index: int) -> Tell:
        def tell(piece: object) -> None:
            self._news.append((request, index, piece))
            # Set back before the news is read, so nothing that comes meanwhile is left lying.
            if not self._is_called:
                self._is_called = True
                self._loop.call_soon_threadsafe(self._hear)

        return tell

    def _hear(self) -> None:
        self._is_called = False
        self.heard_at = time.monotonic()
        while self._news:
            request, index, piece = self._news.popleft()
            if isinstance(piece, Finished):
                self._finished(request, index, piece.outcome)
                continue
            self.pieces += 1
            if request.send is not None and not request.done.done():
                request.send(piece)
        self._start()

    def _finished(self, request: TalkRequest, index: int, outcome: object) -> None:
        self._release(request, index)
        if isinstance(outcome, Exception):
            self._stop(request, errors.as_ours(outcome))
            return
        self._measure(request.costs[index])
        request.answer(index, outcome)

    def _release(self, request: TalkRequest, index: int) -> None:
        request.stops.pop(index, None)
        self.running -= 1
        self.held -= request.costs[index]
        self.brought -= request.luggage[index]

    def _measure(self, cost: float) -> None:
        now = time.monotonic()
        seconds, self._finished_at = now - self._finished_at, now
        self._done = ((1 - NEWEST) * self._done[0] + cost, (1 - NEWEST) * self._done[1] + seconds)

    def _stop(self, request: TalkRequest, error: errors.ClusterError) -> None:
        """Those of its values that are in the engine end at its next step."""
        request.fail(error)
        for stop in tuple(request.stops.values()):
            stop()

    def _answered(self, request: TalkRequest) -> None:
        if request.done.cancelled():
            self._stop(request, errors.RequestCancelled("Nobody waits for it any more."))
        # What it was waiting for, another may have.
        self._start()
