"""What a client asks the server about itself before it does anything else."""

from __future__ import annotations

from fastapi import APIRouter

from cluster.settings import Settings
from deployments.ingress.bodies import Json
from deployments.ingress.version import VERSION


def public(settings: Settings) -> APIRouter:
    """Answered without a key: a client must be able to learn that it needs one."""
    routes = APIRouter(tags=["health"])

    @routes.get("/v1/address")
    async def address() -> Json:
        return Json(f"{settings.host}:{settings.port}")

    @routes.get("/v1/cluster/auth")
    async def auth() -> Json:
        return Json({"auth": settings.asks_for_keys})

    return routes


def watching() -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/cluster/version")
    async def cluster_version() -> Json:
        return Json({"version": VERSION, "full-revisionid": None, "dirty": False, "error": None, "date": None})

    return routes
