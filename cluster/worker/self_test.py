"""A worker's look at itself: whether it still computes its own example.

Of thousands of workers the supervisor asks each but rarely. What a worker finds itself it tells at once; it cannot find
that its whole process hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cluster import errors
from cluster.settings import Settings
from cluster.status import Report
from cluster.versioned import Versioned


async def look_again_and_again(
    probe: Callable[[], Awaitable[float]], board: Versioned[Report], settings: Settings
) -> None:
    while True:
        await asyncio.sleep(settings.probe_s)
        if board.value.phase == "ready":
            _tell(board, await trouble_of(probe, settings.probe_timeout_s))


async def trouble_of(probe: Callable[[], Awaitable[float]], timeout_s: float) -> str:
    """Why it does not compute, or nothing."""
    try:
        async with asyncio.timeout(timeout_s):
            await probe()
    except (errors.WorkerDraining, errors.ModelLoading):
        return ""
    except TimeoutError:
        return f"has not computed its own example within {timeout_s:g} s"
    except errors.ClusterError as error:
        return f"probe: {error}"
    return ""


def _tell(board: Versioned[Report], trouble: str) -> None:
    if board.value.trouble != trouble:
        board.amend(lambda report: replace(report, trouble=trouble))
