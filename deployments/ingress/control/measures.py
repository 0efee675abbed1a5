"""What every process counts, as one page for Prometheus.

Each process writes its own page; here they are only joined, and not on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from cluster import errors, keys
from cluster.metrics import gauge_page, joined, page, without_models
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.runtime.worker_client import WorkerClient
from cluster.status import WorkerName
from deployments.ingress.asking import asked
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.openapi import described
from deployments.ingress.tei_metrics import NAMES, with_tei_names

T = TypeVar("T")

#: How long a worker has for its page.
WORKER_S = 2.0


def watching(dispatcher: Dispatcher, supervisor: SupervisorClient, metrics: IngressMetrics) -> APIRouter:
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics")
    @described("Metrics for Prometheus", media_types=("text/plain",))
    async def everything(request: Request) -> Response:
        """What every process counted; `cluster_metrics_missing` names those that did not say."""
        sees = partial(keys.sees, request.state.key)
        workers = {name: client for name, client in dispatcher.clients().items() if sees(_model_of(name))}
        own = page(with_tei_names(metrics.collect()))
        of_workers, of_others = await asyncio.gather(
            _of_workers(workers), _or_none(supervisor.metrics(metrics.ingress, own))
        )
        missing = [worker for worker, text in of_workers.items() if text is None]
        general = [own, *(of_others or ())]
        if of_others is None:
            missing.append("supervisor")
        text = await asyncio.to_thread(_whole, general, list(filter(None, of_workers.values())), missing, sees)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes


async def _of_workers(clients: dict[str, WorkerClient]) -> dict[str, bytes | None]:
    pages = await asked(clients.values(), lambda client: _or_none(client.metrics(WORKER_S)))
    return dict(zip(clients, pages, strict=True))


async def _or_none(answer: Awaitable[T]) -> T | None:
    try:
        return await answer
    except errors.ClusterError:
        return None


def _whole(
    general: Sequence[bytes], of_workers: Sequence[bytes], missing: Sequence[str], sees: Callable[[str], bool]
) -> bytes:
    """The page of a worker is about its own model only; the others are about all."""
    rows = [({"process": process}, 1.0) for process in missing]
    lacking = gauge_page("cluster_metrics_missing", "Processes that did not say what they count.", rows)
    return joined([*(without_models(text, sees) for text in general), *of_workers, lacking], NAMES)


def _model_of(worker: str) -> str:
    name = WorkerName.parse(worker)
    return name.uid if name else ""
