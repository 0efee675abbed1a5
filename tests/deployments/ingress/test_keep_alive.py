from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from cluster import errors
from cluster.keys import new_key
from cluster.routes import ModelRoutes
from cluster.status import ModelState
from deployments.ingress.keep_alive import KeepAlive, read_keep_alive, unloads
from deployments.ingress.routing import RouteTable


class Supervisor:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    async def keep(self, uid: str, sleep_s: float) -> None:
        self.told.append((uid, sleep_s))

    async def sleep(self, uid: str) -> None:
        self.told.append((uid,))

    async def left_s(self) -> dict[str, float | None]:
        return {"m": None, "n": 5.0}


def keep_alive(supervisor: Supervisor, sleep_s: float = 0.0) -> KeepAlive:
    table = RouteTable()
    table.update(1, {"m": ModelRoutes("m", ("embed",), (), ModelState.READY, sleep_s=sleep_s)})
    return KeepAlive(table, supervisor)


def test_the_supervisor_is_told_after_the_request_and_only_what_is_new() -> None:
    async def scene() -> None:
        supervisor = Supervisor()
        keeping = keep_alive(supervisor, sleep_s=300.0)
        for seconds in (300.0, None):
            with keeping.after("m", seconds):
                pass
        with pytest.raises(ZeroDivisionError), keeping.after("m", 60.0):
            await asyncio.sleep(0)
            assert supervisor.told == []
            raise ZeroDivisionError
        with keeping.after("m", math.inf), keeping.after("gone", 5.0):
            pass
        # The table says so still, and the supervisor knows better.
        with keeping.after("m", 300.0):
            pass
        await asyncio.sleep(0)
        assert supervisor.told == [("m", 60.0), ("m", 0.0), ("m", 300.0)]
        assert await keeping.left_s() == {"m": math.inf, "n": 5.0}

    asyncio.run(scene())


def test_a_key_that_may_only_ask_decides_nothing() -> None:
    asks, launches = new_key("asks", ["infer"])[0], new_key("launches", ["infer", "launch"])[0]
    assert read_keep_alive("5m", asks) is None
    assert read_keep_alive("5m", launches) == read_keep_alive("5m", None) == 300.0
    assert read_keep_alive(None, launches) is read_keep_alive("", None) is None
    with pytest.raises(errors.InvalidBody, match="such as 5m"):
        read_keep_alive("soon", asks)

    async def scene() -> None:
        supervisor = Supervisor()
        keeping = keep_alive(supervisor)
        model = ModelRoutes("m", ("embed",), (), ModelState.READY)
        with pytest.raises(errors.NotPermitted, match="needs the scope launch"):
            await keeping.unload(model, asks)
        await keeping.unload(model, launches)
        assert supervisor.told == [("m",)]

    asyncio.run(scene())


def test_zero_unloads_and_nothing_does_not() -> None:
    assert unloads(0.0) and not unloads(None) and not unloads(5.0) and not unloads(math.inf)
