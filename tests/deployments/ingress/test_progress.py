"""How far a request is: as its worker reports it, or as the ingress counts it where a request takes many calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from fastapi import Request

from cluster import errors
from cluster.calls import View
from cluster.routes import ModelRoutes
from cluster.status import ModelState
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.progress import RequestProgress
from deployments.ingress.routing import RouteTable

READER = ModelRoutes("reader", ("ocr",), (), ModelState.READY)
TEXTS = ModelRoutes("texts", ("embed",), (), ModelState.READY)


class Workers:
    """Stands in for the dispatcher: has what workers say of each request, and records which models were asked."""

    def __init__(self, **views: View) -> None:
        self.table = RouteTable(models={"reader": READER, "texts": TEXTS}, version=1)
        self.views = views
        self.asked: list[str] = []

    async def watch(self, model: ModelRoutes, owner: str, seen: int = -1, wait_s: float = 0.0) -> View | None:
        self.asked.append(model.uid)
        return self.views.get(owner)


def progress_of(workers: Workers) -> RequestProgress:
    return RequestProgress(cast(Dispatcher, workers))


def request(id: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "state": {"request_id": id, "key": None}})


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 5))


def test_a_request_of_many_calls_is_as_far_as_is_counted_here() -> None:
    async def test() -> None:
        progress = progress_of(Workers(a=View(0, "waiting")))
        with progress.counting("reader", "a", 4) as view:
            view.amend(lambda before: before._replace(version=1, step=1, fraction=0.25))
            counted = await progress.watch(READER, "a")
            assert counted is not None and (counted.step, counted.steps, counted.fraction) == (1, 4, 0.25)
        said = await progress.watch(READER, "a")
        assert said is not None and said.state == "waiting"

    run(test())


def test_only_models_that_take_long_are_asked_how_far_a_request_is() -> None:
    async def test() -> None:
        workers = Workers(a=View(0, "running"))
        found = await progress_of(workers).find(None, "a")
        assert found is not None and found.state == "running" and workers.asked == ["reader"]
        assert await progress_of(workers).find(None, "nobody's") is None

    run(test())


@pytest.mark.parametrize(
    ("id", "headers", "streams", "is_refused"),
    [
        ("a", {}, False, True),
        ("b", {}, False, False),
        # It is over by now, so its id is free.
        ("c", {}, False, False),
        # An id in a header is used where the answer is a stream.
        (None, {"x_request_id": "a"}, True, True),
        (None, {"x_request_id": "a"}, False, False),
        (None, {}, True, False),
    ],
)
def test_no_two_requests_have_one_id_at_a_time(
    id: str | None, headers: dict[str, str], streams: bool, is_refused: bool
) -> None:
    async def test() -> None:
        progress = progress_of(Workers(a=View(0, "running"), c=View(0, "done")))
        named = request("a", **headers)
        if is_refused:
            with pytest.raises(errors.Conflict, match="Duplicate request id: a"):
                await progress.name(named, READER, id, streams=streams)
        else:
            await progress.name(named, READER, id, streams=streams)
            assert named.state.request_id == (id or "a")

    run(test())
