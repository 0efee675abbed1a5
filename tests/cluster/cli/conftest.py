from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main
from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import FakeServer, Running


@pytest.fixture
def server(running: Running) -> Iterator[FakeServer]:
    """Has no answers until the test gives some; a request that the test did not expect makes it fail."""
    running.fake = FakeServer(running.fake.url)
    yield running.fake
    assert running.fake.unexpected == []


@pytest.fixture
def environment(server: FakeServer, tmp_path: Path) -> dict[str, str]:
    """Makes commands use the server, and a home folder of their own."""
    return {"CLUSTER_ENDPOINT": server.url, "CLUSTER_HOME": str(tmp_path / "home")}


@pytest.fixture
def cluster(environment: dict[str, str]) -> Callable[..., Result]:
    """`cluster("list", "--json")` runs the command as a script would: no terminal, nothing to answer questions."""

    def run(*words: str, input: str | None = None, **variables: str) -> Result:
        done = CliRunner().invoke(main, words, input, env={**environment, **variables}, prog_name="cluster")
        # A traceback is never what a user gets.
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done

    return run


@pytest.fixture
def at_terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(*words: str, **options: Any) -> Terminal:
        opened.append(Terminal(environment, *words, **options))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.close()
