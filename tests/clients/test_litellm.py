"""LiteLLM with the `api_base` that its documentation gives for each provider."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import litellm
import numpy as np
import openai
import pytest

from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.live import LiveCluster


@pytest.fixture(params=["xinference", "infinity"])
def provider(request: pytest.FixtureRequest, live: LiveCluster) -> dict[str, str]:
    return {
        "xinference": {"custom_llm_provider": "xinference", "api_base": f"{live.url}/v1"},
        "infinity": {"custom_llm_provider": "infinity", "api_base": live.url},
    }[request.param]


def test_embeddings_are_the_same(provider: dict[str, str], embedder: str, vectors: list[list[float]]) -> None:
    answer = litellm.embedding(model=embedder, input=TEXTS, **provider)
    assert_same([row["embedding"] for row in answer.data], vectors)
    assert [row["index"] for row in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3 * 5


#: Provider, its path below the address of the server, and whether it insists on a key.
EMBEDDING = [
    ("jina_ai", "/v1", "key"),
    ("voyage", "/v1", "key"),
    ("hosted_vllm", "/v1", None),
    ("openai", "/v1", "key"),
    ("cohere", "/v2/embed", "key"),
]


@pytest.mark.parametrize(("provider", "base", "key"), EMBEDDING)
def test_embeddings_of_every_provider_are_the_same(
    live: LiveCluster, embedder: str, vectors: list[list[float]], provider: Any, base: Any, key: Any
) -> None:
    answer = litellm.embedding(model=f"{provider}/{embedder}", input=TEXTS, api_base=live.url + base, api_key=key)
    assert_same([row["embedding"] for row in answer.data], vectors)


def test_text_embeddings_inference_is_told_the_model_in_its_address(
    live: LiveCluster, embedder: str, vectors: list[list[float]]
) -> None:
    # `input_type` is the task. Without it LiteLLM asks the hub for one.
    asked = {"api_base": f"{live.url}/embed?model={embedder}", "api_key": "key", "input_type": "embed"}
    answer = litellm.embedding(model=f"huggingface/{embedder}", input=TEXTS, **asked)
    assert_same([row["embedding"] for row in answer.data], vectors)


def test_dimensions_are_honoured(provider: dict[str, str], embedder: str, vectors: list[list[float]]) -> None:
    answer = litellm.embedding(model=embedder, input=TEXTS, dimensions=32, **provider)
    cut = np.array(vectors)[:, :32]
    assert_same([row["embedding"] for row in answer.data], cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_base64_passes_through(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    answer = litellm.embedding(model=f"infinity/{embedder}", input=TEXTS, encoding_format="base64", api_base=live.url)
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer.data]
    assert_same(decoded, vectors)


def test_no_key_at_all_is_a_key_that_nobody_asks_for(
    live: LiveCluster, embedder: str, vectors: list[list[float]]
) -> None:
    """In that case LiteLLM sends `Bearer None`."""
    answer = litellm.embedding(model=f"infinity/{embedder}", input=TEXTS[0], api_base=live.url, api_key=None)
    assert_same(answer.data[0]["embedding"], vectors[0])


def test_embeddings_awaited_are_the_same(provider: dict[str, str], embedder: str, vectors: list[list[float]]) -> None:
    answer = asyncio.run(litellm.aembedding(model=embedder, input=TEXTS, **provider))
    assert_same([row["embedding"] for row in answer.data], vectors)


def test_a_model_that_is_not_there_is_not_found(live: LiveCluster, embedder: str) -> None:
    with pytest.raises(litellm.NotFoundError, match="nowhere"):  # type: ignore[attr-defined]
        litellm.embedding(model="xinference/nowhere", input="a", api_base=f"{live.url}/v1")


#: Provider, its path below the address of the server, and whether it insists on a key.
RERANK = [
    ("infinity", "", None),
    ("cohere", "", "key"),
    ("cohere", "/v2/rerank", "key"),
    ("jina_ai", "", "key"),
    ("hosted_vllm", "/v1", None),
    ("hosted_vllm", "/vllm", None),
    ("voyage", "", "key"),
    ("voyage", "/v1", "key"),
    ("huggingface", "", None),
]


@pytest.mark.parametrize("top_n", [None, 2])
@pytest.mark.parametrize("return_documents", [True, False])
@pytest.mark.parametrize(("provider", "base", "key"), RERANK)
def test_rerank_is_the_same(
    live: LiveCluster,
    reranker: str,
    scores: dict[int, float],
    provider: Any,
    base: Any,
    key: Any,
    return_documents: bool,
    top_n: int | None,
) -> None:
    answer = litellm.rerank(
        model=f"{provider}/{reranker}",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=top_n,
        return_documents=return_documents,
        api_base=live.url + base,
        api_key=key,
    )
    best = list(scores)[:top_n]
    assert [row["index"] for row in answer.results] == best
    assert_same([row["relevance_score"] for row in answer.results], [scores[index] for index in best])
    told = [(row.get("document") or {}).get("text") for row in answer.results]
    # Cohere's second version has no documents in its answers.
    has_documents = return_documents and provider != "cohere"
    assert told == [DOCUMENTS[index] if has_documents else None for index in best]
    assert answer.id


@pytest.mark.parametrize("provider", ["infinity", "jina_ai", "voyage"])
def test_rerank_says_what_it_cost(live: LiveCluster, reranker: str, provider: str) -> None:
    answer = litellm.rerank(
        model=f"{provider}/{reranker}", query=QUERY, documents=DOCUMENTS, api_base=live.url, api_key="key"
    )
    assert answer.meta["billed_units"]["total_tokens"] > 3 * 10


def test_documents_may_be_objects(live: LiveCluster, reranker: str, scores: dict[int, float]) -> None:
    answer = litellm.rerank(
        model=f"infinity/{reranker}",
        query=QUERY,
        documents=[{"text": text} for text in DOCUMENTS],
        api_base=live.url,
    )
    assert [row["index"] for row in answer.results] == list(scores)
    assert answer.results[0]["document"]["text"] == DOCUMENTS[1]


def test_rerank_awaited_is_the_same(live: LiveCluster, reranker: str, scores: dict[int, float]) -> None:
    answer = asyncio.run(
        litellm.arerank(model=f"jina_ai/{reranker}", query=QUERY, documents=DOCUMENTS, api_base=live.url, api_key="key")
    )
    assert [row["index"] for row in answer.results] == list(scores)


def test_a_reranker_that_is_not_there_is_said_to_be_missing(live: LiveCluster, reranker: str) -> None:
    # LiteLLM has no class for this error with every provider, but the sentence arrives.
    with pytest.raises(openai.OpenAIError, match="not found in the model list, uid: nowhere"):
        litellm.rerank(model="cohere/nowhere", query="q", documents=["a"], api_base=live.url, api_key="key")
