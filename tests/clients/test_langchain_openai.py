"""LangChain's class for OpenAI, which sends token ids of OpenAI's vocabulary unless it is told not to."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from tests.clients.conftest import TEXTS, assert_same
from tests.live import VOCABULARIES, LiveCluster, until


@pytest.fixture(autouse=True)
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would download it."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(VOCABULARIES))


@pytest.fixture(scope="module")
def decoding(live: LiveCluster) -> Iterator[str]:
    """The uid of a model that was launched for such clients."""
    with live.client() as client:
        uid = client.launch_model("all-MiniLM-L6-v2", model_uid="for-langchain", token_ids="cl100k_base")
        yield uid
        client.terminate_model(uid)
        until(lambda: uid not in client.list_models(), within=10)


def test_token_ids_of_openai_give_the_vectors_of_the_texts(
    live: LiveCluster, decoding: str, vectors: list[list[float]]
) -> None:
    model = OpenAIEmbeddings(model=decoding, base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    assert_same(model.embed_documents(TEXTS), vectors)
    assert_same(model.embed_query(TEXTS[1]), vectors[1])


def test_a_request_may_say_whose_they_are(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    more = {"extra_body": {"token_ids": "cl100k_base"}}
    model = OpenAIEmbeddings(
        model=embedder, base_url=f"{live.url}/v1", api_key="none", max_retries=0, model_kwargs=more
    )
    assert_same(model.embed_documents(TEXTS), vectors)


def test_texts_need_no_word(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = OpenAIEmbeddings(
        model=embedder, base_url=f"{live.url}/v1", api_key="none", max_retries=0, check_embedding_ctx_length=False
    )
    assert_same(model.embed_documents(TEXTS), vectors)


def test_where_nobody_says_whose_they_are_the_answer_says_what_to_set(live: LiveCluster, embedder: str) -> None:
    model = OpenAIEmbeddings(model=embedder, base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="token_ids=cl100k_base"):
        model.embed_documents(TEXTS)
