from __future__ import annotations

import asyncio

import pytest

from cluster.worker import idleness
from cluster.worker.idleness import Idleness


def test_each_spell_of_use_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idleness, "QUIET_S", 0.02)
    told: list[tuple[bool, int]] = []

    async def scene() -> None:
        used = Idleness(lambda is_idle, spells: told.append((is_idle, spells)))
        for _ in range(5):
            used.begin()
            await asyncio.sleep(0.005)
            used.end()
        used.begin()
        used.begin()
        used.end()
        await asyncio.sleep(0.03)  # longer than a pause, but it has something to do
        used.end()
        assert told == [(False, 1)]
        while len(told) < 2:
            await asyncio.sleep(0.005)
        used.begin()
        used.end()
        assert told == [(False, 1), (True, 1), (False, 2)]

    asyncio.run(asyncio.wait_for(scene(), 5))
