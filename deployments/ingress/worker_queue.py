"""What goes from an ingress to one worker: gathered, sent, tried alone, cancelled, and given up when it is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from cluster import errors
from cluster.calls import Answer, Call, is_batch
from cluster.runtime.worker_client import WorkerClient
from cluster.suspicion import fingerprint_of
from deployments.ingress.open_answer import OpenAnswer

log = logging.getLogger("cluster.ingress")

#: Requests in one call to a worker; more would make the first wait for the pickling of the last.
GATHER_MOST = 256
#: Requests of more characters than this take long, and are sent by themselves.
LONG = 2000
#: How long a worker that refused a request as too much is not asked again: it would refuse again, only later.
FULL_S = 0.2
#: A worker that has work and answers nothing for this long is pinged, and must answer the ping within PING_S.
SILENT_S = 2.0
PING_S = 1.5
#: Between two pings of a silent worker.
PING_PAUSE_S = 0.5


def size_of(items: Sequence[Any]) -> int:
    """How large a request is, before anybody has counted its tokens."""
    return sum(len(item) for item in items if isinstance(item, (str, list)))


def by_lane(gathered: Sequence[Sent]) -> list[list[Sent]]:
    """Those that somebody waits for by themselves: what goes together is answered together, the last of it last."""
    lanes = ([sent for sent in gathered if is_batch(sent.call.id) is waits] for waits in (False, True))
    return [lane for lane in lanes if lane]


class Sent:
    """A call on its way to one worker, and who waits for its answer."""

    __slots__ = ("answer", "call", "in_pieces", "is_alone", "is_cleared", "is_forgotten", "is_given_up", "is_long")

    def __init__(self, call: Call, answer: asyncio.Future[Any], is_long: bool, in_pieces: bool = False) -> None:
        """`answer`: an `Answer`, or the `OpenAnswer` of one in pieces."""
        self.call = call
        self.answer = answer
        self.is_long = is_long
        self.in_pieces = in_pieces
        self.is_forgotten = False
        #: The worker runs this call and no other.
        self.is_alone = False
        #: The worker does not compute it: it is not there yet, or has been answered elsewhere.
        self.is_cleared = False
        self.is_given_up = False

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.call.ability, self.call.items, self.call.params)


class GivenUp(Exception):
    """The worker is silent; `sent` may still be answered."""

    def __init__(self, sent: Sent) -> None:
        super().__init__()
        self.sent = sent


class Fullness:
    """What a worker has just refused as one too many."""

    def __init__(self) -> None:
        #: The size of the smallest request that it refused, and until when that holds.
        self._full: tuple[int, float, errors.Overloaded] | None = None

    def refuse(self, size: int) -> None:
        if self._full is not None:
            least, until, refusal = self._full
            if asyncio.get_running_loop().time() >= until:
                self._full = None
            elif size >= least:
                raise errors.Overloaded(*refusal.args)

    def remember(self, call: Call, refusal: errors.Overloaded) -> None:
        if is_batch(call.id):
            # It is refused for others of its kind, too, which are in nobody else's way.
            return
        least = size_of(call.items) if self._full is None else min(size_of(call.items), self._full[0])
        self._full = least, asyncio.get_running_loop().time() + FULL_S, refusal


class WorkerQueue:
    """What goes to one worker: requests that arrive close together share one call.

    With no call on its way a request goes at once. Otherwise it waits for that call to return or for `gather_s`,
    whichever is first: a busy worker gets few and large calls, and a slow one delays nobody by more than `gather_s`.
    """

    def __init__(
        self,
        client: WorkerClient,
        gather_s: float,
        on_send: Callable[[int], None],
        on_death: Callable[[Sequence[Sent]], None] = lambda sent: None,
        on_silence: Callable[[bool], None] = lambda is_silent: None,
        on_overdue: Callable[[Sequence[Sent]], bool] = lambda sent: False,
        on_in_time: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_death` is told once, of all that the worker had when it died; `on_silence`, when a worker that has work
        stops answering anything, and when it answers again. `on_overdue` is told of the calls that the worker computes
        for much longer than is usual, again and again, and says whether all that it has may be asked elsewhere;
        `on_in_time`, when there are no such calls any more."""
        self.client = client
        self._gather_s = gather_s
        self._on_send = on_send
        self._on_death = on_death
        self._on_silence = on_silence
        self._on_overdue = on_overdue
        self._on_in_time = on_in_time
        self._waiting: list[Sent] = []
        #: The calls that the worker has.
        self._sent: dict[Sent, None] = {}
        self._on_their_way = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many requests the worker last said it had.
        self.queued = 0
        self._fullness = Fullness()
        self._is_dead = False
        self._is_silent = False
        self._is_overdue = False
        self._heard_at = 0.0
        self._listener: asyncio.Task[None] | None = None

    @property
    def sent(self) -> tuple[Sent, ...]:
        """The calls that the worker has."""
        return tuple(sent for sent in self._sent if not sent.is_cleared)

    def refuse(self, size: int) -> None:
        """Raises what the worker would answer: it has just refused a request as large. Smaller ones are still sent."""
        self._fullness.refuse(size)

    async def send(self, call: Call, alone: bool = False) -> Answer:
        """`alone`: it takes long, so requests that were gathered with it would have to wait."""
        loop = asyncio.get_running_loop()
        sent = Sent(call, loop.create_future(), alone)
        if alone or size_of(call.items) > LONG:
            self._on_send(1)
            self._spawn(self._carry([sent]))
        else:
            self._waiting.append(sent)
            if self._timer is None:
                # Even an idle queue waits for the end of this turn of the loop: what was read together goes together.
                busy = self._on_their_way
                self._timer = loop.call_later(self._gather_s, self._go) if busy else loop.call_soon(self._go)
        answer: Answer = await self._answered(sent)
        return answer

    async def send_tried(self, call: Call, alone: bool = False) -> Answer:
        """For a suspect: the worker finishes its other calls first, so that none is lost or suspected if it dies."""
        answer: Answer = await self._tried(Sent(call, asyncio.get_running_loop().create_future(), alone))
        return answer

    async def begin(self, call: Call, alone: bool = False) -> OpenAnswer:
        """For an answer in pieces; returns when the first are there."""
        sent = Sent(call, asyncio.get_running_loop().create_future(), alone, in_pieces=True)
        self._on_send(1)
        self._spawn(self._open(sent))
        begun: OpenAnswer = await self._answered(sent)
        return begun

    async def begin_tried(self, call: Call, alone: bool = False) -> OpenAnswer:
        """The same for a suspect."""
        sent = Sent(call, asyncio.get_running_loop().create_future(), alone, in_pieces=True)
        begun: OpenAnswer = await self._tried(sent)
        return begun

    async def _tried(self, sent: Sent) -> Any:
        self._on_send(1)
        self._spawn(self._carry_tried(sent))
        return await self._answered(sent)

    async def _answered(self, sent: Sent) -> Any:
        try:
            return await sent.answer
        except asyncio.CancelledError:
            self.forget(sent)
            raise

    def forget(self, sent: Sent) -> None:
        """Nobody waits for it any more: it is not sent, or the worker is told."""
        sent.is_forgotten = True
        if sent.in_pieces and sent.answer.done() and not sent.answer.cancelled() and not sent.answer.exception():
            self._spawn(sent.answer.result().close())
        if sent in self._waiting:
            self._waiting.remove(sent)
        elif not self._is_silent:
            self._spawn(self._cancel(sent.call.id))

    async def _cancel(self, owner: str) -> None:
        try:
            await self.client.cancel([owner])
        except errors.ClusterError as error:
            log.info("request %s could not be cancelled: %s", owner, error)

    def _go(self) -> None:
        self._timer = None
        batch, self._waiting = self._waiting[:GATHER_MOST], self._waiting[GATHER_MOST:]
        for lane in by_lane(batch):
            self._on_send(len(lane))
            self._spawn(self._carry_gathered(lane))
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_soon(self._go)

    async def _carry_gathered(self, batch: Sequence[Sent]) -> None:
        """While it is on its way, others gather."""
        self._on_their_way += 1
        try:
            await self._carry(batch)
        finally:
            self._on_their_way -= 1
            if self._waiting and not self._on_their_way:
                if self._timer is not None:
                    self._timer.cancel()
                self._go()

    async def _carry_tried(self, sent: Sent) -> None:
        sent.is_cleared = True
        self._expect([sent])
        try:
            await self.client.reserve(sent.call.id, max(sent.call.seconds_left, 0.0))
        # Whatever fails, the caller waits for an answer and must get one.
        except Exception as error:
            self._failed([sent], error)
            return
        finally:
            self._sent.pop(sent, None)
        if sent.answer.done():
            await self._cancel(sent.call.id)
            return
        sent.is_cleared, sent.is_alone = False, True
        await (self._open(sent) if sent.in_pieces else self._carry([sent]))

    async def _open(self, sent: Sent) -> None:
        """Waits for the first pieces. The call counts as sent until the last has come."""
        self._expect([sent])
        coming = self.client.talk(sent.call, sent.call.seconds_left + 5)

        def heard() -> None:
            self._heard_at = asyncio.get_running_loop().time()

        def end(reason: Exception | None) -> None:
            if sent in self._sent and isinstance(reason, errors.WorkerLost):
                self._failed([sent], reason)
            self._sent.pop(sent, None)

        try:
            first = await anext(coming)
        # As above; pickling a call can raise anything.
        except Exception as error:
            if isinstance(error, errors.Overloaded):
                self._fullness.remember(sent.call, error)
            self._failed([sent], error)
            self._sent.pop(sent, None)
            return
        heard()
        begun = OpenAnswer(first, coming, heard, end)
        if sent.is_forgotten or sent.answer.done():
            await begun.close()
        else:
            sent.answer.set_result(begun)

    async def _carry(self, batch: Sequence[Sent]) -> None:
        longest = max(sent.call.seconds_left for sent in batch)
        self._expect(batch)
        try:
            outcomes, self.queued = await self.client.infer([sent.call for sent in batch], longest + 5)
            while unanswered := self._deliver(batch, outcomes):
                batch = unanswered
                outcomes, self.queued = await self.client.collect([sent.call.id for sent in batch], longest + 5)
        # As above; pickling a call can raise anything.
        except Exception as error:
            self._failed(batch, error)
        finally:
            for sent in batch:
                self._sent.pop(sent, None)

    def _deliver(self, batch: Sequence[Sent], outcomes: Sequence[Answer | errors.ClusterError | None]) -> list[Sent]:
        """Delivers the outcomes; returns the calls that have none yet."""
        self._heard_at = asyncio.get_running_loop().time()
        unanswered = []
        for sent, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                unanswered.append(sent)
                continue
            self._sent.pop(sent, None)
            if isinstance(outcome, errors.Overloaded):
                self._fullness.remember(sent.call, outcome)
            if sent.answer.done():
                continue
            if isinstance(outcome, Answer):
                sent.answer.set_result(outcome)
            else:
                sent.answer.set_exception(outcome)
        return unanswered

    def _failed(self, batch: Sequence[Sent], error: Exception) -> None:
        if isinstance(error, errors.WorkerLost) and not self._is_dead:
            self._is_dead = True
            self._on_death([sent for sent in self._sent if not sent.is_cleared])
        # One call that cannot be pickled must not fail the others in its batch: send each by itself.
        if not isinstance(error, errors.ClusterError) and len(batch) > 1:
            for sent in batch:
                self._spawn(self._carry([sent]))
            return
        refusal = error if isinstance(error, errors.ClusterError) else errors.BadRequest(f"It cannot be sent: {error}")
        for sent in batch:
            if not sent.answer.done():
                sent.answer.set_exception(refusal)

    def _expect(self, batch: Sequence[Sent]) -> None:
        if not self._sent:
            self._heard_at = asyncio.get_running_loop().time()
        for sent in batch:
            self._sent[sent] = None
        if self._listener is None or self._listener.done():
            self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        """A busy worker still says which of its calls take too long. One that says nothing is hanging."""
        loop = asyncio.get_running_loop()
        while (self._sent or self._is_silent or self._is_overdue) and not self._is_dead:
            await asyncio.sleep(max(self._heard_at + SILENT_S - loop.time(), PING_PAUSE_S))
            is_doubtful = self._is_silent or self._is_overdue
            if not is_doubtful and (not self._sent or loop.time() - self._heard_at < SILENT_S):
                continue
            late: Sequence[str] = ()
            try:
                late = await self.client.overdue(PING_S)
            except errors.WorkerLost:
                return
            except errors.ClusterError:
                is_silent = True
            else:
                is_silent = False
            if is_silent != self._is_silent:
                self._is_silent = is_silent
                self._on_silence(is_silent)
            if is_silent:
                self._give_up()
                continue
            self._see_overdue(set(late))
            for sent in self._sent:
                if sent.is_given_up and sent.is_cleared:
                    self._spawn(self._cancel(sent.call.id))

    def _see_overdue(self, ids: set[str]) -> None:
        """The rest of what the worker has waits behind these calls, of which some may be another ingress's."""
        was_overdue, self._is_overdue = self._is_overdue, bool(ids)
        if ids:
            if self._on_overdue([sent for sent in self._sent if sent.call.id in ids]):
                self._give_up()
        elif was_overdue:
            self._on_in_time()

    def _give_up(self) -> None:
        """Lets callers ask another worker; an answer of this one is still taken if it comes first."""
        for sent in self._sent:
            if not sent.is_given_up and not sent.answer.done():
                sent.is_given_up = True
                waiting, sent.answer = sent.answer, asyncio.get_running_loop().create_future()
                # Read its error even if no caller is left, or asyncio would log it as never retrieved.
                sent.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
                waiting.set_exception(GivenUp(sent))

    def close(self) -> None:
        """The worker is not in the table any more; what is open is still answered."""
        self.client.retire()
        if self._listener is not None:
            self._listener.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
