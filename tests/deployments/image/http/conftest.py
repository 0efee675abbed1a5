from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.deployments.image.http.asking import STEP_S
from tests.described import held_to_its_description
from tests.live import LiveCluster
from tests.painted import Journal, painting


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "steps")


@pytest.fixture(scope="module")
def slow_journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "slow")


@pytest.fixture(scope="module")
def server(live: LiveCluster, journal: Journal, slow_journal: Journal) -> Iterator[httpx.Client]:
    slow = {"step_seconds": STEP_S, "journal": str(slow_journal.path)}
    with (
        painting(live, "a-painter", journal=str(journal.path)),
        painting(live, "b-editor", able=["image2image"]),
        painting(live, "c-slow", **slow),
        httpx.Client(base_url=live.url, timeout=20, event_hooks=held_to_its_description(live.url)) as http,
    ):
        yield http
