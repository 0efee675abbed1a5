"""The routes of text-embeddings-inference, with its bare answers, its shape of errors and its timings in headers.

Its servers hold one model, so its requests name none. Where several could answer, `model` is added to the body, or to
the address (`/embed?model=…`) by clients that let nobody add to the body. Its /rerank is with everybody's in `rerank`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from cluster import errors
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ingress.serving import ONGOING, Served, Serving
from deployments.ingress.version import VERSION
from deployments.text.facts import ClassifyFacts, TextFacts
from deployments.text.http import schemas
from deployments.text.http.classify import best_first
from deployments.text.http.fields import embedding_params, first, flag, ids_of, model_of, own_ids, texts_of, truncation
from deployments.text.http.prompts import TokenizedPrompt, TokenizePromptBody, tokens_of_prompt
from deployments.vectors import unit

#: Answers of more tokens are built in a thread, so that the loop can answer others meanwhile.
FEW_TOKENS = 5000

_described = partial(described, error=schemas.TeiError)


class Tei:
    """What its routes ask of a model, from a body that has been read."""

    def __init__(self, services: Services) -> None:
        self.serving = services.serving

    def model(self, request: Request, body: JsonObject) -> str | None:
        return model_of(body) or request.query_params.get("model")

    async def ask(
        self, request: Request, body: JsonObject, ability: str, items: Sequence[Any], params: JsonObject
    ) -> Served:
        most = self.serving.settings.max_items
        if len(items) > most:
            raise errors.TooLarge(f"batch size {len(items)} > maximum allowed batch size {most}", "inputs")
        return await self.serving.ask(request, self.model(request, body), ability, items, params)

    async def embedded(
        self, request: Request, body: JsonObject, ability: str, defaults: JsonObject
    ) -> tuple[Served, dict[str, str]]:
        items = _inputs(body.get("inputs"))
        caches = "no-store" not in request.headers.get("cache-control", "")
        params = {**own_ids(items), **defaults, **embedding_params(body, caches=caches)}
        served = await self.ask(request, body, ability, items, params)
        return served, served.timings(items)

    async def embed(self, request: Request, body: JsonObject) -> Json:
        served, headers = await self.embedded(request, body, "embed", {"normalize": True})
        return Json(list(served.answer.outputs), headers=headers)

    async def embed_sparse(self, request: Request, body: JsonObject) -> Json:
        served, headers = await self.embedded(request, body, "embed_sparse", {})
        rows = [
            [{"index": index, "value": value} for index, value in zip(indices.tolist(), values, strict=True)]
            for indices, values in served.answer.outputs
        ]
        return Json(rows, headers=headers)

    async def predict(self, request: Request, body: JsonObject) -> Json:
        items, is_batch = _sequences(body.get("inputs"))
        params = {"raw_scores": flag(body.get("raw_scores"), "raw_scores"), "truncate": truncation(body) or "END"}
        served = await self.ask(request, body, "classify", items, params)
        rows = best_first(served.answer.outputs)
        return Json(rows if is_batch else rows[0], headers=served.timings(items))


def router(services: Services) -> APIRouter:
    tei = services.shared(Tei)
    serving, ask = tei.serving, tei.ask
    routes = APIRouter(tags=["text-embeddings-inference"])

    @routes.post("/embed")
    @_described("Embed texts", list[list[float]], body=schemas.TeiEmbedBody)
    async def embed(request: Request) -> Json:
        return await tei.embed(request, await json_body(request))

    @routes.post("/embed_all")
    @_described("Embed each token of texts", list[list[list[float]]], body=schemas.TeiEmbedBody)
    async def embed_all(request: Request) -> Json:
        """A vector for each token."""
        served, headers = await tei.embedded(request, await json_body(request), "embed_tokens", {})
        return Json(list(served.answer.outputs), headers=headers)

    @routes.post("/embed_sparse")
    @_described(
        "Embed texts as sparse weights",
        list[list[schemas.SparseValue]],
        body=schemas.TeiEmbedBody,
    )
    async def embed_sparse(request: Request) -> Json:
        return await tei.embed_sparse(request, await json_body(request))

    @routes.post("/predict")
    @_described(
        "Classify texts or pairs",
        list[schemas.ScoredLabel] | list[list[schemas.ScoredLabel]],
        body=schemas.PredictBody,
    )
    async def predict(request: Request) -> Json:
        return await tei.predict(request, await json_body(request))

    @routes.post("/similarity")
    @_described("How similar sentences are to one", list[float], body=schemas.SimilarityBody)
    async def similarity(request: Request) -> Json:
        body = await json_body(request)
        inputs = first(body, dict, "inputs") or {}
        source = first(inputs, str, "source_sentence")
        if source is None:
            raise errors.InvalidBody("inputs needs a source_sentence, which is a text.", "source_sentence")
        items = [source, *texts_of(inputs.get("sentences"), "sentences")]
        params = embedding_params(first(body, dict, "parameters") or {})
        served = await ask(request, body, "embed", items, params)
        vectors = unit(served.answer.outputs)
        return Json(np.clip(vectors[1:] @ vectors[0], -1.0, 1.0), headers=served.timings(items))

    @routes.post("/tokenize")
    @_described(
        "The tokens of texts, as TEI and vLLM tell them",
        list[list[schemas.TokenRow]] | TokenizedPrompt,
        body=schemas.TokenizeBody | TokenizePromptBody,
    )
    async def tokenize(request: Request) -> Json:
        """With `inputs` the tokens of texts; with `prompt` or `messages`, as vLLM's clients send them, the ids."""
        body = await json_body(request)
        if "prompt" in body or "messages" in body:
            return await tokens_of_prompt(serving, request, body)
        _refuse_none(body.get("inputs"), "inputs")
        items = texts_of(body.get("inputs"), "inputs")
        params: JsonObject = {"add_special_tokens": body.get("add_special_tokens") is None}
        if not params["add_special_tokens"]:
            params["add_special_tokens"] = flag(body["add_special_tokens"], "add_special_tokens")
        if (name := first(body, str, "prompt_name")) is not None:
            params["prompt_name"] = name
        served = await ask(request, body, "tokenize", items, params)
        if served.answer.tokens < FEW_TOKENS:
            return _told_tokens(served, items)
        return await asyncio.to_thread(_told_tokens, served, items)

    @routes.post("/decode")
    @_described("The texts of tokens", list[str], body=schemas.DecodeBody)
    async def decode(request: Request) -> Json:
        body = await json_body(request)
        value: Any = body.get("ids")
        _refuse_none(value, "ids")
        is_batch = isinstance(value, list) and isinstance(value[0], list)
        lists = [ids_of(ids, "ids") for ids in (value if is_batch else [value])]
        skips = (
            True
            if body.get("skip_special_tokens") is None
            else flag(body["skip_special_tokens"], "skip_special_tokens")
        )
        served = await ask(request, body, "decode", lists, {"skip_special_tokens": skips})
        return Json(served.answer.outputs, headers=served.timings(lists))

    @routes.get("/info")
    @_described("The model that serves", schemas.TeiInfo)
    async def info(request: Request, model: str | None = None) -> Json:
        """The model that serves, of the model that is named, or of the only one there is."""
        return Json(_info(serving, serving.find(request, model)))

    return routes


def _refuse_none(given: object, name: str) -> None:
    if given == []:
        raise errors.BadRequest(f"`{name}` cannot be empty", name)


def _inputs(given: object) -> list[Any]:
    """A text, one text's token ids, or several of either."""
    _refuse_none(given, "inputs")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list):
        types = set(map(type, given))
        if types == {str}:
            return given
        if types == {int}:
            return [given]
        if types <= {str, list}:
            return [item if isinstance(item, str) else ids_of(item, "inputs") for item in given]
    raise errors.InvalidBody("inputs must be a text, a list of token ids, or a list of these.", "inputs")


def _sequences(given: Any) -> tuple[list[Any], bool]:
    """Texts and pairs of them, and whether they came as a batch: `["a", "b"]` is one pair."""
    _refuse_none(given, "inputs")
    is_batch = isinstance(given, list) and isinstance(given[0], list)
    sequences = given if is_batch else [[given] if isinstance(given, str) else given]
    for sequence in sequences:
        if not isinstance(sequence, list) or len(sequence) not in (1, 2) or set(map(type, sequence)) != {str}:
            raise errors.InvalidBody(
                "inputs must be a text, a pair of texts, or a list of lists of one text or a pair.", "inputs"
            )
    return [sequence[0] if len(sequence) == 1 else sequence for sequence in sequences], is_batch


def _told_tokens(served: Served, items: Sequence[Any]) -> Json:
    return Json([_tokens(tokens) for tokens in served.answer.outputs], headers=served.timings(items))


def _tokens(row: Mapping[str, Sequence[Any]]) -> list[JsonObject]:
    columns = (row[name] for name in ("ids", "tokens", "special", "start", "stop"))
    return [
        # A special token stands for no part of the text.
        {
            "id": id,
            "text": text,
            "special": special,
            "start": None if special else start,
            "stop": None if special else stop,
        }
        for id, text, special, start, stop in zip(*columns, strict=True)
    ]


def _info(serving: Serving, model: ModelRoutes) -> JsonObject:
    facts = model.facts.opened(TextFacts)
    settings = serving.settings
    limits = [route.limit for route in model.workers]
    return {
        "model_id": model.launched.name or model.uid,
        "model_sha": model.launched.revision,
        "model_dtype": (facts and facts.dtype) or "float32",
        "served_model_name": model.uid,
        "model_type": _model_type(model),
        "max_concurrent_requests": ONGOING if None in limits else sum(filter(None, limits)),
        "max_input_length": model.max_tokens or 0,
        "max_batch_tokens": settings.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_items,
        "auto_truncate": True,
        "tokenization_workers": len(model.workers),
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }


def _model_type(model: ModelRoutes) -> JsonObject:
    facts = model.facts.opened(ClassifyFacts)
    labels = {str(number): label for number, label in enumerate(facts.labels if facts else ["LABEL_0"])}
    classes = {"id2label": labels, "label2id": {label: int(number) for number, label in labels.items()}}
    if "rerank" in model.abilities:
        return {"reranker": classes}
    if "classify" in model.abilities:
        return {"classifier": classes}
    pooling = "splade" if "embed" not in model.abilities and "embed_sparse" in model.abilities else "mean"
    return {"embedding": {"pooling": pooling}}
