"""What the rerank routes do with documents that are longer than the model reads, by the options of each client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.described import held_to_its_description
from tests.live import LiveCluster

#: The letters model reads 32 tokens. What answers the query comes after those.
LATE = "x" * 40 + "ab"
SHORT = "ab"
PICTURE = "data:image/png;base64,AAAA"

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask(live: LiveCluster, letters: str) -> Iterator[Ask]:
    with httpx.Client(base_url=live.url, timeout=10, event_hooks=held_to_its_description(live.url)) as http:

        def ask(path: str = "/v1/rerank", **body: Any) -> httpx.Response:
            whole = {"model": letters, "query": "ab", "documents": [SHORT, LATE], "raw_scores": True, **body}
            return http.post(path, json=whole)

        yield ask


def scores(answer: httpx.Response) -> dict[int, float]:
    assert answer.status_code == 200, answer.text
    return {row["index"]: row["relevance_score"] for row in answer.json()["results"]}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/vllm/rerank"])
def test_a_long_document_is_cut_or_read_in_parts(ask: Ask, path: str) -> None:
    assert scores(ask(path)) == {0: 4.0, 1: -4.0}
    assert scores(ask(path, long_documents="truncate")) == {0: 4.0, 1: -4.0}
    assert scores(ask(path, long_documents="chunk")) == {0: 4.0, 1: 4.0}
    assert scores(ask(path, max_chunks_per_doc=10)) == {0: 4.0, 1: 4.0}
    assert scores(ask(path, truncate="START")) == {0: 4.0, 1: 4.0}


@pytest.mark.parametrize("words", [{"long_documents": "error"}, {"truncate": "NONE"}, {"truncation": False}])
def test_a_long_document_that_may_not_be_cut_is_named_with_its_length(ask: Ask, words: dict[str, Any]) -> None:
    refused = ask(**words)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "input_too_long"
    assert "Input 1 has 44 tokens" in refused.json()["detail"]


@pytest.mark.parametrize("name", ["max_tokens_per_doc", "max_doc_length"])
def test_less_of_a_document_is_read_when_that_is_asked_for(ask: Ask, name: str) -> None:
    # The first two tokens of "[CLS]ab" contain one of the two letters of the query.
    assert scores(ask(**{name: 2}))[0] == 0.0
    assert scores(ask("/v2/rerank", **{name: 4096}))[0] == 4.0


def test_what_to_do_with_long_documents_can_be_said_in_kwargs_too(ask: Ask) -> None:
    # Xinference's client repeats its keyword arguments in this field.
    given = {"long_documents": "chunk", "kwargs": '{"long_documents": "chunk"}'}
    assert scores(ask(**given)) == {0: 4.0, 1: 4.0}


@pytest.mark.parametrize(
    "body",
    [
        {"documents": [SHORT, {"text": "a", "image": PICTURE}]},
        {"documents": [PICTURE], "doc_type": "image"},
        {"query": {"image": PICTURE}},
    ],
    ids=["an object", "a type", "the query"],
)
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_pictures_are_refused_where_a_model_reads_texts(ask: Ask, path: str, body: dict[str, Any]) -> None:
    refused = ask(path, **body)
    assert refused.status_code == 400 and "cannot rerank_image; it can " in refused.json()["detail"]
