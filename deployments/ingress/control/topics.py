"""What a reader of the stream may be told besides models and nodes, as far as it asks: each second, what models and
workers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, cast

import orjson
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.keys import Key
from cluster.names import quoted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import Event, EventQuery, WorkerName
from deployments.ingress.control.series import ModelSeries, body_of
from deployments.ingress.control.shapes import PastEvent, past_event
from deployments.ingress.control.shared_answers import SharedAnswers
from deployments.ingress.log_lines import LogFollowers
from deployments.ingress.model_history import ModelHistory, WorkerPace
from deployments.ingress.rings import COARSE_S, FINE_S, SERIES
from deployments.ingress.routing import RouteTable

#: The most topics of one reader.
MOST_TOPICS = 8
NAMES = "figures, figures:UID, workers, events and log:UID"
#: Events that are asked for at once, those that are told to somebody who begins to read, and the pause between.
MOST_EVENTS = 100
FIRST_EVENTS = 20
EVENTS_S = 1.0
RETRY_S = 3.0
#: How far back numbers are told when somebody begins to read: there may have been a while since it asked for the rest.
BACK_S = 5

T = TypeVar("T")
Topic = Callable[[], AsyncGenerator[bytes]]


class LivePace(TypedDict):
    """What a worker did in the last second, and what it has done since it began."""

    model: str
    #: Of its replica.
    index: int
    generation: int
    waiting: int
    running: int
    #: Inputs in a batch; where each request is worked on by itself, how many are.
    batch: float
    requests: float
    errors: float
    tokens: float
    #: Since it began: inputs that were answered together with others, those out of the cache, and those not there.
    shared: int
    cache_hits: int
    cache_misses: int


class LivePaces(TypedDict):
    """Those that are not as they were, by the names of the workers; all when somebody begins to read."""

    whole: bool
    workers: dict[str, LivePace]
    gone: list[str]


class LiveEvents(TypedDict):
    """The newest last."""

    events: list[PastEvent]
    #: More has happened than is told here.
    missed: bool


class Topics:
    """By its name, what tells a reader of it."""

    def __init__(self, history: ModelHistory, table: RouteTable, supervisor: SupervisorClient) -> None:
        self._history = history
        self._table = table
        self._logs = LogFollowers(supervisor)
        self._told: dict[Hashable, Any] = {}
        self._told_at = -1

        async def recent(uids: tuple[str, ...] | None) -> Sequence[Event]:
            return await supervisor.recent_events(EventQuery(limit=MOST_EVENTS, uids=uids))

        self._recent = SharedAnswers(recent)

    def of(self, names: Iterable[str], key: Key | None, cursor: str = "", *, goes_on: bool = False) -> list[Topic]:
        """Raises for one that there is not, or that the key may not read. `goes_on`: a reader comes again, and a model
        may have gone meanwhile, or be here before the table says so; it is told of it as soon as it is there."""
        chosen = list(dict.fromkeys(names))
        if len(chosen) > MOST_TOPICS:
            raise errors.BadRequest(f"{len(chosen)} topics are asked for, {MOST_TOPICS} are allowed.", "topic")
        return list(dict(self._of(name, key, cursor, goes_on) for name in chosen).values())

    def _of(self, name: str, key: Key | None, cursor: str, goes_on: bool) -> tuple[tuple[str, str], Topic]:
        """With what it is, whichever of the names of its model it was asked for by."""
        kind, _, uid = name.partition(":")
        if uid:
            uid = self._table.uid_of(uid, key)
            keys.check_model(key, uid)
            if uid not in self._table.models and not goes_on:
                raise errors.UnknownUid(f"Model not found in the model list, uid: {quoted(uid)}", "topic")
        match kind, bool(uid):
            case "figures", _:
                return (kind, uid), partial(self._figures, uid or None, key)
            case "workers", False:
                return (kind, uid), partial(self._workers, key)
            case "events", False:
                return (kind, uid), partial(self._events, key)
            case "log", True:
                return (kind, uid), partial(self._log, uid, cursor)
        raise errors.BadRequest(f"There is no topic {quoted(name)}; there are {NAMES}.", "topic")

    def _once(self, question: Hashable, answer: Callable[[], T]) -> T:
        """The same for all who ask it within a second: many readers cost what one does."""
        if self._told_at != self._history.ticks:
            self._told, self._told_at = {}, self._history.ticks
        if question not in self._told:
            self._told[question] = answer()
        return cast(T, self._told[question])

    async def _figures(self, uid: str | None, key: Key | None) -> AsyncGenerator[bytes]:
        sent = dict.fromkeys((FINE_S, COARSE_S), int(time.time()) - BACK_S)
        while True:
            await self._history.ticked()
            if uid is not None and uid not in self._table.models:
                continue
            for step_s, since in sent.items():
                question = ("figures", uid, keys.models_of(key) if uid is None else None, since, step_s)
                end, message = self._once(question, partial(self._figures_since, uid, key, since, step_s))
                if message:
                    sent[step_s] = end
                    yield message

    def _figures_since(self, uid: str | None, key: Key | None, since: int, step_s: int) -> tuple[int, bytes]:
        """With where it ends."""
        if uid is None:
            steps = self._history.all_steps(key, since, step_s)
        else:
            steps = self._history.steps(uid, since, step_s)
        if not len(steps.rows):
            return since, b""
        body: ModelSeries = body_of(self._history, uid, steps, SERIES)
        return steps.begin + step_s * len(steps.rows), event("figures", body)

    async def _log(self, uid: str, cursor: str) -> AsyncGenerator[bytes]:
        while True:
            # Nobody is asked about a model that is not there, whatever it is called.
            if uid in self._table.models:
                async with aclosing(self._logs.read(uid, cursor)) as reading:
                    async for lines in reading:
                        question = ("log", lines["cursor"], lines["whole"], len(lines["lines"]))
                        yield self._once(question, partial(event, "log", lines))
            await self._history.ticked()

    async def _events(self, key: Key | None) -> AsyncGenerator[bytes]:
        uids = keys.models_of(key)
        last: int | None = None
        while True:
            try:
                recent = await self._recent.answer(uids, EVENTS_S / 2)
            except errors.ClusterError:
                # The supervisor is away; what happens meanwhile is told when it is back.
                await asyncio.sleep(RETRY_S)
                continue
            news = recent[:FIRST_EVENTS] if last is None else [each for each in recent if each.id > last]
            if news:
                missed = last is not None and len(news) == MOST_EVENTS
                question = ("events", uids, len(news), news[0].id, missed)
                yield self._once(question, partial(_events_told, news, missed))
            last = recent[0].id if recent else last or 0
            await asyncio.sleep(EVENTS_S)

    async def _workers(self, key: Key | None) -> AsyncGenerator[bytes]:
        sight = keys.models_of(key)
        before: tuple[int, Mapping[str, LivePace] | None] = (-1, None)
        while True:
            now = self._once(("workers", sight), lambda: dict(_paces(self._history.paces, key)))
            message = self._once(("workers", sight, before[0]), partial(_workers_told, before[1], now))
            before = (self._history.ticks, now)
            if message:
                yield message
            await self._history.ticked()


def _events_told(news: Sequence[Event], missed: bool) -> bytes:
    body: LiveEvents = {"events": [past_event(each) for each in reversed(news)], "missed": missed}
    return event("events", body)


def _workers_told(before: Mapping[str, LivePace] | None, now: Mapping[str, LivePace]) -> bytes:
    """Those that are not as they were before; empty where all are."""
    known = before or {}
    changed = {name: row for name, row in now.items() if known.get(name) != row}
    gone = [name for name in known if name not in now]
    if before is not None and not changed and not gone:
        return b""
    body: LivePaces = {"whole": before is None, "workers": changed, "gone": gone}
    return event("workers", body)


def _paces(paces: Mapping[str, WorkerPace], key: Key | None) -> Iterator[tuple[str, LivePace]]:
    for text, pace in paces.items():
        name = WorkerName.parse(text)
        if name is None or not keys.sees(key, name.uid):
            continue
        happened, doing = pace.happened, pace.figures.doing
        yield (
            text,
            {
                "model": name.uid,
                "index": name.index,
                "generation": name.generation,
                "waiting": happened.waiting,
                "running": happened.running,
                "batch": round(happened.batch, 2),
                "requests": round(happened.requests / pace.seconds, 2),
                "errors": round(happened.errors / pace.seconds, 2),
                "tokens": round(happened.tokens / pace.seconds, 1),
                "shared": doing.shared,
                "cache_hits": doing.cache_hits,
                "cache_misses": doing.cache_misses,
            },
        )


def event(kind: str, body: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"


async def merged(
    is_ending: asyncio.Event, first: AsyncGenerator[bytes], *others: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """What all of them tell, as it comes, until the first ends or the server does."""
    coming = {asyncio.ensure_future(anext(source, None)): source for source in (first, *others)}
    end: asyncio.Task[Any] = asyncio.create_task(is_ending.wait())
    try:
        while True:
            await asyncio.wait((*coming, end), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                # Whoever reads it opens the next at another ingress.
                return
            # What is there of the first goes first: readers hear of models before they hear of their numbers.
            for task in sorted(filter(asyncio.Future.done, coming), key=lambda each: coming[each] is not first):
                source, next_event = coming.pop(task), task.result()
                if next_event is None and source is first:
                    return
                if next_event is not None:
                    yield next_event
                    coming[asyncio.ensure_future(anext(source, None))] = source
    finally:
        end.cancel()
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for source in (first, *others):
            await source.aclose()
