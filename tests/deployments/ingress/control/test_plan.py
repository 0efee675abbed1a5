from __future__ import annotations

import asyncio
import threading

import pytest

from cluster import errors
from cluster.weights.inventory import _answers, asking_once
from deployments.ingress.control.plan import MOST_LOOKUPS, looked_up


def test_lookups_share_what_was_asked_once_and_are_bounded() -> None:
    async def scene() -> None:
        with asking_once():
            assert await looked_up(_answers.get) is _answers.get() is not None
        held = threading.Event()
        waiting = [asyncio.ensure_future(looked_up(held.wait, 10)) for _ in range(MOST_LOOKUPS)]
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):
            await looked_up(held.wait, 10)
        # Work in other threads goes on meanwhile.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 5) == "done"
        held.set()
        assert all(await asyncio.gather(*waiting))
        assert await looked_up(lambda: 1) == 1

    asyncio.run(scene())
