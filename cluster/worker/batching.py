"""One queue before one model: waiting is counted in tokens, running is a batch, a failure stays with its caller.

The request with least left to compute goes first, so that a short question never waits for a long job to end. Every
fourth batch is led by the request that waits longest, so that the long job ends as well. Knows nothing of models: `run`
is a function from a list to a list of the same length.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import Any

from cluster import errors
from cluster.calls import is_batch
from cluster.keys import request_of
from cluster.worker.admission import (
    OVERLOADED_S,
    QueueLimits,
    QueueState,
    is_for_the_oldest,
    leaders_share,
    refusal,
)
from cluster.worker.cache import AnswerCache
from cluster.worker.lanes import ahead_of, in_turn
from cluster.worker.tickets import Item, Ticket

Run = Callable[[Sequence[Any]], Sequence[Any]]
#: Answers to the inputs of a batch, or why there are none.
Computed = tuple[Sequence[Any], Exception | None]

#: Padded, inputs share a batch when the shortest is at least this part of the longest, or nearly of its length.
ALIKE = 0.8
NEARLY_TOKENS = 8
#: How much the newest batch counts in the measured speed.
NEWEST = 0.2
#: A batch is taken to hang when it runs so many times as long as its tokens usually take, or, while the speed of the
#: model is not known, after so many seconds.
HUNG_TIMES = 20
HUNG_UNMEASURED_S = 120.0
#: After this part of the time without which no batch is taken to hang, its requests may be asked elsewhere as well: a
#: second answer costs little, and a process is not ended for it.
OVERDUE_PART = 0.15
#: No batch that runs for less is taken to hang when it holds a single request that another worker has ended with: if it
#: hangs here too, others have waited for it once already.
HUNG_SUSPECT_S = 3.0

NO_LIMITS = QueueLimits()

_tokens_of = attrgetter("tokens")
_lane_and_tokens_of = attrgetter("is_batch", "tokens")


class RunningBatches:
    """What a model computes at this moment, and how long each batch may take."""

    def __init__(self, hung_s: float | None) -> None:
        self._hung_s = hung_s
        #: With the time from which on each is overdue.
        self._batches: dict[int, tuple[float, Sequence[Item]]] = {}

    @contextmanager
    def timed(
        self, batch: Sequence[Item], speed: float, is_suspicious: bool, on_hung: Callable[[Sequence[Item], float], None]
    ) -> Iterator[None]:
        """Calls `on_hung` if the batch runs for too long at a speed in tokens per second."""
        if self._hung_s is None:
            yield
            return
        tokens = sum(item.tokens for item in batch)
        least_s = min(self._hung_s, HUNG_SUSPECT_S) if is_suspicious else self._hung_s
        patience = patience_s(tokens, speed, least_s)
        timer = asyncio.get_running_loop().call_later(patience, on_hung, batch, patience)
        due = time.perf_counter() + patience_s(tokens, speed, OVERDUE_PART * self._hung_s)
        self._batches[id(batch)] = due, batch
        try:
            yield
        finally:
            timer.cancel()
            del self._batches[id(batch)]

    @property
    def tokens(self) -> int:
        return sum(item.tokens for _, batch in self._batches.values() for item in batch)

    def overdue(self) -> list[str]:
        """The owners of the requests in batches that run for much longer than is usual."""
        late = [batch for due, batch in self._batches.values() if due <= time.perf_counter()]
        tickets = (ticket for batch in late for item in batch for ticket, _ in item.claims)
        return list(dict.fromkeys(ticket.owner for ticket in tickets if not ticket.done.done()))


class Batcher:
    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        batch_tokens: int = 16_384,
        batch_items: int = 1024,
        limits: QueueLimits = NO_LIMITS,
        parallel: int = 1,
        pads: bool = False,
        cache: AnswerCache | None = None,
        hung_s: float | None = None,
        first_speed: float = 0.0,
    ) -> None:
        """`parallel`: batches the model takes at once. `pads`: the model makes all inputs of a batch as long as the
        longest, so that only inputs of like length share one. `hung_s`: no batch that runs for less is called hung;
        until one has run, `first_speed` says what to expect."""
        self._run = run
        self._executor = executor
        self._batch_tokens = batch_tokens
        self._batch_items = batch_items
        self._limits = limits
        self._parallel = parallel
        self._pads = pads
        self.cache = cache
        self._first_speed = first_speed
        #: Requests with inputs in the queue, the oldest first.
        self._lines: dict[Ticket, None] = {}
        #: Requests that have not been answered.
        self._open: dict[Ticket, None] = {}
        self._flying: dict[Hashable, Item] = {}
        self._running = 0
        self.running_batches = RunningBatches(hung_s)
        self._overloaded_until = 0.0
        self._turn = 0
        self._filled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        #: Tokens per second, while it computes; 0 until it has computed.
        self.speed = 0.0
        self.waiting = self.waiting_tokens = 0
        #: Inputs that were being computed for another request.
        self.shared = 0
        #: Called after every batch, with the seconds it took.
        self.on_batch: Callable[[Sequence[Item], float], None] = lambda items, seconds: None
        #: The only request here has been at a worker that ended.
        self.is_suspicious = False
        #: Called with a batch that does not end, and the seconds it has run.
        self.on_hung: Callable[[Sequence[Item], float], None] = lambda items, seconds: None

    @property
    def _is_overloaded(self) -> bool:
        return time.perf_counter() < self._overloaded_until

    @property
    def busy(self) -> bool:
        return bool(self._lines or self._running)

    def submit(
        self,
        values: Sequence[Any],
        tokens: Sequence[int],
        *,
        key: Hashable,
        seconds_left: float,
        owner: str,
        identities: Sequence[Hashable] | None = None,
    ) -> Ticket:
        """Queues the inputs of one request, all or none; await the ticket's `done`."""
        if self._closed:
            raise errors.WorkerDraining("The worker stops.")
        loop = asyncio.get_running_loop()
        ticket = Ticket(owner, key, len(values), loop.time() + seconds_left, loop.create_future())
        if not values:
            ticket.done.set_result([])
            return ticket
        self._refuse_what_would_wait(owner, sum(tokens), seconds_left)
        for index, value in enumerate(values):
            identity = None if identities is None else (key, identities[index])
            if identity is None or not self._is_known(identity, ticket, index):
                item = Item(value, tokens[index], identity, ticket, index)
                if identity is not None:
                    self._flying[identity] = item
                self._append(ticket, item)
        if ticket.done.done():
            return ticket
        # The next to go is taken from the end: the longest first where like lengths go together, else in order.
        if self._pads:
            ticket.waiting.sort(key=_tokens_of)
        else:
            ticket.waiting.reverse()
        self._open[ticket] = None
        ticket.done.add_done_callback(lambda _: self._leave(ticket))
        if ticket.waiting:
            self._lines[ticket] = None
            self._filled.set()
            if not self._tasks:
                self._tasks = [loop.create_task(self._work(), name="batcher") for _ in range(self._parallel)]
        return ticket

    def _is_known(self, identity: Hashable, ticket: Ticket, index: int) -> bool:
        """True when the answer is in the cache, or is being computed for another request."""
        if self.cache is not None:
            answer = self.cache.get(identity)
            if answer is not None:
                ticket.settle(index, answer)
                return True
        item = self._flying.get(identity)
        # What waits with a batch comes too late for others.
        if item is None or (item.claims[0][0].is_batch and not ticket.is_batch):
            return False
        item.claims.append((ticket, index))
        self.shared += 1
        return True

    def _append(self, ticket: Ticket, item: Item) -> None:
        ticket.waiting.append(item)
        ticket.tokens += item.tokens
        self.waiting += 1
        self.waiting_tokens += item.tokens

    def _refuse_what_would_wait(self, owner: str, tokens: int, seconds_left: float) -> None:
        queue = QueueState(len(self._lines), self.waiting_tokens, self.speed, self._is_overloaded)
        limits = self._limits.of_batch if is_batch(owner) else self._limits
        refused = refusal(tokens, seconds_left, queue, (ticket.tokens for ticket in self._lines), limits)
        if refused is not None and len(ahead := ahead_of(owner, self._lines)) < len(self._lines):
            sizes = [ticket.tokens for ticket in ahead]
            refused = refusal(
                tokens, seconds_left, queue._replace(requests=len(sizes), tokens=sum(sizes)), sizes, limits
            )
        if refused is None:
            return
        if refused.begins_overload:
            self._overloaded_until = time.perf_counter() + OVERLOADED_S
        raise refused.error

    def cancel(self, owner: str) -> bool:
        """Drops what that caller still has waiting; what is being computed runs to its end, and nobody gets the answer.

        An owner is `<request>@<key>#<call>`; without the call it means all of them.
        """
        tickets = [
            ticket
            for ticket in self._open
            if owner in (ticket.owner, ticket.owner.partition("#")[0]) and not ticket.done.done()
        ]
        for ticket in tickets:
            ticket.fail(errors.RequestCancelled(f"The request has been cancelled: {request_of(owner)}"))
            self._leave(ticket)
        return bool(tickets)

    def overdue(self) -> list[str]:
        """The owners of the requests in batches that run for much longer than is usual."""
        return self.running_batches.overdue()

    def close(self) -> None:
        """Fails every request that waits or is being computed, and takes nothing more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for ticket in tuple(self._open):
            ticket.fail(errors.WorkerDraining("The worker stops."))
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        """Removes a request that needs nothing more. Inputs that other requests want, too, go on waiting with those."""
        self._open.pop(ticket, None)
        self._lines.pop(ticket, None)
        waiting, ticket.waiting, ticket.tokens = ticket.waiting, [], 0
        for item in waiting:
            self.waiting -= 1
            self.waiting_tokens -= item.tokens
            item.claims = [claim for claim in item.claims if not claim[0].done.done()]
            if not item.claims:
                self._flying.pop(item.identity, None)
                continue
            heir = item.claims[0][0]
            self._append(heir, item)
            if self._pads:
                heir.waiting.pop()
                insort(heir.waiting, item, key=_tokens_of)
            self._lines[heir] = None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._lines:
                self._filled.clear()
                await self._filled.wait()
            batch = self._next_batch(loop.time())
            if not batch:
                continue
            self._running += 1
            # Batches at once share the speed.
            speed = (self.speed or self._first_speed) / self._parallel
            try:
                with self.running_batches.timed(batch, speed, self.is_suspicious, self.on_hung):
                    await self._run_batch(batch)
            # This loop must never end: all later requests would wait for ever.
            except Exception as error:
                for item in batch:
                    item.fail(error)
            finally:
                self._running -= 1
                for item in batch:
                    if self._flying.get(item.identity) is item:
                        del self._flying[item.identity]

    def _next_batch(self, now: float) -> list[Item]:
        for ticket in [ticket for ticket in self._lines if ticket.deadline <= now or ticket.done.done()]:
            ticket.fail(errors.DeadlineExceeded("The request's time ran out while it waited in the queue."))
            self._leave(ticket)
        if not self._lines:
            return []
        self._turn += 1
        is_oldest = is_for_the_oldest(self._turn, self._is_overloaded)
        lane = in_turn(self._lines, self._turn, time.perf_counter())
        leader = lane[0] if is_oldest else min(lane, key=_tokens_of)
        others = sorted((t for t in self._lines if t is not leader and t.key == leader.key), key=_lane_and_tokens_of)
        if self._pads:
            batch = _alike(leader, others, self._batch_tokens, self._batch_items, self._move)
        else:
            batch = self._filling(leader, others, is_oldest)
        for ticket in (leader, *others):
            if not ticket.waiting:
                self._lines.pop(ticket, None)
        return batch

    def _filling(self, leader: Ticket, others: Sequence[Ticket], is_oldest: bool) -> list[Item]:
        """Without padding any inputs fit together."""
        batch: list[Item] = []
        room = self._batch_tokens
        share = leaders_share(room, is_oldest, bool(others), self._is_overloaded)
        used = self._take(leader, share, batch, or_one=True)
        room -= used
        for ticket in others:
            if room <= 0 or len(batch) >= self._batch_items:
                return batch
            room -= self._take(ticket, room, batch)
        self._take(leader, room, batch)
        return batch

    def _take(self, ticket: Ticket, room: int, batch: list[Item], or_one: bool = False) -> int:
        used = 0
        while ticket.waiting and len(batch) < self._batch_items:
            item = ticket.waiting[-1]
            if used + item.tokens > room and not (or_one and not batch):
                break
            self._move(ticket, len(ticket.waiting) - 1, batch)
            used += item.tokens
        return used

    def _move(self, ticket: Ticket, place: int, batch: list[Item]) -> None:
        item = ticket.waiting.pop(place)
        ticket.tokens -= item.tokens
        self.waiting -= 1
        self.waiting_tokens -= item.tokens
        batch.append(item)

    async def _run_batch(self, batch: Sequence[Item]) -> None:
        """Runs a batch. When it fails, runs its halves, and so on, until only the inputs that fail are left."""
        started = time.perf_counter()
        for item in batch:
            for ticket, _ in item.claims:
                ticket.started_at = ticket.started_at or started
        outputs, error = await _computed(self._executor, self._run, [item.value for item in batch])
        if error is not None:
            if len(batch) > 1 and not isinstance(error, MemoryError):
                middle = len(batch) // 2
                await self._run_batch(batch[:middle])
                await self._run_batch(batch[middle:])
                return
            for item in batch:
                item.fail(error)
            return
        seconds = time.perf_counter() - started
        self.speed = speed_after(self.speed, sum(item.tokens for item in batch) * self._running, seconds)
        self.on_batch(batch, seconds)
        for item, output in zip(batch, outputs, strict=True):
            if self.cache is not None and item.identity is not None and not isinstance(output, Exception):
                self.cache.put(item.identity, output)
            item.settle(output)


def _alike(
    leader: Ticket, others: Sequence[Ticket], tokens: int, items: int, move: Callable[[Ticket, int, list[Item]], None]
) -> list[Item]:
    """The leader's longest input, and what comes nearest to its length, from everybody; from batches last."""
    longest = leader.waiting[-1].tokens
    shortest = min(int(longest * ALIKE), longest - NEARLY_TOKENS)
    most = min(max(1, tokens // max(longest, 1)), items)
    tickets = (leader, *others)
    # The place of each one's longest that is not too long; of equals the leader's goes first.
    indices = [bisect_left(ticket.waiting, longest + 1, key=_tokens_of) - 1 for ticket in tickets]
    nearest = [
        (n > 0 and tickets[n].is_batch, -tickets[n].waiting[index].tokens, n)
        for n, index in enumerate(indices)
        if index >= 0 and tickets[n].waiting[index].tokens >= shortest
    ]
    heapify(nearest)
    batch: list[Item] = []
    while nearest and len(batch) < most:
        lane, _, n = nearest[0]
        waiting, index = tickets[n].waiting, indices[n]
        move(tickets[n], index, batch)
        indices[n] = index - 1
        if index and waiting[index - 1].tokens >= shortest:
            heapreplace(nearest, (lane, -waiting[index - 1].tokens, n))
        else:
            heappop(nearest)
    return batch


async def _computed(executor: Executor, run: Run, values: Sequence[Any]) -> Computed:
    """What a thread of the model makes of them. The loop's own way there and back takes three times as long, since it
    joins a future of the loop to one of threads."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Computed] = loop.create_future()

    def compute() -> None:
        computed = _run_safely(run, values)
        # The loop is closed when the process ends, and then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, done, computed)

    executor.submit(compute)
    return await done


def _settle(done: asyncio.Future[Computed], computed: Computed) -> None:
    if not done.done():
        done.set_result(computed)


def speed_after(before: float, tokens: int, seconds: float) -> float:
    """Tokens per second, after so many more of them took so long; before the first, 0."""
    newest = tokens / max(seconds, 1e-6)
    return (1 - NEWEST) * before + NEWEST * newest if before else newest


def patience_s(tokens: int, speed: float, hung_s: float) -> float:
    """Seconds after which a batch of so many tokens is taken to hang, at a speed in tokens per second."""
    return max(hung_s, HUNG_TIMES * tokens / speed if speed else HUNG_UNMEASURED_S)


def _run_safely(run: Run, values: Sequence[Any]) -> Computed:
    """In a model's thread. What it raises comes back as a value: a future cannot carry StopIteration, and a
    CancelledError would end the loop."""
    try:
        outputs = run(values)
        if len(outputs) != len(values):
            raise errors.InferenceFailed(f"The model gave {len(outputs)} answers for {len(values)} inputs.")
        return outputs, None
    # A model library can raise anything, and the requests of this batch are to get it.
    except Exception as error:
        return (), error
    # Some raise what is no Exception, such as CancelledError; the waiting requests must hear of that too.
    except BaseException as error:
        return (), errors.InferenceFailed(f"{type(error).__name__}: {error}")
