"""Our own ingress, on a port of its own, with routes that answer without a hop or with one plain actor call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from fastapi import APIRouter, FastAPI, Request
from ray import serve

from cluster.calls import Answer, Call
from cluster.runtime.actor_calls import HEAD_RESOURCE
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.runtime.worker_client import WorkerClient
from cluster.settings import Settings
from deployments.ingress import generic
from deployments.ingress.app import build
from deployments.ingress.auth import guard
from deployments.ingress.dialects import Services
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.paths import Whole
from deployments.ingress.server import Server
from deployments.ingress.serving import Served, Serving
from deployments.text.http import embeddings
from tests.families import Vectors


class NoHop(Serving):
    """Answers here, with what the model would have said."""

    async def ask(
        self, request: Request, model: str | None, ability: str, items: Sequence[Any], params: Mapping[str, Any]
    ) -> Served:
        found = self.dispatcher.table.find(model, ability)
        request.state.model = found.uid
        return Served(found, Answer(Vectors.rows if ability == "embed" else list(items), 1), found.workers[0].worker)


class Hop(Serving):
    """Asks the worker by one call of Ray's per request."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings) -> None:
        super().__init__(dispatcher, settings)
        self._clients: dict[str, WorkerClient] = {}

    async def ask(
        self, request: Request, model: str | None, ability: str, items: Sequence[Any], params: Mapping[str, Any]
    ) -> Served:
        found = self.dispatcher.table.find(model, ability)
        request.state.model = found.uid
        worker = found.workers[0].worker
        calls = [Call("bench", list(items), dict(params), 60.0, ability)]
        if worker not in self._clients:
            snapshot = await SupervisorClient.find(self.settings).snapshot()
            self._clients[worker] = WorkerClient(snapshot.handles[worker])
        outcomes, _ = await self._clients[worker].infer(calls, 60.0)
        assert isinstance(outcomes[0], Answer)
        return Served(found, outcomes[0], worker)


def add(app: FastAPI, prefix: str, serving: Serving) -> None:
    """The real routes behind the real guard, so that only the hop differs."""
    same = guard("infer", serving.settings, lambda: serving.dispatcher.keys)
    services = replace(Services.of(serving.dispatcher, serving.settings), serving=serving)
    routers: list[APIRouter] = [generic.router(serving), embeddings.router(services)]
    for route in (route for routes in routers for route in routes.routes):
        app.add_api_route(
            prefix + route.path, route.endpoint, methods=route.methods, dependencies=same, include_in_schema=False
        )


@serve.deployment(
    ray_actor_options={
        "num_cpus": 0,
        "resources": {HEAD_RESOURCE: 0.001},
        "runtime_env": {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}},
    }
)
class Variants:
    async def __init__(self, settings: Settings) -> None:
        app = build(settings, SupervisorClient.find(settings))
        dispatcher = app.state.serving.dispatcher
        add(app, "/nohop", NoHop(dispatcher, settings))
        add(app, "/hop", Hop(dispatcher, settings))
        app.router.routes.insert(0, Whole(app.routes))
        self._server = Server(app, settings)
        await self._server.begin()


def deploy() -> None:
    settings = Settings()
    ray.init(
        address=os.environ["BENCH_ADDRESS"], namespace=settings.namespace, log_to_driver=False, logging_level="ERROR"
    )
    own = settings.model_copy(update={"port": int(os.environ["BENCH_PORT"])})
    serve.run(Variants.bind(own), name="variants", route_prefix=None)
    ray.shutdown()


if __name__ == "__main__":
    deploy()
