"""The ingress: all routes together, the one handler that turns errors into answers, and how Ray Serve runs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from ray import serve
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from cluster import errors, keys
from cluster.keys import Key, Scope
from cluster.metrics import page
from cluster.runtime.actor_calls import HEAD_RESOURCE
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.image.http import images, sdapi
from deployments.ingress import control, generic, jobs, listing
from deployments.ingress.bodies import CONTROL_BYTES, Bodies, Limits
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.files import Files
from deployments.ingress.lag import LagWatch
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.middleware import (
    Json,
    Lines,
    RequestMiddleware,
    as_cluster_error,
    bearer,
    error_response,
    guard,
)
from deployments.ingress.origins import OriginMiddleware, Origins
from deployments.ingress.paths import Whole, include
from deployments.ingress.server import Server
from deployments.ingress.serving import ONGOING, Serving
from deployments.ocr.http import chat, mistral, ocr
from deployments.ocr.http.pages import RequestProgress
from deployments.text.http import classify, cohere, embeddings, rerank, tei, vllm

#: The Ray resource of nodes that answer HTTP besides the head.
INGRESS_RESOURCE = "ingress"
#: How long an ingress waits for the supervisor before it answers without having heard from it.
FIRST_TABLE_S = 10.0
#: How much longer than its draining a replica may take to end.
END_S = 5.0


def build(settings: Settings, supervisor: SupervisorClient) -> FastAPI:
    """The app, on the running event loop of its replica."""
    # Ray Serve puts a logger of its own in place of sys.stderr, which walks the stack for every line.
    logs = sys.__stderr__ or sys.stderr
    logging.basicConfig(level=settings.log_level, stream=logs, format="%(asctime)s %(name)s %(message)s")
    metrics = IngressMetrics(secrets.token_hex(3))
    LagWatch(metrics.stalled)
    dispatcher = RequestProgress(supervisor, settings, metrics)
    serving = Serving(dispatcher, settings)
    # The description of the routes is for whoever may use them.
    openapi_url = None if settings.asks_for_keys else "/openapi.json"
    # What FastAPI would measure is measured at the door; deciding that for every request has a price.
    unmeasured: Any = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(title="Model cluster", redoc_url=None, openapi_url=openapi_url, telemetry=unmeasured)
    app.state.serving = serving
    infer_paths: list[re.Pattern[str]] = []
    limits, bodies = Limits(), Bodies(max(settings.bodies_bytes, settings.max_body_bytes))
    # The last one added is passed first.
    app.add_middleware(OriginMiddleware, origins=Origins.of(settings), infer_paths=infer_paths)
    app.add_middleware(
        RequestMiddleware, metrics=metrics, most=ONGOING, lines=Lines(logs), limits=limits, bodies=bodies
    )

    async def answer_error(request: Request, error: Exception) -> Response:
        known = as_cluster_error(error)
        metrics.error(known.code())
        return tei.answer_error(known) if request.url.path in tei.PATHS else error_response(known)

    for kind in (errors.ClusterError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)

    def known_keys() -> tuple[Key, ...]:
        return dispatcher.keys

    def behind(scope: Scope, routes: APIRouter, most_bytes: int = CONTROL_BYTES) -> None:
        for route in routes.routes:
            if isinstance(route, APIRoute):
                limits.set(route.path, min(most_bytes, settings.max_body_bytes))
        if scope == "infer":
            infer_paths.extend(compile_path(route.path)[0] for route in routes.routes if isinstance(route, APIRoute))
        include(app, routes, [Depends(guard(scope, settings, known_keys))])

    files = Files(settings)
    background = jobs.BackgroundJobs(dispatcher, settings)
    painting = images.Images(serving, files, background)
    reading = ocr.Ocr(serving, dispatcher, background)
    include(app, _public(dispatcher, settings))
    include(app, files.router())
    for dialect in (rerank, classify, tei, vllm):
        behind("infer", dialect.router(serving), settings.max_text_bytes)
    # These take files, some of them within their JSON.
    for dialect in (embeddings, cohere, generic):
        behind("infer", dialect.router(serving), settings.max_body_bytes)
    for pictures in (images, sdapi):
        behind("infer", pictures.router(painting), settings.max_body_bytes)
    for documents in (ocr, mistral, chat):
        behind("infer", documents.router(reading), settings.max_body_bytes)
    behind("infer", jobs.router(background, dispatcher))
    if settings.metrics:
        behind("list", _metrics_page(supervisor, metrics))
    behind("launch", control.launching(supervisor, settings))
    behind("list", control.watching(supervisor, settings))
    behind("admin", control.administration(supervisor, settings))
    # Last: its `/v1/models/{uid}` would take every longer name for a uid.
    behind("list", listing.router(dispatcher, supervisor, settings))
    app.router.routes.insert(0, Whole(app.routes))
    return app


def _public(dispatcher: Dispatcher, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    @routes.get("/ping", include_in_schema=False)
    async def health() -> Json:
        """The process lives; `/ready` says whether it can serve."""
        return Json({"status": "ok", "unix": time.time()})

    @routes.get("/ready")
    async def ready(request: Request) -> Json:
        """True only when a request could be served: the table has been seen and no wished model is without a worker.
        Which models those are is for whoever may list them."""
        table = dispatcher.table
        lacking = sorted(uid for uid, model in table.models.items() if not table.is_usable(model))
        is_ready = dispatcher.is_ready and not lacking
        told: dict[str, Any] = {"ready": is_ready, "models": len(table.models)}
        with contextlib.suppress(errors.NotAuthenticated, errors.NotPermitted):
            key = keys.check(dispatcher.keys, bearer(request.headers), "list") if settings.asks_for_keys else None
            told["without_worker"] = keys.visible(key, lacking, str)
        told["disk_free_bytes"] = await asyncio.to_thread(_free_bytes, settings.home)
        return Json(told, 200 if is_ready else 503)

    @routes.get("/v1/address")
    async def address() -> Json:
        return Json(f"{settings.host}:{settings.port}")

    @routes.get("/v1/cluster/auth")
    async def auth() -> Json:
        return Json({"auth": settings.asks_for_keys})

    return routes


def _free_bytes(folder: Path) -> int | None:
    """A full disk stops no request, but nothing can be launched any more."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _metrics_page(supervisor: SupervisorClient, metrics: IngressMetrics) -> APIRouter:
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics")
    async def everything(request: Request) -> Response:
        """What every process counted; without the supervisor at least what this one did."""
        own = metrics.collect()
        try:
            samples = await supervisor.call("samples", metrics.ingress, own, timeout_s=5.0)
        except errors.ClusterError:
            samples = own
        sees = partial(keys.sees, request.state.key)
        return Response(page(samples, sees), media_type=CONTENT_TYPE_LATEST)

    return routes


@serve.deployment(
    ray_actor_options={
        "num_cpus": 0,
        "resources": {HEAD_RESOURCE: 0.001},
        "runtime_env": {
            "env_vars": {
                "CUDA_VISIBLE_DEVICES": "",
                # The server shares Ray's own loop: answers of workers arrive on it.
                "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
                "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
            }
        },
    },
    # A replica that was killed is missed at the next check.
    health_check_period_s=1,
    health_check_timeout_s=5,
    graceful_shutdown_wait_loop_s=0.1,
)
class Ingress:
    """One replica: Ray Serve starts, checks and replaces it, requests come straight to its own web server."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        if settings.is_loopback:
            _keep_ray_serve_on_loopback()
        # Here, in its own process: an app object would not pickle.
        app = build(settings, SupervisorClient.find(settings))
        # Callers who came while there was no ingress wait a little longer, and are not told that no model is known.
        await app.state.serving.dispatcher.first_table(FIRST_TABLE_S)
        self._server = Server(app, settings)
        await self._server.begin()

    async def check_health(self) -> None:
        self._server.check()

    async def __del__(self) -> None:
        """Ray Serve awaits it before the process ends."""
        await self._server.end()


def _keep_ray_serve_on_loopback() -> None:
    """Every replica also opens a port for calls of other deployments, on all addresses of the machine. There are no
    other deployments, and no setting for it."""
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def deployed(settings: Settings, nodes: int = 0) -> Any:
    """What `serve.run` takes: the head's ingress, or one on each of so many nodes that are there for it."""
    deployment: Any = Ingress
    actor = deployment.ray_actor_options
    return deployment.options(
        num_replicas=nodes or settings.ingress_replicas,
        ray_actor_options={**actor, "resources": {INGRESS_RESOURCE: 1}} if nodes else actor,
        graceful_shutdown_timeout_s=settings.drain_s + END_S,
    ).bind(settings)
