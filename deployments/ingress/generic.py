"""Calls that fit every model type: items in, results out, whatever they mean."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.openapi import described
from deployments.ingress.serving import Served, Serving


class Infer(BaseModel):
    model: str | None = None
    ability: str = ""
    params: JsonObject = Field(default_factory=dict)


class InferBody(Infer):
    items: list[Any]


class Args(TypedDict):
    model: str
    args: NotRequired[list[Any]]


class InferUsage(TypedDict):
    total_tokens: int


class InferResults(TypedDict):
    results: Any
    usage: InferUsage


class AbortAnswer(TypedDict):
    msg: Literal["DONE", "NO_OP", "NOT_FOUND"]


class Abort(BaseModel):
    block_duration: float = Field(default=0.0, ge=0, le=3600)


def answered(served: Served, content: object) -> Json:
    try:
        return Json(content, headers=served.headers)
    except TypeError as error:
        raise errors.BadRequest(
            f"The answer of {served.model.uid} cannot be written as JSON ({error}); use the routes of its type."
        ) from None


def router(serving: Serving) -> APIRouter:
    routes = APIRouter(tags=["generic"])

    @routes.post("/v1/infer")
    @described("Call any model", InferResults, body=InferBody)
    async def infer(request: Request) -> Json:
        body = await json_body(request)
        # An item may be any JSON, so no schema is checked.
        items = body.pop("items", None)
        if not isinstance(items, list):
            raise errors.InvalidBody("items must be a list.", "items")
        serving.refuse_many(items)
        fields: Infer = checked(Infer, body)
        try:
            orjson.dumps([items, fields.params])
        except orjson.JSONEncodeError as error:
            raise errors.InvalidBody(f"items cannot be sent on: {error}.", "items") from None
        served = await serving.ask(request, fields.model, fields.ability, items, fields.params)
        answer = served.answer
        return answered(served, {"results": answer.outputs, "usage": {"total_tokens": answer.tokens}})

    @routes.post("/v1/flexible/infers")
    @described("Call any model, as Xinference's clients call those of no other type", JsonObject | list[Any], body=Args)
    async def infer_flexibly(request: Request) -> Json:
        """Arguments are items, a list as one argument too; what has a name is a parameter."""
        params = await json_body(request)
        model, args = params.pop("model", None), params.pop("args", [])
        if not isinstance(model, str) or not isinstance(args, list):
            raise errors.InvalidBody(
                "model must be a name and args a list.", "args" if isinstance(model, str) else "model"
            )
        items = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        ability = serving.find(request, model).abilities[0]
        served = await serving.ask(request, model, ability, items, params)
        return answered(served, served.answer.outputs)

    @routes.post("/v1/models/{uid:path}/requests/{request_id}/abort")
    @described("Stop a request", AbortAnswer, body=Abort, needs_body=False)
    async def abort(uid: str, request_id: str, request: Request) -> Json:
        """For a request that was sent with this x-request-id and the same key; none of that id is taken again for
        `block_duration`."""
        fields: Abort = checked(Abort, await json_body(request) if await request.body() else {})
        key = request.state.key
        try:
            model = serving.dispatcher.table.find(uid, key=key, request=request_id)
        except errors.ModelNotFound:
            return Json({"msg": "NO_OP"})
        owner = keys.owner_of(request_id, key.id if key else None)
        was_there = await serving.dispatcher.abort(model, owner, fields.block_duration)
        return Json({"msg": "DONE" if was_there else "NOT_FOUND"})

    return routes
