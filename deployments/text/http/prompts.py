"""vLLM's way from a prompt to its token ids and back. Its /tokenize shares a path with TEI's, in `tei`."""

from __future__ import annotations

from typing import Required

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ingress.serving import Serving
from deployments.text.http.fields import flag, ids_of, model_of


class TokenizePromptBody(TypedDict, total=False):
    model: str | None
    prompt: str
    #: Of models that chat, as their template writes them.
    messages: list[JsonObject]
    tools: list[JsonObject] | None
    add_special_tokens: bool | None
    return_token_strs: bool | None


class TokenizedPrompt(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(TypedDict, total=False):
    model: str | None
    tokens: Required[list[int]]


class DetokenizedPrompt(TypedDict):
    prompt: str


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["vllm"])

    @routes.post("/detokenize")
    @described("The text of tokens, as vLLM tells it", DetokenizedPrompt, body=DetokenizeBody)
    async def detokenize(request: Request) -> Json:
        body = await json_body(request)
        ids = ids_of(body.get("tokens"), "tokens")
        # What stands around a text is no part of a prompt.
        model = model_of(body)
        ability = services.serving.able(request, model, "decode", "detokenize")
        served = await services.serving.ask(request, model, ability, [ids], {"skip_special_tokens": True})
        return Json({"prompt": served.answer.outputs[0]}, headers=served.headers)

    return routes


async def tokens_of_prompt(serving: Serving, request: Request, body: JsonObject) -> Json:
    item = body.get("prompt")
    if "messages" in body:
        serving.find(request, model_of(body), "chat")
        item = {name: body[name] for name in ("messages", "tools") if body.get(name)}
    elif not isinstance(item, str):
        raise errors.InvalidBody("prompt must be a text.", "prompt")
    adds = body.get("add_special_tokens")
    params = {"add_special_tokens": True if adds is None else flag(adds, "add_special_tokens")}
    model = model_of(body)
    ability = serving.able(request, model, "tokenize", "tokenize_prompt")
    served = await serving.ask(request, model, ability, [item], params)
    (row,) = served.answer.outputs
    content: TokenizedPrompt = {
        "count": len(row["ids"]),
        "max_model_len": served.model.max_tokens or 0,
        "tokens": list(row["ids"]),
        "token_strs": list(row["tokens"]) if flag(body.get("return_token_strs"), "return_token_strs") else None,
    }
    return Json(content, headers=served.headers)
