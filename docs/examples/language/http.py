"""POST /v1/language: which language each text is in. Only an ingress imports this module."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Dialect, Services, text_bytes


class LanguageBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    input: list[str]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["language"])

    @routes.post("/v1/language")
    async def language(request: Request) -> Json:
        body: LanguageBody = checked(LanguageBody, await json_body(request))
        # The rest is done for every route: keys, limits, choosing a worker, a retry elsewhere, errors.
        served = await services.serving.ask(request, body.model, "language", body.input, {})
        return Json({"model": served.model.uid, "languages": served.answer.outputs}, headers=served.headers)

    return routes


ROUTES = (Dialect(router, text_bytes),)
