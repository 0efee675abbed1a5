"""Chat completions: one path for all models that can be talked to, answered by the wing whose ability the model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response

from deployments.ingress.bodies import json_body
from deployments.ingress.dialects import ChatAnswer, Services


def router(services: Services, chats: Mapping[str, Callable[[Services], ChatAnswer]]) -> APIRouter:
    """`chats`: by ability, what the wings bring."""
    routes = APIRouter(tags=["chat"])
    answers = {ability: make(services) for ability, make in chats.items()}
    if not answers:
        return routes

    @routes.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await json_body(request)
        name = body.get("model")
        ability = services.serving.able(request, name if isinstance(name, str) else None, *answers)
        return await answers[ability](request, body)

    return routes
