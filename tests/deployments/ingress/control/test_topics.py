"""What a topic costs; what readers are told over a connection is tested in test_stream.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import numpy as np
import orjson
import pytest

from cluster import errors
from cluster.figures import Doing, Figures, between
from cluster.keys import Key
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import ModelState
from deployments.ingress.control.topics import Topic, Topics
from deployments.ingress.model_history import ModelHistory, WorkerPace
from deployments.ingress.rings import SERIES, Steps
from deployments.ingress.routing import RouteTable

WORKERS = ("worker:m:1:0-a", "worker:n:1:0-b")


class Watched:
    """Stands in for what models did: notes what it is asked, and ticks when it is told to."""

    ingress, since = "i", 0

    def __init__(self) -> None:
        self.ticks = 0
        self.asked: list[Any] = []
        self._tick = asyncio.Event()
        self._paces = {name: _pace(0) for name in WORKERS}

    @property
    def paces(self) -> dict[str, WorkerPace]:
        self.asked.append("paces")
        return self._paces

    async def ticked(self) -> None:
        await self._tick.wait()

    def tick(self, waiting: int) -> None:
        self._paces = {**self._paces, WORKERS[0]: _pace(waiting)}
        self.ticks += 1
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()

    def steps(self, uid: str, since: int, step_s: int) -> Steps:
        self.asked.append(uid)
        return Steps(1000, step_s, np.zeros((1, len(SERIES))))

    def all_steps(self, key: Key | None, since: int, step_s: int) -> Steps:
        self.asked.append(key.models if key else None)
        return Steps(1000, step_s, np.zeros((1, len(SERIES))))


def _pace(waiting: int) -> WorkerPace:
    figures = Figures(doing=Doing(waiting=waiting))
    return WorkerPace(between(figures, figures), 1, 0, figures)


def topics_of(history: Watched) -> Topics:
    models = {uid: ModelRoutes(uid, (), (), ModelState.READY) for uid in ("m", "n", "Qwen")}
    return Topics(cast(ModelHistory, history), RouteTable(models, 1), cast(SupervisorClient, None))


async def read(readers: Sequence[AsyncGenerator[bytes]]) -> list[bytes]:
    return list(await asyncio.gather(*map(anext, readers)))


def limited(*models: str) -> Key:
    return Key(id="k", name="k", digest="d", scopes=("list",), models=models)


def body(told: bytes) -> Any:
    return orjson.loads(told.partition(b"data: ")[2])


def test_a_model_is_one_topic_whatever_it_is_called() -> None:
    async def scene() -> None:
        topics = topics_of(Watched())
        assert len(topics.of(["figures:Qwen", "figures:qwen", "figures:QWEN", "log:qWEN", "figures"], None)) == 3
        with pytest.raises(errors.BadRequest, match="9 topics"):
            topics.of([f"figures:Qwen{'' if n else 'x'}{n}" for n in range(9)], None)

    asyncio.run(scene())


@pytest.mark.parametrize("topic", ["figures", "figures:m", "workers"])
def test_many_readers_cost_what_one_does(topic: str) -> None:
    async def scene(readers: int) -> int:
        history = Watched()
        topics = topics_of(history)
        chosen: list[Topic] = [each for _ in range(readers) for each in topics.of([topic], None)]
        reading = [each() for each in chosen]
        for turn in range(1, 4):
            coming = asyncio.create_task(read(reading))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            history.tick(turn)
            told = await coming
            assert all(each is told[0] for each in told)
        for each in reading:
            await each.aclose()
        return len(history.asked)

    assert asyncio.run(scene(50)) == asyncio.run(scene(1)) > 0


def test_what_is_shared_is_what_a_key_may_see() -> None:
    async def scene() -> None:
        history = Watched()
        topics = topics_of(history)
        reading = [
            each() for key in (None, limited("m"), limited("m"), limited("n")) for each in topics.of(["workers"], key)
        ]
        first = await read(reading)
        assert [sorted(body(each)["workers"]) for each in first] == [list(WORKERS), *[[WORKERS[0]]] * 2, [WORKERS[1]]]
        assert first[1] is first[2]
        coming = asyncio.create_task(read(reading[:3]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        history.tick(7)
        # Who has just come is told all of it.
        late = topics.of(["workers"], None)[0]()
        assert body(await anext(late))["whole"]
        assert [(body(each)["whole"], list(body(each)["workers"])) for each in await coming] == [
            (False, [WORKERS[0]])
        ] * 3
        for each in (*reading, late):
            await each.aclose()

    asyncio.run(scene())
