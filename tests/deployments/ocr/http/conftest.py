"""Models whose pages can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.deployments.ocr.http.asking import PAGE_S
from tests.described import held_to_its_description
from tests.live import LiveCluster
from tests.read_pages import Journal, reading


@pytest.fixture(scope="package")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "slow")


@pytest.fixture(scope="package")
def server(live: LiveCluster, journal: Journal) -> Iterator[httpx.Client]:
    """All of them, launched once for all modules of this folder."""
    slow = {"seconds": PAGE_S, "journal": str(journal.path), "parallel": 1}
    with (
        reading(live, "reader"),
        reading(live, "slow-reader", **slow),
        reading(live, "two-readers", replica=2, parallel=1, seconds=0.2),
        reading(live, "writer", shows=True, seconds=1.0),
        httpx.Client(base_url=live.url, timeout=30, event_hooks=held_to_its_description(live.url)) as http,
    ):
        yield http
