"""Rerank routes. The same scores in five dialects, told apart by path and by what the body holds:

/rerank       Infinity: a document is a text. With `texts` in the body it is TEI: a bare list.
/v1/rerank    Xinference, Jina, Cohere v1, vLLM: a document is `{"text": …}`; Voyage's `data` is beside `results`, and
              with its `top_k` or `truncation` a document is a text.
/v2/rerank    Cohere v2: no documents.
/vllm/rerank  for LiteLLM's hosted_vllm without /v1, which wants objects where Infinity's clients want texts.
"""

from __future__ import annotations

import time
import uuid

import numpy as np
from fastapi import APIRouter, Request

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, inner_json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.error_shapes import tei_error
from deployments.ingress.openapi import ErrorBody, described
from deployments.ingress.serving import Served, Serving
from deployments.text.http import schemas
from deployments.text.http.fields import count, first, flag, model_of, truncation
from deployments.text.http.ranking import Ranking, ranking_in

#: What to do with documents that are longer than the model reads: cut them, refuse them, or take their best part.
LONG_DOCUMENTS = ("truncate", "error", "chunk")


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["rerank"])

    async def served(request: Request, body: JsonObject) -> tuple[Ranking, Served]:
        return await _asked(serving, request, body, _model(request, body))

    @routes.post("/rerank")
    @described(
        "Rank documents by a query, as Infinity and TEI do",
        schemas.RerankAnswer | list[schemas.RankedText],
        body=schemas.RerankBody | schemas.TextRerankBody,
        error=ErrorBody | schemas.TeiError,
    )
    async def infinity_rerank(request: Request) -> Json:
        body = await json_body(request)
        if "texts" in body:
            request.state.error_response = tei_error
            return await ranked_texts(serving, request, body, _model(request, body))
        ranking, answer = await served(request, body)
        ranked = _ranked(body, answer)
        return Json(_body(body, ranking, answer, ranked, as_text=True, with_null=True), headers=answer.headers)

    @routes.post("/v1/rerank")
    @routes.post("/vllm/rerank")
    @described("Rank documents by a query", schemas.RerankAnswer, body=schemas.RerankBody)
    async def object_rerank(request: Request) -> Json:
        body = await json_body(request)
        ranking, answer = await served(request, body)
        ranked = _ranked(body, answer)
        is_voyage = body.get("top_k") is not None or "truncation" in body
        # Xinference's clients alone always name `return_len`. They expect null where no document was asked for; those
        # of Jina and Voyage expect nothing there.
        content = _body(body, ranking, answer, ranked, as_text=is_voyage, with_null="return_len" in body)
        if is_voyage:
            content["object"] = "list"
        # A Voyage client that wants every result cannot be told from the others, so all get its list.
        return Json({**content, "data": content["results"]}, headers=answer.headers)

    @routes.post("/v2/rerank")
    @described("Rank documents by a query, as Cohere does", schemas.RerankAnswer, body=schemas.RerankBody)
    async def cohere_rerank(request: Request) -> Json:
        body = await json_body(request)
        ranking, answer = await served(request, body)
        ranked = _ranked(body, answer)
        content = _body({**body, "return_documents": False}, ranking, answer, ranked, as_text=False, with_null=False)
        return Json(content, headers=answer.headers)

    return routes


def _model(request: Request, body: JsonObject) -> str | None:
    """Clients of text-embeddings-inference have only the address to name a model in."""
    return model_of(body) or request.query_params.get("model")


async def ranked_texts(serving: Serving, request: Request, body: JsonObject, model: str | None) -> Json:
    """TEI's bare list."""
    ranking, served = await _asked(serving, request, body, model)
    with_text = flag(body.get("return_text"), "return_text")
    texts = ranking.texts
    rows = [
        {"index": index, "score": score, **({"text": texts[index]} if with_text else {})}
        for index, score in _ranked(body, served)
    ]
    read = [item for item in (ranking.query, *ranking.documents) if isinstance(item, str)]
    return Json(rows, headers=served.timings(read))


async def _asked(serving: Serving, request: Request, body: JsonObject, model: str | None) -> tuple[Ranking, Served]:
    ranking = ranking_in(body)
    return ranking, await serving.rank(request, model, ranking.query, ranking.documents, _params(body))


def _params(body: JsonObject) -> JsonObject:
    params = {
        "raw_scores": flag(body.get("raw_scores"), "raw_scores"),
        "truncate": truncation(body),
        "max_tokens_per_doc": count(body, "max_tokens_per_doc", "max_doc_length"),
        "long_documents": _long_documents(body),
        "instruction": first(body, str, "instruction"),
    }
    # What shapes the answer is checked before there is one.
    count(body, "top_n", "top_k")
    for name in ("return_len", "return_text"):
        flag(body.get(name), name)
    _refuse_unknown_kwargs(body)
    if body.get("rank_fields") not in (None, [], ["text"]):
        raise errors.BadRequest(
            "rank_fields cannot be chosen; what is to be read of a document belongs in its `text`.", "rank_fields"
        )
    return {name: value for name, value in params.items() if value is not None}


def _long_documents(body: JsonObject) -> str | None:
    policy = first(body, str, "long_documents")
    if policy not in (None, *LONG_DOCUMENTS):
        raise errors.InvalidBody(
            f"long_documents takes {', '.join(LONG_DOCUMENTS)}, not {quoted(policy)}.", "long_documents"
        )
    # Whoever limits the chunks wants them.
    is_chunked = count(body, "max_chunks_per_doc") is not None
    return policy or ("chunk" if is_chunked else None)


KWARGS = {
    "raw_scores",
    "truncate",
    "truncation",
    "top_n",
    "return_documents",
    "return_len",
    "max_tokens_per_doc",
    "long_documents",
    "query_type",
    "doc_type",
    "instruction",
}


def _refuse_unknown_kwargs(body: JsonObject) -> None:
    """Xinference's client repeats its keyword arguments as JSON, and its users expect an error for unknown ones."""
    value = body.get("kwargs")
    if value is None:
        return
    kwargs = inner_json(value, "kwargs") if isinstance(value, str) else value
    if kwargs is not None and not isinstance(kwargs, dict):
        raise errors.InvalidBody("kwargs must be an object or the JSON of one.", "kwargs")
    unknown = sorted(set(kwargs or {}) - KWARGS)
    if unknown:
        raise errors.BadRequest(f"rerank does not take {', '.join(unknown)}.", unknown[0])


def _ranked(body: JsonObject, served: Served) -> list[tuple[int, float]]:
    scores = np.asarray(served.answer.outputs, dtype=np.float32)
    order = np.argsort(-scores, kind="stable")
    most = count(body, "top_n", "top_k")
    return [(int(i), float(scores[i])) for i in order[:most]]


def _body(
    body: JsonObject,
    ranking: Ranking,
    served: Served,
    ranked: list[tuple[int, float]],
    *,
    as_text: bool,
    with_null: bool,
) -> JsonObject:
    with_documents = flag(body.get("return_documents"), "return_documents")
    tokens = served.answer.tokens
    texts = ranking.texts
    results = []
    for index, score in ranked:
        row: JsonObject = {"index": index, "relevance_score": score}
        if with_documents:
            row["document"] = texts[index] if as_text else ranking.returned(index)
        elif with_null:
            row["document"] = None
        results.append(row)
    counted = {"input_tokens": tokens, "output_tokens": tokens} if flag(body.get("return_len"), "return_len") else None
    return {
        "id": str(uuid.uuid4()),
        "object": "rerank",
        "model": served.model.uid,
        "created": int(time.time()),
        "results": results,
        "usage": served.usage,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": counted,
            "warnings": None,
        },
    }
