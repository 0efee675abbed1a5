"""What a reader of the stream may be told besides models and nodes, as far as it asks: each second, what models and
workers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

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

        async def recent(uids: tuple[str, ...] | None) -> Sequence[Event]:
            return await supervisor.recent_events(EventQuery(limit=MOST_EVENTS, uids=uids))

        self._recent = SharedAnswers(recent)

    def of(self, names: Iterable[str], key: Key | None, cursor: str = "", *, goes_on: bool = False) -> list[Topic]:
        """Raises for one that there is not, or that the key may not read. `goes_on`: a reader comes again, and a model
        may have gone meanwhile, or be here before the table says so; it is told of it as soon as it is there."""
        chosen = list(dict.fromkeys(names))
        if len(chosen) > MOST_TOPICS:
            raise errors.BadRequest(f"{len(chosen)} topics are asked for, {MOST_TOPICS} are allowed.", "topic")
        return [self._of(name, key, cursor, goes_on) for name in chosen]

    def _of(self, name: str, key: Key | None, cursor: str, goes_on: bool) -> Topic:
        kind, _, uid = name.partition(":")
        if uid:
            uid = self._table.uid_of(uid, key)
            keys.check_model(key, uid)
            if uid not in self._table.models and not goes_on:
                raise errors.UnknownUid(f"Model not found in the model list, uid: {quoted(uid)}", "topic")
        match kind, bool(uid):
            case "figures", _:
                return partial(self._figures, uid or None, key)
            case "workers", False:
                return partial(self._workers, key)
            case "events", False:
                return partial(self._events, key)
            case "log", True:
                return partial(self._log, uid, cursor)
        raise errors.BadRequest(f"There is no topic {quoted(name)}; there are {NAMES}.", "topic")

    async def _figures(self, uid: str | None, key: Key | None) -> AsyncGenerator[bytes]:
        sent = dict.fromkeys((FINE_S, COARSE_S), int(time.time()) - BACK_S)
        while True:
            await self._history.ticked()
            if uid is not None and uid not in self._table.models:
                continue
            for step_s, since in sent.items():
                if uid is None:
                    steps = self._history.all_steps(key, since, step_s)
                else:
                    steps = self._history.steps(uid, since, step_s)
                if len(steps.rows):
                    sent[step_s] = steps.begin + step_s * len(steps.rows)
                    body: ModelSeries = body_of(self._history, uid, steps, SERIES)
                    yield event("figures", body)

    async def _log(self, uid: str, cursor: str) -> AsyncGenerator[bytes]:
        while True:
            # Nobody is asked about a model that is not there, whatever it is called.
            if uid in self._table.models:
                async with aclosing(self._logs.read(uid, cursor)) as reading:
                    async for lines in reading:
                        yield event("log", lines)
            await self._history.ticked()

    async def _events(self, key: Key | None) -> AsyncGenerator[bytes]:
        uids = None if key is None or key.models is None else tuple(key.models)
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
                rows = [past_event(each) for each in reversed(news)]
                body: LiveEvents = {"events": rows, "missed": last is not None and len(news) == MOST_EVENTS}
                yield event("events", body)
            last = recent[0].id if recent else last or 0
            await asyncio.sleep(EVENTS_S)

    async def _workers(self, key: Key | None) -> AsyncGenerator[bytes]:
        sent: dict[str, LivePace] | None = None
        while True:
            now = dict(_paces(self._history.paces, key))
            before = sent or {}
            changed = {name: row for name, row in now.items() if before.get(name) != row}
            gone = [name for name in before if name not in now]
            if changed or gone or sent is None:
                body: LivePaces = {"whole": sent is None, "workers": changed, "gone": gone}
                yield event("workers", body)
            sent = now
            await self._history.ticked()


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
