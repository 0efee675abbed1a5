"""vLLM's /score, /pooling and /v1/classify, and Infinity's /classify."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.described import held_to_its_description
from tests.live import LiveCluster

AB = np.array([0, 2, 2, 0, 0, 0, 0, 0]) / np.sqrt(8)
#: The scores of documents with all, half and none of the letters of the query.
ALL, HALF, NONE = 1 / (1 + np.exp(-4)), 0.5, 1 / (1 + np.exp(4))

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def post(live: LiveCluster) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=live.url, timeout=10, event_hooks=held_to_its_description(live.url)) as http:
        yield lambda path, **body: http.post(path, json=body)


@pytest.fixture(scope="module")
def ask(post: Callable[..., httpx.Response], letters: str) -> Ask:
    def ask(path: str, **body: Any) -> dict[str, Any]:
        answer = post(path, **{"model": letters, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def assert_near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ({"text_1": "ab", "text_2": "ab"}, [ALL]),
        ({"text_1": "ab", "text_2": ["ab", "ax", "xy"]}, [ALL, HALF, NONE]),
        ({"queries": ["ab", "xy", "ab"], "documents": ["ax", "yx", "zz"]}, [HALF, ALL, NONE]),
        ({"queries": ["ab", "xy"], "items": "xyz"}, [NONE, ALL]),
        ({"data_1": ["ab"], "data_2": ["ab"]}, [ALL]),
    ],
)
def test_score_pairs_both_sides_in_order(ask: Ask, path: str, sides: dict[str, Any], wanted: list[float]) -> None:
    answer = ask(path, **sides)
    assert (answer["object"], answer["model"]) == ("list", "letters")
    assert [(row["index"], row["object"]) for row in answer["data"]] == [(n, "score") for n in range(len(wanted))]
    assert_near([row["score"] for row in answer["data"]], wanted)
    assert answer["usage"]["total_tokens"] > 0


def test_scores_without_activation_are_logits(ask: Ask) -> None:
    for words in ({"use_activation": False}, {"activation": False}, {"raw_scores": True}):
        assert ask("/score", text_1="ab", text_2="ab", **words)["data"][0]["score"] == 4.0
    assert_near(ask("/score", text_1="ab", text_2="ab", use_activation=True)["data"][0]["score"], ALL)


def test_a_model_that_only_embeds_scores_by_cosine(post: Callable[..., httpx.Response], embedder: str) -> None:
    texts = ["A cat sleeps.", "A kitten naps.", "Rates rose."]
    answer = post("/score", model=embedder, text_1=texts[0], text_2=texts).json()
    rows = post("/v1/embeddings", model=embedder, input=texts).json()["data"]
    vectors = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose([row["score"] for row in answer["data"]], vectors @ vectors[0], atol=1e-4)


def test_pooling_is_by_task(ask: Ask) -> None:
    answer = ask("/pooling", input=["ab", "b"])
    assert [(row["index"], row["object"]) for row in answer["data"]] == [(0, "pooling"), (1, "pooling")]
    assert_near(answer["data"][0]["data"], AB)
    assert_near(ask("/pooling", input="ab", task="embed")["data"][0]["data"], AB)
    for task in ("token_embed", "encode"):
        assert_near(ask("/pooling", input="ab", task=task)["data"][0]["data"], np.eye(8)[[1, 1, 2, 2]])
    assert_near(ask("/pooling", input="ab", task="classify", use_activation=False)["data"][0]["data"], [1, 1, 2])


def test_pooling_travels_in_every_form(ask: Ask, post: Callable[..., httpx.Response]) -> None:
    (row,) = ask("/pooling", input="ab", task="token_embed", encoding_format="base64")["data"]
    assert_near(np.frombuffer(base64.b64decode(row["data"]), "<f4").reshape(4, 8), np.eye(8)[[1, 1, 2, 2]])
    raw = post("/pooling", model="letters", input=["ab", "b"], task="token_embed", encoding_format="bytes")
    places = json.loads(raw.headers["metadata"])["data"]
    assert [place["shape"] for place in places] == [[4, 8], [3, 8]]
    last = np.frombuffer(raw.content[places[1]["start"] : places[1]["end"]], "<f4").reshape(3, 8)
    assert_near(last, np.eye(8)[[1, 2, 2]])


def test_vllm_classifies_in_the_models_own_order(ask: Ask) -> None:
    answer = ask("/v1/classify", input=["bcd", "aei!"])
    assert (answer["object"], answer["model"]) == ("list", "letters")
    first, second = answer["data"]
    assert (first["index"], first["label"], first["num_classes"]) == (0, "consonant", 3)
    assert_near(first["probs"], np.exp([0, 3, 2]) / np.exp([0, 3, 2]).sum())
    assert second["label"] in ("vowel", "other") and np.argmax(second["probs"]) in (0, 2)


def test_infinity_classifies_best_first(ask: Ask) -> None:
    answer = ask("/classify", input=["bcd", "a"])
    assert answer["object"] == "classify" and answer["usage"]["total_tokens"] == 8
    assert [row["label"] for row in answer["data"][0]] == ["consonant", "other", "vowel"]
    assert [row["label"] for row in answer["data"][1]] == ["other", "vowel", "consonant"]
    assert ask("/classify", input=["bcd"], raw_scores=True)["data"][0][0] == {"score": 3.0, "label": "consonant"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/score", {}, 422, "queries"),
        ("/score", {"text_1": "a"}, 422, "text_2"),
        ("/score", {"text_1": "a", "text_2": []}, 422, "text_2"),
        ("/score", {"text_1": {"content": []}, "text_2": "a"}, 422, "text_1"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, 422, "text_2"),
        ("/v1/score", {"queries": "a", "documents": [1]}, 422, "documents"),
        ("/v1/score", {"queries": "a", "documents": "b", "use_activation": 2}, 422, "use_activation"),
        ("/v1/score", {"queries": "a", "documents": "b", "model": "echo-less"}, 404, "model"),
        ("/pooling", {}, 422, "input"),
        ("/pooling", {"input": "a", "task": "plugin"}, 422, "task"),
        ("/pooling", {"input": "a", "task": 5}, 422, "task"),
        ("/pooling", {"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
        ("/pooling", {"input": "a", "truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens"),
        ("/classify", {}, 422, "input"),
        ("/classify", {"input": [["a"]]}, 422, "input"),
        ("/classify", {"input": "a", "raw_scores": "perhaps"}, 422, "raw_scores"),
        ("/v1/classify", {"input": []}, 422, "input"),
        ("/v1/classify", {"input": "a", "truncate": 5}, 422, "truncate"),
        ("/v1/classify", {"input": "a", "model": "minilm"}, 400, "model"),
        ("/score", {"text_1": "a", "text_2": ["a"] * 2049}, 400, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_wrong_is_named(
    post: Callable[..., httpx.Response], letters: str, embedder: str, path: str, body: Any, status: int, param: str
) -> None:
    refused = post(path, **{"model": letters, **body})
    assert refused.status_code == status, refused.text
    assert refused.json()["error"]["param"] == param
