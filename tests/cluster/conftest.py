from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.client.fake_server import Running


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()
