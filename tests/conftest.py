"""One real cluster for all tests that need one."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.documented import Item, table
from tests.live import ROOT, LiveCluster, until

#: All tests in it are of clients of the real cluster.
CLIENTS = ROOT / "tests" / "clients"


#: Whether each thing that other documentation shows has run, of the tests of this session.
RAN = pytest.StashKey[dict[Item, bool]]()


def pytest_configure(config: pytest.Config) -> None:
    """A shell makes processes in the background ignore Ctrl-C, and the commands under test would inherit that, as well
    as the settings of whoever runs the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("CLUSTER_")]:
        del os.environ[name]
    config.stash[RAN] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for marker in item.iter_markers("documented") if report.when == "call" or report.failed else ():
        for name in marker.args[1:]:
            key = (marker.args[0], name)
            item.config.stash[RAN][key] = report.passed and item.config.stash[RAN].get(key, True)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[RAN]:
        terminalreporter.section("documented")
        for line in table(config.stash[RAN]):
            terminalreporter.write_line(line)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Importing the clients takes ten seconds, which tests without a cluster need not wait for."""
    return True if collection_path == CLIENTS and config.option.markexpr == "not ray" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the real cluster, so that these run in one process."""
    for item in items:
        if {"live", "locked"} & set(getattr(item, "fixturenames", ())) or item.path.is_relative_to(CLIENTS):
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("ray"):
            # Warnings are errors for the others only: here it is shown what clients and processes warn of.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_collection_finish() -> None:
    keep_from_the_collector()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """After each file, when all that only its tests needed is gone."""
    done = yield
    if nextitem is not None and nextitem.path != item.path:
        keep_from_the_collector()
    return done


def keep_from_the_collector() -> None:
    """What is there by now stays: thousands of tests, and the libraries that some of them import. Whatever loads a
    model and whatever ends a supervisor collects garbage, and would look through it all for a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """The cluster that serves until the last test. Tests launch what they need under uids of their own and terminate
    it."""
    settings = {
        "CLUSTER_TICK_S": "0.3",
        "CLUSTER_PROBE_S": "3",
        "CLUSTER_KEEP_ALIVE_S": "3",
        "CLUSTER_SCALE_DOWN_S": "2",
        "CLUSTER_CANARY_S": "3",
        "CLUSTER_CANARY_REQUESTS": "40",
    }
    cluster = LiveCluster(tmp_path_factory.mktemp("home"), **settings)
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def embedder(live: LiveCluster) -> str:
    """The uid of a real embedding model."""
    with live.client() as client:
        return client.launch_model(model_name="all-MiniLM-L6-v2", model_type="embedding", model_uid="minilm")


@pytest.fixture(scope="session")
def reranker(live: LiveCluster) -> str:
    """The uid of a real reranker."""
    with live.client() as client:
        return client.launch_model(model_name="ce-tiny", model_type="rerank", model_uid="reranker")


@pytest.fixture(scope="session")
def talker(live: LiveCluster) -> str:
    """The uid of a real language model. Its weights are converted first, which takes half a minute."""
    with live.client() as client:
        return client.launch_model("smollm2-135m-instruct", "llm", model_uid="talker", cache_gb=0.2)


@pytest.fixture(scope="module")
def letters(live: LiveCluster) -> Iterator[str]:
    """The uid of a model that can do everything that text models can, with answers to work out by hand. It is
    terminated after each module, since requests without a model name must find only one that fits."""
    with live.client() as client:
        uid = client.launch_model("letters", model_uid="letters")
        yield uid
        client.terminate_model(uid)
        until(lambda: uid not in client.list_models(), within=10)
