from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client.parser import text_string_to_metric_families

from cluster import errors
from cluster.keys import Key
from cluster.metrics import page
from cluster.worker.metrics import WorkerMetrics
from deployments.ingress.control import measures
from deployments.ingress.metrics import IngressMetrics

WORKERS = [f"worker:{uid}:1:0-x" for uid in ("a", "b")]


class Worker:
    def __init__(self, name: str, answers: bool = True) -> None:
        self._page = page(WorkerMetrics(name.split(":")[1], name).collect())
        self._answers = answers

    async def metrics(self, timeout_s: float) -> bytes:
        if not self._answers:
            raise errors.Unavailable("It does not answer.")
        return self._page


class Fleet:
    """Dispatcher and supervisor, as far as a page needs them."""

    def __init__(self, *silent: str) -> None:
        self._silent = silent

    def clients(self) -> dict[str, Worker]:
        return {name: Worker(name, name not in self._silent) for name in WORKERS}

    async def metrics(self, ingress: str, own: bytes) -> list[bytes]:
        if "supervisor" in self._silent:
            raise errors.Unavailable("The control plane does not answer.")
        return [page(IngressMetrics("i1").collect())]


def page_of(fleet: Any, key: Key | None = None) -> str:
    app = FastAPI()
    mine = IngressMetrics("i0")
    mine.retry("a")
    mine.retry("b")

    @app.middleware("http")
    async def with_key(request: Request, answer: Any) -> Any:
        request.state.key = key
        return await answer(request)

    app.include_router(measures.watching(fleet, fleet, mine))

    async def asked() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return (await client.get("/metrics")).text

    text = asyncio.run(asked())
    assert list(text_string_to_metric_families(text))
    return text


def test_all_processes_are_on_the_page() -> None:
    text = page_of(Fleet())
    for worker, model in zip(WORKERS, "ab", strict=True):
        assert f'cluster_queue_items{{model="{model}",replica="{worker}"}} 0.0' in text
        assert f'te_queue_size{{model="{model}",replica="{worker}"}} 0.0' in text
    assert 'cluster_gathered_requests_count{ingress="i0"} 0.0' in text
    assert 'cluster_gathered_requests_count{ingress="i1"} 0.0' in text
    assert "cluster_metrics_missing{" not in text


@pytest.mark.parametrize("silent", [WORKERS[1], "supervisor"])
def test_the_page_says_who_did_not_answer(silent: str) -> None:
    text = page_of(Fleet(silent))
    assert f'cluster_metrics_missing{{process="{silent}"}} 1.0' in text
    assert text.count("cluster_metrics_missing{") == 1
    assert f'replica="{WORKERS[0]}"' in text


def test_a_key_for_one_model_sees_no_other() -> None:
    text = page_of(Fleet(), Key(id="k", name="k", digest="", scopes=("list",), models=("a",)))
    assert 'model="a"' in text
    assert 'model="b"' not in text and WORKERS[1] not in text
