from __future__ import annotations

import asyncio
import threading

import pytest

from cluster import errors
from cluster.weights.inventory import _answers, asking_once
from deployments.ingress.control import MOST_LOOKUPS, _apart


def test_lookups_share_what_was_asked_once_and_are_bounded() -> None:
    async def scene() -> None:
        with asking_once():
            assert await _apart(_answers.get) is _answers.get() is not None
        held = threading.Event()
        waiting = [asyncio.ensure_future(_apart(held.wait, 10)) for _ in range(MOST_LOOKUPS)]
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):
            await _apart(held.wait, 10)
        # What others do in threads goes on meanwhile.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 5) == "done"
        held.set()
        assert all(await asyncio.gather(*waiting))
        assert await _apart(lambda: 1) == 1

    asyncio.run(scene())
