"""A cluster to break, apart from the one that other tests use."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests import scripted_engine
from tests.hub import Hub
from tests.live import LiveCluster


@pytest.fixture(scope="session")
def counting_hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory, counting_hub: Hub) -> Iterator[LiveCluster]:
    home = tmp_path_factory.mktemp("breakable")
    cluster = LiveCluster(
        home,
        CLUSTER_TICK_S="0.3",
        CLUSTER_PROBE_S="1",
        CLUSTER_PROBE_TIMEOUT_S="10",
        CLUSTER_DRAIN_S="8",
        CLUSTER_LOAD_STALL_S="30",
        CLUSTER_VLLM_COMMAND=f"{sys.executable} {scripted_engine.__file__} --script={home / 'engine.json'}",
        HF_ENDPOINT=counting_hub.url,
    )
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """A cluster to break, with the default settings."""
    cluster = LiveCluster(tmp_path_factory.mktemp("usual"), CLUSTER_INGRESS_REPLICAS="2")
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(autouse=True)
def nothing_left(breakable: LiveCluster) -> Iterator[None]:
    """After each test no model may be wanted, no worker alive and nothing claimed."""
    yield
    breakable.terminate_all()
