"""The routes under which hosting platforms call text-embeddings-inference: the bare `/`, SageMaker's and Vertex's.

Its server holds one model, whose type says what a body means. Here the body says it first: with a query it is a
question of relevance, and else what the model that is asked can do.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Required

import orjson
from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.text.http import schemas
from deployments.text.http.rerank import ranked_texts
from deployments.text.http.tei import Tei

#: A body of any of the routes of text-embeddings-inference, and its answer.
AnyBody = schemas.TeiEmbedBody | schemas.PredictBody | schemas.TextRerankBody
AnyAnswer = (
    list[list[float]]
    | list[list[schemas.SparseValue]]
    | list[schemas.RankedText]
    | list[schemas.ScoredLabel]
    | list[list[schemas.ScoredLabel]]
)

_described = partial(described, error=schemas.TeiError)


class VertexBody(TypedDict, total=False):
    instances: Required[list[AnyBody]]
    model: str | None
    parameters: JsonObject | None


class VertexAnswer(TypedDict):
    predictions: list[AnyAnswer]


def router(services: Services) -> APIRouter:
    tei = services.shared(Tei)
    routes = APIRouter(tags=["text-embeddings-inference"])

    async def answer(request: Request, body: JsonObject) -> Json:
        model = tei.model(request, body)
        if "query" in body or "texts" in body:
            return await ranked_texts(tei.serving, request, body, model)
        ability = tei.serving.able(request, model, "embed", "embed_sparse", "classify")
        calls = {"embed": tei.embed, "embed_sparse": tei.embed_sparse, "classify": tei.predict}
        return await calls[ability](request, body)

    @routes.post("/")
    @routes.post("/invocations", summary="SageMaker's path of the same call")
    @_described("Embed, rank or classify, whichever the model can", AnyAnswer, body=AnyBody)
    async def root(request: Request) -> Json:
        return await answer(request, await json_body(request))

    @routes.post("/vertex")
    @_described("Several such calls, as Vertex AI sends them", VertexAnswer, body=VertexBody)
    async def vertex(request: Request) -> Json:
        body = await json_body(request)
        instances: Any = body.get("instances")
        if not isinstance(instances, list) or not instances or not all(isinstance(row, dict) for row in instances):
            raise errors.InvalidBody("instances must be a list of at least one body.", "instances")
        tei.serving.refuse_many(instances)
        shared = {"model": body["model"]} if body.get("model") is not None else {}
        answers = await asyncio.gather(*(answer(request, {**shared, **instance}) for instance in instances))
        return Json({"predictions": [orjson.loads(part.body) for part in answers]})

    return routes
