"""Our own ingress with routes that answer without a hop, or with one plain actor call: what ours is compared with."""

from __future__ import annotations

import os
from typing import Any

import ray
from fastapi import APIRouter, Depends, FastAPI, Request
from ray import serve

from cluster import actors
from cluster.settings import Settings
from cluster.spec import Answer, Call
from deployments.ingress.app import build
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.door import Json, guard, json_body
from deployments.ingress.embeddings import openai_body
from deployments.ingress.serving import Served
from tests.families import Vectors


def router(dispatcher: Dispatcher) -> APIRouter:
    routes = APIRouter()

    async def hop(model: str, items: list[Any], ability: str) -> Answer:
        worker = dispatcher.handle_of(dispatcher.table.find(model).workers[0].worker)
        outcomes, _ = await actors.infer(worker, [Call("bench", items, {}, 60.0, ability)], 60.0)
        assert isinstance(outcomes[0], Answer)
        return outcomes[0]

    def embeddings(body: dict[str, Any], answer: Answer) -> Json:
        return Json(openai_body(body, Served(dispatcher.table.find("vectors"), answer, "worker:vectors:1:0-x")))

    @routes.post("/nohop/echo")
    async def nohop_echo(request: Request) -> Json:
        body = await json_body(request)
        return Json({"results": body["items"], "usage": {"total_tokens": 1}})

    @routes.post("/nohop/floats")
    async def nohop_floats(request: Request) -> Json:
        return embeddings(await json_body(request), Answer(Vectors.rows, 1))

    @routes.post("/hop/echo")
    async def hop_echo(request: Request) -> Json:
        body = await json_body(request)
        answer = await hop("echo", body["items"], "infer")
        return Json({"results": answer.outputs, "usage": {"total_tokens": 1}})

    @routes.post("/hop/floats")
    async def hop_floats(request: Request) -> Json:
        body = await json_body(request)
        return embeddings(body, await hop("vectors", ["hello"], "embed"))

    return routes


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Variants:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app = build(self._settings)
        dispatcher = app.state.serving.dispatcher
        # Behind the same guard, so that the same work is done before the handler.
        same = Depends(guard("infer", self._settings, lambda: dispatcher.keys))
        app.include_router(router(dispatcher), dependencies=[same])
        return app


def deploy() -> None:
    settings = Settings()
    ray.init(
        address=os.environ["BENCH_ADDRESS"], namespace=settings.namespace, log_to_driver=False, logging_level="ERROR"
    )
    serve.run(Variants.bind(settings), name="variants", route_prefix="/variants")
    ray.shutdown()


if __name__ == "__main__":
    deploy()
