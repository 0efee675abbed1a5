"""Chat completions: one path for all models that can be talked to, answered by the wing whose ability the model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Required

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ingress.bodies import json_body
from deployments.ingress.dialects import ChatAnswer, Services
from deployments.ingress.openapi import EVENTS, described


class ChatRequest(TypedDict, total=False):
    """What a model does with a chat is its type's affair; these fields are everybody's."""

    model: str | None
    messages: Required[list[JsonObject]]
    stream: bool | None
    stream_options: JsonObject | None
    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None


class ChatMessage(TypedDict):
    role: str
    content: str | None


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    finish_reason: str | None


class ChatUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


def router(services: Services, chats: Mapping[str, Callable[[Services], ChatAnswer]]) -> APIRouter:
    """`chats`: by ability, what the wings bring."""
    routes = APIRouter(tags=["chat"])
    answers = {ability: make(services) for ability, make in chats.items()}
    if not answers:
        return routes

    @routes.post("/v1/chat/completions")
    @described("Answer a chat", ChatCompletion, body=ChatRequest, media_types=(EVENTS,))
    async def chat(request: Request) -> Response:
        """Parts of messages of the type `image_url` are pictures, as data URIs, for models that read or see them."""
        body = await json_body(request)
        name = body.get("model")
        ability = services.serving.able(request, name if isinstance(name, str) else None, *answers)
        return await answers[ability](request, body)

    return routes
