"""Real SDKs against the session's cluster. What each must give back is what a plain HTTP request gives; none may reach
anything but loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.live import LiveCluster
from tests.painted import Journal

# Read when the SDKs are imported, so before any of them is.
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
#: LiteLLM looks up how long texts of a `huggingface/` model may be, in a thread of its own; refused, it does without.
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
    # A path is a socket of this machine.
    host = address[0] if isinstance(address, tuple) else address if event == "socket.getaddrinfo" else None
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOOPBACK:
        if host not in EXPECTED:
            _strays.append(f"{event} {host}")
        raise ConnectionRefusedError(f"{host} is not on loopback")


# An audit hook sees every connection of the process, whatever library makes it, and cannot be swallowed.
sys.addaudithook(_keep_on_loopback)

# It fetches a table of prices when it is imported.
import litellm  # noqa: E402, F401

_is_watching = False


def assert_same(got: Any, wanted: Any) -> None:
    """Equal but for what a batch of another shape changes in the last digits."""
    np.testing.assert_allclose(np.asarray(got, dtype=np.float64), np.asarray(wanted), rtol=0, atol=1e-5)


def assert_nearly_all(got: Any, wanted: Any) -> None:
    """The same but for numbers between two steps, which go either way with the last digits of a vector."""
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
