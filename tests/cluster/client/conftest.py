from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.client.fake_server import Running
from tests.cluster.client.image_server import ImageServer


@pytest.fixture
def server(running: Running) -> Iterator[ImageServer]:
    """Has no answers until the test gives some; a request that the test did not expect makes it fail."""
    running.fake = ImageServer(running.fake.url)
    yield running.fake
    assert running.fake.unexpected == []


@pytest.fixture(autouse=True)
def no_coroutine_is_left_unawaited(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert [w for w in recwarn if "never awaited" in str(w.message)] == []
