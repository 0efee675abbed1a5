"""The ingress: all routes together, the one handler that turns errors into answers, and how Ray Serve runs it."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from ray import serve
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from cluster import errors
from cluster.keys import Key, Scope
from cluster.runtime.actor_calls import HEAD_RESOURCE
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.image.http import images, sdapi
from deployments.ingress import control, generic, jobs
from deployments.ingress.bodies import CONTROL_BYTES, Bodies, Limits
from deployments.ingress.files import Files
from deployments.ingress.lag import LagWatch
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.middleware import (
    Lines,
    RequestMiddleware,
    as_cluster_error,
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
    for router in control.public_routers(dispatcher, settings):
        include(app, router)
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
    for scope, router in control.routers(dispatcher, supervisor, settings, metrics):
        behind(scope, router)
    app.router.routes.insert(0, Whole(app.routes))
    return app


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
