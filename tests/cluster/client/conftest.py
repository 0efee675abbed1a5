from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.client.fake_server import Running
from tests.cluster.client.image_server import ImageServer


@pytest.fixture
def server(running: Running) -> Iterator[ImageServer]:
    """Knows no answer until the test says one; nothing may ask it for what the test did not foresee."""
    running.fake = ImageServer(running.fake.url)
    yield running.fake
    assert running.fake.unexpected == []
