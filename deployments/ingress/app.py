"""The ingress: all routes together, the one handler that turns errors into answers, and how Ray Serve runs it."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from ray import serve
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from cluster import errors
from cluster.keys import Key, Scope
from cluster.runtime.actor_calls import HEAD_RESOURCE
from cluster.runtime.last_table import LastTable
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.ingress import chat, control, generic, jobs
from deployments.ingress.auth import guard, public_calls
from deployments.ingress.bodies import Bodies, BodyLimits
from deployments.ingress.dialects import Services, chats, control_bytes, dialects, file_bytes
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.errors import as_cluster_error, error_response
from deployments.ingress.lag import LagWatch
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.middleware import AccessLog, RequestMiddleware
from deployments.ingress.origins import OriginMiddleware, Origins
from deployments.ingress.paths import Whole, include
from deployments.ingress.server import Server
from deployments.ingress.serving import ONGOING

ErrorResponse = Callable[[errors.ClusterError], Response]

#: The Ray resource of nodes that answer HTTP besides the head.
INGRESS_RESOURCE = "ingress"
#: How long an ingress waits for the supervisor before it answers without having heard from it.
FIRST_TABLE_S = 10.0
#: How much longer than its draining a replica may take to end.
END_S = 5.0


def build(settings: Settings, supervisor: SupervisorClient, last_table: LastTable | None = None) -> FastAPI:
    """The app, on the running event loop of its replica."""
    # Ray Serve puts a logger of its own in place of sys.stderr, which walks the stack for every line.
    logs = sys.__stderr__ or sys.stderr
    logging.basicConfig(level=settings.log_level, stream=logs, format="%(asctime)s %(name)s %(message)s")
    metrics = IngressMetrics(secrets.token_hex(3))
    LagWatch(metrics.stalled)
    dispatcher = Dispatcher(supervisor, settings, metrics, last_table)
    services = Services.of(dispatcher, settings)
    # The middleware measures requests already; FastAPI's own telemetry would cost time on every request.
    unmeasured: Any = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(title="Model cluster", openapi_url=None, telemetry=unmeasured)
    app.state.serving = services.serving
    infer_paths: list[re.Pattern[str]] = []
    #: The paths whose dialect has its own shape of errors.
    error_responses: dict[str, ErrorResponse] = {}
    public: set[tuple[str, str]] = set()
    limits, bodies = BodyLimits(), Bodies(max(settings.bodies_bytes, settings.max_body_bytes))
    # Requests pass the middleware that was added last first.
    app.add_middleware(OriginMiddleware, origins=Origins.of(settings), infer_paths=infer_paths)
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        most=ONGOING,
        access_log=AccessLog(logs),
        limits=limits,
        bodies=bodies,
        public=public,
        asks_for_keys=settings.asks_for_keys,
    )

    async def answer_error(request: Request, error: Exception) -> Response:
        refusal = as_cluster_error(error)
        metrics.error(refusal.code())
        # A route that serves two dialects says which one it has been asked in.
        own: ErrorResponse | None = getattr(request.state, "error_response", None)
        return (own or error_responses.get(request.url.path, error_response))(refusal)

    for kind in (errors.ClusterError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)

    def current_keys() -> Mapping[str, Key]:
        return dispatcher.keys

    def behind(
        scope: Scope,
        routes: APIRouter,
        body_limit: Callable[[Settings], int] = control_bytes,
        answer: ErrorResponse = error_response,
    ) -> None:
        for path in [route.path for route in routes.routes if isinstance(route, APIRoute)]:
            limits.set(path, body_limit(settings))
            if answer is not error_response:
                error_responses[path] = answer
            if scope == "infer":
                infer_paths.append(compile_path(path)[0])
        include(app, routes, guard(scope, settings, current_keys))

    # Keys with the scope are asked for at those of their routes that do not say otherwise.
    for router in control.keyless_routers(dispatcher, supervisor, settings):
        behind("admin", router)
    behind("admin", services.files.router())
    for dialect in dialects(settings.plugins):
        behind(dialect.scope, dialect.router(services), dialect.body_limit, dialect.error_response)
    behind("infer", generic.router(services.serving), file_bytes)
    behind("infer", chat.router(services, chats(settings.plugins)), file_bytes)
    behind("infer", jobs.router(services.jobs, services.progress))
    for scope, router in control.routers(dispatcher, supervisor, settings, metrics, lambda: app.routes):
        behind(scope, router)
    public.update(public_calls(app.routes))
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
    # Ray Serve notices a killed replica at the next check.
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
        app = build(settings, SupervisorClient.find(settings), LastTable.of(settings))
        # Hold early callers until there is a routing table: without one, every model would look unknown to them.
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
    """What `serve.run` takes: an ingress on the head, or one on each of `nodes` nodes that have the resource for it."""
    deployment: Any = Ingress
    actor = deployment.ray_actor_options
    return deployment.options(
        num_replicas=nodes or settings.ingress_replicas,
        ray_actor_options={**actor, "resources": {INGRESS_RESOURCE: 1}} if nodes else actor,
        graceful_shutdown_timeout_s=settings.drain_s + END_S,
    ).bind(settings)
