from __future__ import annotations

from typing import Any

import pytest

from tests.live import LiveCluster


@pytest.fixture(scope="module")
def described(live: LiveCluster) -> dict[str, dict[str, Any]]:
    return live.get("/openapi.json").json()["paths"]
