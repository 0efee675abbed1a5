"""Real SDKs against the cluster of the test session. Each must return what a plain HTTP request returns, and none may
connect to anything but loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.live import LiveCluster
from tests.painted import Journal

# The SDKs read these when they are imported, so they are set before that.
os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_MODE="PRODUCTION",
    LANGSMITH_TRACING="false",
    LANGCHAIN_TRACING_V2="false",
    DO_NOT_TRACK="1",
    ANONYMIZED_TELEMETRY="False",
    NO_PROXY="127.0.0.1,localhost",
)

LOOPBACK = ("127.0.0.1", "localhost", "::1", None)
#: For a `huggingface/` model LiteLLM asks the hub in a separate thread how long texts may be. If the connection is
#: refused, it goes on without that.
EXPECTED = ("huggingface.co",)

TEXTS = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again."]
QUERY = "Why do the tides rise and fall?"
PNG = "data:image/png;base64,AwME"
WAV = "data:audio/wav;base64,BQ=="
DOCUMENTS = ["Bread needs salt and time.", "The moon pulls the sea.", "Paris is the capital of France."]

_is_watching = True
_strays: list[str] = []


def _keep_on_loopback(event: str, args: tuple[Any, ...]) -> None:
    if not _is_watching or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    address = args[0] if event == "socket.getaddrinfo" else args[1]
    # An address that is a path is a Unix socket of this machine.
    host = address[0] if isinstance(address, tuple) else address if event == "socket.getaddrinfo" else None
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOOPBACK:
        if host not in EXPECTED:
            _strays.append(f"{event} {host}")
        raise ConnectionRefusedError(f"{host} is not on loopback")


# An audit hook sees every connection of the process, whichever library makes it, and no library can catch the failure
# of the test.
sys.addaudithook(_keep_on_loopback)

# It fetches a table of prices when it is imported.
import litellm  # noqa: E402, F401

_is_watching = False


def assert_same(got: Any, wanted: Any) -> None:
    """Equal except for the last digits, which depend on the shape of the batch."""
    np.testing.assert_allclose(np.asarray(got, dtype=np.float64), np.asarray(wanted), rtol=0, atol=1e-5)


def assert_nearly_all(got: Any, wanted: Any) -> None:
    """Nearly all equal: numbers that lie between two steps may be rounded either way."""
    found = np.asarray(got)
    assert found.shape == wanted.shape and (found == wanted).mean() > 0.98


@pytest.fixture(autouse=True)
def on_loopback() -> Iterator[None]:
    global _is_watching
    _is_watching = True
    _strays.clear()
    yield
    _is_watching = False
    assert not _strays, "an SDK reached for the network"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """A line for each step that a painter took, whoever asked for it."""
    return Journal(tmp_path_factory.mktemp("journal") / "steps")


@pytest.fixture(scope="session")
def vectors(live: LiveCluster, embedder: str) -> list[list[float]]:
    """The vectors of `TEXTS`, asked for without any SDK."""
    answer = live.post("/v1/embeddings", {"model": embedder, "input": TEXTS})
    assert answer.status_code == 200, answer.text
    return [row["embedding"] for row in answer.json()["data"]]


@pytest.fixture(scope="session")
def scores(live: LiveCluster, reranker: str) -> dict[int, float]:
    """The score of each of `DOCUMENTS` for `QUERY`, best first, asked for without any SDK."""
    answer = live.post("/v1/rerank", {"model": reranker, "query": QUERY, "documents": DOCUMENTS})
    assert answer.status_code == 200, answer.text
    found = {row["index"]: row["relevance_score"] for row in answer.json()["results"]}
    assert next(iter(found)) == 1, "the sentence about the sea is the best"
    return found
