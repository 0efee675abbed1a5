"""The application that Ray Serve runs: all routes together, and the one handler that turns errors into answers."""

from __future__ import annotations

import logging
import secrets
import sys
import time

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from ray import serve
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from cluster import actors, errors
from cluster.keys import Key, Scope
from cluster.metrics import IngressMetrics, page
from cluster.settings import Settings
from deployments.ingress import control, embeddings, generic, listing, rerank
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.door import Door, Json, as_cluster_error, error_response, guard
from deployments.ingress.serving import Serving

APP_NAME = "cluster"
#: Requests one ingress replica takes at once; what models can take is limited per model, with a better answer.
INGRESS_ONGOING = 1000


def build(settings: Settings) -> FastAPI:
    """The app, on the running event loop of its replica."""
    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    metrics = IngressMetrics(secrets.token_hex(3))
    supervisor = actors.Control.find(settings)
    dispatcher = Dispatcher(supervisor, settings, metrics)
    serving = Serving(dispatcher, settings)
    # The description of the routes is for whoever may use them.
    openapi_url = None if settings.asks_for_keys else "/openapi.json"
    app = FastAPI(title="Model cluster", redoc_url=None, openapi_url=openapi_url)
    app.state.serving = serving
    app.add_middleware(Door, settings=settings, metrics=metrics)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    async def answer_error(request: Request, error: Exception) -> Response:
        known = as_cluster_error(error)
        metrics.error(known.code())
        return error_response(known)

    for kind in (errors.ClusterError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)

    def known_keys() -> tuple[Key, ...]:
        return dispatcher.keys

    def behind(scope: Scope, routes: APIRouter) -> None:
        app.include_router(routes, dependencies=[Depends(guard(scope, settings, known_keys))])

    app.include_router(_public(dispatcher, settings))
    for routes in (embeddings.router(serving), rerank.router(serving), generic.router(serving)):
        behind("infer", routes)
    if settings.metrics:
        behind("list", _metrics_page(supervisor, metrics))
    behind("launch", control.launching(supervisor, settings))
    behind("list", control.watching(supervisor, settings))
    behind("admin", control.administration(supervisor, settings))
    # Last: its `/v1/models/{uid}` would take every longer name for a uid.
    behind("list", listing.router(dispatcher, supervisor, settings))
    return app


def _public(dispatcher: Dispatcher, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    @routes.get("/ping", include_in_schema=False)
    async def health() -> Json:
        """The process lives; `/ready` says whether it can serve."""
        return Json({"status": "ok", "unix": time.time()})

    @routes.get("/ready")
    async def ready() -> Json:
        """True only when a request could be served: the table has been seen and no wished model is without a worker."""
        table = dispatcher.table
        lacking = sorted(uid for uid, model in table.models.items() if not table.is_usable(model))
        is_ready = dispatcher.is_ready and not lacking
        told = {"ready": is_ready, "models": len(table.models), "without_worker": lacking}
        return Json(told, 200 if is_ready else 503)

    @routes.get("/v1/address")
    async def address() -> Json:
        return Json(f"{settings.host}:{settings.port}")

    @routes.get("/v1/cluster/auth")
    async def auth() -> Json:
        return Json({"auth": settings.asks_for_keys})

    return routes


def _metrics_page(supervisor: actors.Control, metrics: IngressMetrics) -> APIRouter:
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics")
    async def everything() -> Response:
        """What every process counted; without the supervisor at least what this one did."""
        own = metrics.collect()
        try:
            samples = await supervisor.call("samples", metrics.ingress, own, timeout_s=5.0)
        except errors.ClusterError:
            samples = own
        return Response(page(samples), media_type=CONTENT_TYPE_LATEST)

    return routes


@serve.deployment(
    max_ongoing_requests=INGRESS_ONGOING,
    ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}},
    health_check_timeout_s=30,
)
@serve.ingress()
class Ingress:
    """One replica. Built late, in its own process: an app object would not pickle."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __serve_build_asgi_app__(self) -> FastAPI:
        return build(self._settings)
