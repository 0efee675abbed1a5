"""Whether this process lives, and whether it can serve."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path
from typing import NotRequired

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.settings import Settings
from deployments.ingress.auth import keyless, presented_key
from deployments.ingress.bodies import Json
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.openapi import described


class Health(TypedDict):
    status: str
    unix: float


class Readiness(TypedDict):
    ready: bool
    models: int
    without_worker: NotRequired[list[str]]
    disk_free_bytes: int | None


def router(dispatcher: Dispatcher, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    @routes.get("/ping", include_in_schema=False)
    @keyless("public")
    @described("Whether the process lives", Health)
    async def health() -> Json:
        """The process lives; `/ready` says whether it can serve."""
        return Json({"status": "ok", "unix": time.time()})

    @routes.get("/ready")
    @keyless("public")
    @described("Whether the server can serve", Readiness)
    async def ready(request: Request) -> Json:
        """200 only when every wanted model has a worker and this ingress knows it, else 503. A caller whose key may
        list models is told which ones have none."""
        table, presented = dispatcher.table, presented_key(request.headers)
        lacking = sorted(uid for uid, model in table.models.items() if not table.is_usable(model))
        is_ready = dispatcher.is_ready and not lacking
        body: Readiness = {"ready": is_ready, "models": len(table.models), "disk_free_bytes": None}
        with contextlib.suppress(errors.NotAuthenticated, errors.NotPermitted):
            key = keys.check(dispatcher.keys, presented, "list") if settings.asks_for_keys else None
            body["without_worker"] = keys.visible(key, lacking, str)
        body["disk_free_bytes"] = await asyncio.to_thread(_free_bytes, settings.home)
        return Json(body, 200 if is_ready else 503)

    return routes


def _free_bytes(folder: Path) -> int | None:
    """A full disk stops no request, but nothing can be launched any more."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
