"""What a reader of the stream may be told besides models and nodes, as far as it asks: each second, what models and
workers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial

import orjson
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.keys import Key
from cluster.names import quoted
from cluster.status import WorkerName
from deployments.ingress.control.series import ModelSeries, body_of
from deployments.ingress.model_history import ModelHistory, WorkerPace
from deployments.ingress.rings import COARSE_S, FINE_S, SERIES
from deployments.ingress.routing import RouteTable

#: The most topics of one reader.
MOST_TOPICS = 8
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


class Topics:
    """By its name, `figures`, `figures:UID` or `workers`, what tells a reader of it."""

    def __init__(self, history: ModelHistory, table: RouteTable) -> None:
        self._history = history
        self._table = table

    def of(self, names: Iterable[str], key: Key | None) -> list[Topic]:
        """Raises for one that there is not, or that the key may not read."""
        chosen = list(dict.fromkeys(names))
        if len(chosen) > MOST_TOPICS:
            raise errors.BadRequest(f"{len(chosen)} topics are asked for, {MOST_TOPICS} are allowed.", "topic")
        return [self._of(name, key) for name in chosen]

    def _of(self, name: str, key: Key | None) -> Topic:
        kind, _, uid = name.partition(":")
        if uid:
            uid = self._table.uid_of(uid, key)
            keys.check_model(key, uid)
        match kind, bool(uid):
            case "figures", _:
                return partial(self._figures, uid or None, key)
            case "workers", False:
                return partial(self._workers, key)
        raise errors.BadRequest(
            f"There is no topic {quoted(name)}; there are figures, figures:UID and workers.", "topic"
        )

    async def _figures(self, uid: str | None, key: Key | None) -> AsyncGenerator[bytes]:
        sent = dict.fromkeys((FINE_S, COARSE_S), int(time.time()) - BACK_S)
        while True:
            await self._history.ticked()
            for step_s, since in sent.items():
                if uid is None:
                    steps = self._history.all_steps(key, since, step_s)
                else:
                    steps = self._history.steps(uid, since, step_s)
                if len(steps.rows):
                    sent[step_s] = steps.begin + step_s * len(steps.rows)
                    body: ModelSeries = body_of(self._history, uid, steps, SERIES)
                    yield event("figures", body)

    async def _workers(self, key: Key | None) -> AsyncGenerator[bytes]:
        told: dict[str, LivePace] | None = None
        while True:
            now = dict(_paces(self._history.paces, key))
            before = told or {}
            changed = {name: row for name, row in now.items() if before.get(name) != row}
            gone = [name for name in before if name not in now]
            if changed or gone or told is None:
                body: LivePaces = {"whole": told is None, "workers": changed, "gone": gone}
                yield event("workers", body)
            told = now
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


async def merged(first: AsyncGenerator[bytes], *others: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """What all of them tell, as it comes. It ends with the first, and the others with it."""
    if not others:
        async with aclosing(first):
            async for told in first:
                yield told
        return
    coming = {asyncio.ensure_future(anext(source, None)): source for source in (first, *others)}
    try:
        while True:
            ready, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            # What is there of the first goes first: readers hear of models before they hear of their numbers.
            for task in sorted(ready, key=lambda each: coming[each] is not first):
                source, next_event = coming.pop(task), task.result()
                if next_event is None and source is first:
                    return
                if next_event is not None:
                    yield next_event
                    coming[asyncio.ensure_future(anext(source, None))] = source
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for source in (first, *others):
            await source.aclose()
