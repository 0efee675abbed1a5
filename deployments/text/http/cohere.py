"""Cohere's embedding routes, both versions; its rerank is beside everybody's in `rerank`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ingress.serving import Served
from deployments.text.http import schemas
from deployments.text.http.encoding import Form
from deployments.text.http.fields import embedding_params, model_of, most_tokens, texts_of


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["embeddings"])

    async def embed(request: Request, version: int) -> tuple[JsonObject, JsonObject, Form, Served]:
        body = await json_body(request)
        name, items = _items(body)
        form = _form(body)
        caches = "no-store" not in request.headers.get("cache-control", "")
        # `image` says what the inputs are, not how they are meant.
        is_image = body.get("input_type") == "image"
        params = embedding_params({**body, "input_type": None} if is_image else body, caches=caches)
        model = model_of(body)
        serving.refuse_cap(
            request, model, serving.able(request, model, "embed"), most_tokens(body, "max_tokens"), "max_tokens"
        )
        served = await serving.embed(request, model, items, params, param=name)
        texts = [item for item in items if isinstance(item, str)]
        units = {"input_tokens": served.answer.tokens}
        if len(texts) < len(items):
            units["images"] = len(items) - len(texts)
        answer = {
            "id": request.state.request_id,
            "response_type": "embeddings_by_type",
            "embeddings": {kind: form.written(served.answer.outputs, kind) for kind in form.kinds},
            "texts": texts,
            "images": [],
            "meta": {"api_version": {"version": str(version)}, "billed_units": units},
        }
        return body, answer, form, served

    @routes.post("/v2/embed")
    @described("Embed texts and images, as Cohere does", schemas.CohereEmbeddings, body=schemas.CohereEmbedBody)
    async def embed_by_type(request: Request) -> Json:
        _, answer, _, served = await embed(request, 2)
        return Json(answer, headers=served.headers)

    @routes.post("/v1/embed")
    @described("Embed texts and images, as Cohere did first", schemas.CohereEmbeddings, body=schemas.CohereEmbedBody)
    async def embed_floats(request: Request) -> Json:
        """The first version: bare vectors where no types are named."""
        body, answer, form, served = await embed(request, 1)
        if body.get("embedding_types") is None:
            answer |= {"response_type": "embeddings_floats", "embeddings": answer["embeddings"]["float"]}
        return Json(answer, headers=served.headers)

    return routes


def _items(body: JsonObject) -> tuple[str, list[Any]]:
    """The inputs, and under which of the three names they came."""
    if body.get("inputs") is not None:
        items = body["inputs"]
        if not isinstance(items, list) or not items:
            raise errors.InvalidBody("inputs must be a list of at least one.", "inputs")
        return "inputs", [_content(item) for item in items]
    if body.get("images") is not None:
        return "images", [{"image": image} for image in texts_of(body["images"], "images")]
    texts = body.get("texts")
    if isinstance(texts, str):
        raise errors.InvalidBody("texts must be a list of texts, at least one.", "texts")
    return "texts", list(texts_of(texts, "texts"))


def _content(item: object) -> object:
    parts = item.get("content") if isinstance(item, dict) else None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise errors.InvalidBody("inputs must be objects with a list of contents.", "inputs")
    texts = [part.get("text") for part in parts if part.get("type", "text") == "text"]
    images = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
    urls = [image.get("url") if isinstance(image, dict) else image for image in images]
    if len(texts) + len(urls) < len(parts) or not all(isinstance(text, str) for text in (*texts, *urls)):
        raise errors.InvalidBody("the contents of inputs must be texts, or one image_url.", "inputs")
    if texts and not urls:
        return " ".join(map(str, texts))
    if len(parts) > 1:
        raise errors.InvalidBody("an input with an image can hold nothing else.", "inputs")
    return {"image": urls[0]}


def _form(body: JsonObject) -> Form:
    kinds = body.get("embedding_types")
    if kinds is not None and not isinstance(kinds, list):
        raise errors.InvalidBody("embedding_types must be a list of names.", "embedding_types")
    return Form.asked({"embedding_types": kinds or None})
