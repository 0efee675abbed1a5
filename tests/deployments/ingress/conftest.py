from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import BaseRoute

from deployments.ingress import worker_queue
from tests.attacks.standing_in import StandIn, opened, run, settings
from tests.live import LiveCluster


@pytest.fixture(scope="module")
def app_routes(tmp_path_factory: pytest.TempPathFactory) -> list[BaseRoute]:
    """Those of an ingress without plugins."""
    routes: list[BaseRoute] = []

    async def scene() -> None:
        async with opened(settings(tmp_path_factory.mktemp("home")), StandIn()) as app:
            routes.extend(app.routes)

    run(scene())
    return routes


@pytest.fixture(scope="module")
def described(live: LiveCluster) -> dict[str, dict[str, Any]]:
    return live.get("/openapi.json").json()["paths"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that say nothing are noticed at once."""
    monkeypatch.setattr(worker_queue, "SILENT_S", 0.05)
    monkeypatch.setattr(worker_queue, "PING_S", 0.02)
    monkeypatch.setattr(worker_queue, "PING_PAUSE_S", 0.01)
