from __future__ import annotations

import asyncio
import logging
import time

import pytest

from cluster.metrics import page
from deployments.ingress.lag import LONG_S, LagWatch
from deployments.ingress.metrics import IngressMetrics


def test_a_loop_that_does_one_thing_only_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    metrics = IngressMetrics("here")

    async def test() -> None:
        LagWatch(metrics.stalled)
        await asyncio.sleep(0.01)
        time.sleep(LONG_S + 0.15)
        await asyncio.sleep(0.1)

    with caplog.at_level(logging.WARNING, "cluster.ingress"):
        asyncio.run(test())
    assert "nobody was answered for 0." in caplog.text
    told = page(metrics.collect()).decode()
    longest = next(line for line in told.splitlines() if line.startswith("cluster_loop_longest_stall_seconds{"))
    assert LONG_S < float(longest.split()[1]) < 5
    assert 'cluster_loop_stall_seconds_bucket{ingress="here",le="180.0"}' in told


def test_the_longest_stall_is_the_longest_since_it_was_last_asked() -> None:
    metrics = IngressMetrics("here")

    def longest() -> float:
        told = page(metrics.collect()).decode()
        return float(told.split('cluster_loop_longest_stall_seconds{ingress="here"} ')[1].split()[0])

    for seconds in (0.01, 0.3, 0.02):
        metrics.stalled(seconds)
    assert longest() == 0.3
    metrics.stalled(0.05)
    assert longest() == 0.05
