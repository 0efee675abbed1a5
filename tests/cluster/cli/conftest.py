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
    """Knows no answer until the test says one; nothing may ask it for what the test did not foresee."""
    running.fake = FakeServer(running.fake.url)
    yield running.fake
    assert running.fake.unexpected == []


@pytest.fixture
def environment(server: FakeServer, tmp_path: Path) -> dict[str, str]:
    """Points commands at the server, and at a home of their own."""
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
