"""What the tests of `deployments/` share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import LiveCluster


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """A second cluster, which asks for keys. A test that launches something there terminates it."""
    cluster = LiveCluster(tmp_path_factory.mktemp("locked"), CLUSTER_AUTH="on", CLUSTER_TICK_S="0.3")
    cluster.up()
    yield cluster
    cluster.down()
