"""Embedding routes: at /v1/embeddings OpenAI, Xinference, Jina, Voyage and vLLM, which have fields of their own and no
two meanings for one; at /embeddings Infinity."""

from __future__ import annotations

import re
import time
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request, Response

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import BYTES, described
from deployments.ingress.serving import Served, Serving
from deployments.text.http import schemas
from deployments.text.http.encoding import Form
from deployments.text.http.fields import embedding_params, first, flag, model_of, most_tokens, name_of

#: What an input is when it is not a text, in the words of objects that hold one and of Infinity's `modality`.
MODALITIES = ("image", "audio")
#: The ability that gives each kind of vectors.
ABILITIES = {"dense": "embed", "sparse": "embed_sparse", "tokens": "embed_tokens"}


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["embeddings"])

    async def embed(request: Request, modality: str | None = None) -> Response:
        try:
            body = await json_body(request)
            return await _answer(serving, request, body, modality)
        except errors.InvalidBody as error:
            # OpenAI's answer to a body that does not fit is 400, and its clients tell errors apart by status.
            raise errors.BadRequest(*error.args) from None

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings", summary="Infinity's path of the same call")
    @described(
        "Embed texts, images and sounds", schemas.EmbeddingAnswer, body=schemas.EmbeddingBody, media_types=(BYTES,)
    )
    async def create_embedding(request: Request) -> Response:
        return await embed(request)

    @routes.post("/embeddings_image", summary="Infinity's older path of modality image")
    @described("Embed images", schemas.EmbeddingAnswer, body=schemas.EmbeddingBody, media_types=(BYTES,))
    async def embed_images(request: Request) -> Response:
        return await embed(request, "image")

    @routes.post("/embeddings_audio", summary="Infinity's older path of modality audio")
    @described("Embed sounds", schemas.EmbeddingAnswer, body=schemas.EmbeddingBody, media_types=(BYTES,))
    async def embed_sounds(request: Request) -> Response:
        return await embed(request, "audio")

    @routes.post("/v1/convert_ids_to_tokens")
    @described("The tokens behind ids", list[str] | list[list[str]], body=schemas.ConvertBody)
    async def convert_ids_to_tokens(request: Request) -> Json:
        body = await json_body(request)
        value: Any = body.get("input")
        is_nested = isinstance(value, list) and bool(value) and all(isinstance(ids, list) for ids in value)
        if isinstance(value, list):
            serving.refuse_many([token for ids in value for token in ids] if is_nested else value)
        lists = [_token_ids(ids) for ids in value] if is_nested else [_token_ids(value)]
        served = await serving.ask(request, model_of(body), "tokens", [token for ids in lists for token in ids], {})
        tokens = iter(served.answer.outputs)
        answers = [list(islice(tokens, len(ids))) for ids in lists]
        return Json(answers if is_nested else answers[0])

    return routes


async def _answer(serving: Serving, request: Request, body: JsonObject, modality: str | None) -> Response:
    if isinstance(value := body.get("input"), list) and value and not isinstance(value[0], int):
        serving.refuse_many(value)
    items = inputs(body, modality or first(body, str, "modality"))
    model, kinds = model_of(body), _kinds(body)
    form = Form.asked(body, request.headers.get("accept", ""))
    params = embedding_params(body, caches="no-store" not in request.headers.get("cache-control", ""))
    if kinds == ["dense"]:
        # A model with vectors for each token alone, a ColBERT, answers with those, as Infinity's does.
        ability = serving.able(request, model, "embed", "embed_tokens")
    else:
        _refuse_forms(form, kinds)
        ability = ABILITIES[kinds[0]] if len(kinds) == 1 else "embed_all"
        params |= {"kinds": kinds} if len(kinds) > 1 else {}
    _refuse_unserved(body)
    if (most := most_tokens(body, "truncate_prompt_tokens")) is not None:
        params["most_tokens"] = most
    served = await serving.embed(request, model, items, params, ability)
    if form.is_bytes:
        return form.response(served.answer.outputs, served)
    answers = served.answer.outputs if len(kinds) > 1 else {kinds[0]: served.answer.outputs}
    return Json(openai_body(_rows(form, answers), served), headers=served.headers)


def inputs(body: JsonObject, modality: str | None = None) -> list[Any]:
    """Texts, lists of token ids, and `{"image": …}` or `{"audio": …}`; whatever else an object holds stays here."""
    items = body.get("input")
    if isinstance(items, (str, dict)):
        items = [items]
    if not isinstance(items, list) or not items:
        raise errors.InvalidBody("input must be a text or a list of at least one, and is missing or empty.", "input")
    if modality not in (None, "text", *MODALITIES):
        raise errors.InvalidBody(f"modality takes text, image or audio, not {quoted(modality)}.", "modality")
    types = set(map(type, items))
    if types == {str}:
        return items if modality in (None, "text") else [{modality: text} for text in items]
    if types == {int} and modality in (None, "text"):
        return [items]
    return [_input(item, position, modality) for position, item in enumerate(items)]


def _input(item: object, position: int, modality: str | None) -> object:
    if isinstance(item, dict):
        held = [kind for kind in ("text", *MODALITIES) if isinstance(item.get(kind), str)]
        if len(held) == 1:
            return item["text"] if held == ["text"] else {held[0]: item[held[0]]}
    elif isinstance(item, str):
        return item if modality in (None, "text") else {modality: item}
    elif isinstance(item, list) and set(map(type, item)) == {int} and modality in (None, "text"):
        return item
    raise errors.InvalidBody(
        f"input {position} must be a text, a list of token ids, or an object with one of text, image and audio.",
        "input",
    )


def _token_ids(given: object) -> list[int]:
    """Xinference's clients send token ids as numbers or as texts of digits."""
    if isinstance(given, list) and all(isinstance(i, (int, str)) and re.fullmatch("[0-9]{1,9}", str(i)) for i in given):
        return [int(token) for token in given]
    raise errors.InvalidBody("input must be a list of token ids, or a list of such lists.", "input")


def _kinds(body: JsonObject) -> list[str]:
    """The kinds of vectors asked for: what `return_…` names, one vector per input where nothing is named."""
    tokens = name_of(body, "return_multivector", "return_colbert_vecs") or "return_multivector"
    # The second is how Xinference's documentation spells it.
    sparse = name_of(body, "return_sparse", "return_parse") or "return_sparse"
    wanted = {
        "dense": flag(body.get("return_dense"), "return_dense"),
        "sparse": flag(body.get(sparse), sparse),
        "tokens": flag(body.get(tokens), tokens),
    }
    return [kind for kind, is_asked in wanted.items() if is_asked] or ["dense"]


def _refuse_forms(form: Form, kinds: list[str]) -> None:
    if form.is_bytes:
        raise errors.BadRequest("Only one vector per input can be sent as bytes; leave out return_….", "return_sparse")
    if "sparse" in kinds and (form.encoding != "float" or set(form.kinds) != {"float"}):
        raise errors.BadRequest("Sparse weights can only be sent as numbers.", "return_sparse")


def _refuse_unserved(body: JsonObject) -> None:
    """Refuses fields that would change the vectors and are not served, instead of ignoring them."""
    if flag(body.get("late_chunking"), "late_chunking"):
        raise errors.BadRequest("late_chunking is not served; each input is embedded alone.", "late_chunking")
    if body.get("add_special_tokens") is not None and not flag(body["add_special_tokens"], "add_special_tokens"):
        raise errors.BadRequest(
            "add_special_tokens cannot be false; send token ids of the model to choose them.", "add_special_tokens"
        )


def _rows(form: Form, answers: JsonObject) -> list[JsonObject]:
    """Each input's vectors under the names that clients read: Xinference's for sparse ones, Jina's for several."""
    columns: dict[str, list[Any]] = {}
    object = "embedding"
    if "dense" in answers:
        columns["embedding"] = form.rows(answers["dense"])
    if "sparse" in answers:
        # Numbers of the array itself: as Python's they would be written with twice the digits.
        weights = [dict(zip(map(str, ids.tolist()), values, strict=True)) for ids, values in answers["sparse"]]
        columns["embedding" if len(answers) == 1 else "sparse_embedding"] = weights
        object = "sparse_embedding" if len(answers) == 1 else object
    if "tokens" in answers:
        columns["embeddings"] = form.rows(answers["tokens"])
    return [
        {"index": index, "object": object, **dict(zip(columns, row, strict=True))}
        for index, row in enumerate(zip(*columns.values(), strict=True))
    ]


def openai_body(rows: list[JsonObject], served: Served) -> JsonObject:
    return {
        "object": "list",
        "model": served.model.uid,
        "model_replica": served.replica,
        "data": rows,
        "usage": served.usage,
        "id": served.id("embd"),
        "created": int(time.time()),
    }
