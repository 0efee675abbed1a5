"""What the toy type answers over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from cluster import errors
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import ChatAnswer, Dialect, Services


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["toy"])

    @routes.post("/toy/echo")
    async def echo(request: Request) -> Json:
        body = await json_body(request)
        served = await services.serving.ask(request, body.get("model"), "infer", [body.get("text")], {})
        return Json({"echo": served.answer.outputs[0]})

    return routes


def error_response(error: errors.ClusterError) -> Response:
    return Json({"toy": error.message}, 418)


def small(settings: Settings) -> int:
    return 1000


ROUTES = (Dialect(router, small, scope="launch", error_response=error_response),)


def answerer(services: Services) -> ChatAnswer:
    async def answer(request: Request, body: JsonObject) -> Response:
        return Json({"toy said": body["messages"]})

    return answer


CHATS = {"infer": answerer}
