"""vLLM's /score and /pooling; its /classify is beside Infinity's in `classify`, its embeddings are OpenAI's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import BYTES, described
from deployments.ingress.serving import Served, Serving
from deployments.text.http import schemas
from deployments.text.http.classify import is_raw, scores_of
from deployments.text.http.embeddings import inputs
from deployments.text.http.encoding import Form
from deployments.text.http.fields import embedding_params, first, model_of, most_tokens, own_ids, texts_of, truncation
from deployments.vectors import unit

#: Names of the two sides, in the order in which they are looked for.
SIDES = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
#: vLLM's tasks, those it has renamed as well, and which ability each is.
TASKS = {
    "embed": "embed",
    "token_embed": "embed_tokens",
    "encode": "embed_tokens",
    "classify": "classify",
}


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["vllm"])

    @routes.post("/score")
    @routes.post("/v1/score")
    @described("Score pairs of texts", schemas.ScoreAnswer, body=schemas.ScoreBody)
    async def score(request: Request) -> Json:
        """How well the texts of one side fit those of the other, pair by pair; one text is paired with each."""
        body = await json_body(request)
        left, right = _sides(body)
        serving.refuse_many(right)
        model = model_of(body)
        if serving.able(request, model, "rerank", "embed") == "rerank":
            scores, tokens, uid = await _reranked(serving, request, body, left, right)
        else:
            places = {text: position for position, text in enumerate(dict.fromkeys([*left, *right]))}
            served = await serving.ask(request, model, "embed", list(places), embedding_params(body))
            vectors = unit(served.answer.outputs)
            sides = (vectors[[places[text] for text in side]] for side in (left, right))
            scores = np.multiply(*sides).sum(axis=1)
            tokens, uid = served.answer.tokens, served.model.uid
        answer = {
            "id": Served.id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": uid,
            "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Json(answer)

    @routes.post("/pooling")
    @described(
        "Embed or classify inputs, as vLLM pools them",
        schemas.PoolingAnswer,
        body=schemas.PoolingBody,
        media_types=(BYTES,),
    )
    async def pooling(request: Request) -> Response:
        """What the model makes of each input, by `task`: its vector, one for each token, or its classes."""
        body = await json_body(request)
        items, model = inputs(body), model_of(body)
        form = Form.asked(body, request.headers.get("accept", ""))
        ability = _ability(serving, request, body)
        params = {**own_ids(items), **embedding_params({**body, "task": None}), "raw_scores": is_raw(body)}
        serving.refuse_cap(
            request, model, ability, most_tokens(body, "truncate_prompt_tokens"), "truncate_prompt_tokens"
        )
        served = await serving.embed(request, model, items, params, ability)
        outputs = served.answer.outputs
        vectors = scores_of(outputs)[0] if ability == "classify" else outputs
        if form.is_bytes:
            return form.response(vectors, served)
        answer = {
            "id": served.id("pool"),
            "object": "list",
            "created": int(time.time()),
            "model": served.model.uid,
            "data": [{"index": i, "object": "pooling", "data": row} for i, row in enumerate(form.rows(vectors))],
            "usage": served.usage,
        }
        return Json(answer, headers=served.headers)

    return routes


def _sides(body: JsonObject) -> tuple[list[str], list[str]]:
    """Both sides at the same length."""
    pairs = sorted(SIDES, key=lambda names: -sum(body.get(name) is not None for name in names))
    names = pairs[0]
    left, right = (texts_of(body.get(name), name) for name in names)
    if len(left) == 1:
        left = left * len(right)
    elif len(right) == 1:
        right = right * len(left)
    if len(left) != len(right):
        raise errors.InvalidBody(
            f"{names[0]} has {len(left)} texts and {names[1]} has {len(right)}; give as many, or one on a side.",
            names[1],
        )
    return left, right


async def _reranked(
    serving: Serving, request: Request, body: JsonObject, left: list[str], right: list[str]
) -> tuple[Any, int, str]:
    """One question for each different text on the left."""
    params: JsonObject = {"raw_scores": is_raw(body)}
    if (cut := truncation(body)) is not None:
        params["truncate"] = cut
    places: dict[str, list[int]] = {}
    for position, query in enumerate(left):
        places.setdefault(query, []).append(position)
    questions = [
        ("rerank", [right[position] for position in at], {**params, "query": query}) for query, at in places.items()
    ]
    answers = await serving.ask_all(request, model_of(body), questions)
    scores = np.empty(len(left), np.float32)
    for at, served in zip(places.values(), answers, strict=True):
        scores[at] = served.answer.outputs
    return scores, sum(served.answer.tokens for served in answers), answers[0].model.uid


def _ability(serving: Serving, request: Request, body: JsonObject) -> str:
    task = first(body, str, "task")
    if task is None:
        return serving.able(request, model_of(body), "embed", "embed_tokens", "classify")
    if task not in TASKS:
        raise errors.InvalidBody(f"task takes embed, token_embed or classify, not {quoted(task)}.", "task")
    return TASKS[task]
