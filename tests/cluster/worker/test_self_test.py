from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster import errors
from cluster.settings import Settings
from cluster.status import Report
from cluster.versioned import Versioned
from cluster.worker.self_test import look_again_and_again, trouble_of


async def computes() -> float:
    return 0.1


async def hangs() -> float:
    await asyncio.sleep(60)
    return 60.0


def failing(error: Exception) -> Callable[[], Awaitable[float]]:
    async def fails() -> float:
        raise error

    return fails


@pytest.mark.parametrize(
    ("probe", "trouble"),
    [
        pytest.param(computes, "", id="computes"),
        pytest.param(hangs, "has not computed its own example within 0.05 s", id="hangs"),
        pytest.param(failing(errors.InferenceFailed("ValueError: no")), "probe: ValueError: no", id="fails"),
        pytest.param(failing(errors.WorkerDraining("It drains.")), "", id="drains"),
        pytest.param(failing(errors.ModelLoading("It loads.")), "", id="loads"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(probe: Callable[[], Awaitable[float]], trouble: str) -> None:
    assert asyncio.run(trouble_of(probe, 0.05)) == trouble


def test_trouble_is_reported_once_and_taken_back_when_it_is_over() -> None:
    async def scene() -> None:
        error: list[Exception] = [errors.InferenceFailed("no")]

        async def probe() -> float:
            if error:
                raise error[0]
            return 0.1

        board = Versioned(Report(phase="ready"))
        looking = asyncio.ensure_future(look_again_and_again(probe, board, Settings(probe_s=0.005)))
        version, report = await board.newer(0, 5.0)
        assert report.trouble == "probe: no"
        await asyncio.sleep(0.05)
        assert board.version == version
        error.clear()
        assert (await board.newer(version, 5.0))[1].trouble == ""
        looking.cancel()

    asyncio.run(scene())


def test_a_worker_that_is_not_ready_does_not_look() -> None:
    async def scene() -> None:
        board = Versioned(Report(phase="loading"))
        looking = asyncio.ensure_future(
            look_again_and_again(failing(errors.InferenceFailed("no")), board, Settings(probe_s=0.001))
        )
        await asyncio.sleep(0.03)
        assert board.version == 0
        looking.cancel()

    asyncio.run(scene())
