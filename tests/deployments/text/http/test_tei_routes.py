"""The routes of text-embeddings-inference, compared with its published description: shapes, errors, headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from cluster import errors
from deployments.ingress.error_shapes import tei_error
from tests.described import held_to_its_description
from tests.live import LiveCluster

AB = np.array([0, 2, 2, 0, 0, 0, 0, 0]) / np.sqrt(8)
B = np.array([0, 1, 2, 0, 0, 0, 0, 0]) / np.sqrt(5)
LONG = "a" * 31

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask(live: LiveCluster, letters: str) -> Iterator[Ask]:
    with httpx.Client(base_url=live.url, timeout=10, event_hooks=held_to_its_description(live.url)) as http:

        def ask(path: str, **body: Any) -> httpx.Response:
            return http.post(path, json={"model": letters, **body})

        yield ask


def assert_near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted), rtol=0, atol=1e-6)


def assert_refused(answer: httpx.Response, status: int, kind: str, said: str = "") -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert isinstance(body["error"], str) and said in body["error"], body
    assert body["error_type"] == kind


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ("ab", [AB]),
        (["ab"], [AB]),
        (["ab", "b"], [AB, B]),
        ([1, 98, 2], [B]),
        ([[1, 97, 98, 2], [1, 98, 2]], [AB, B]),
        (["ab", [1, 98, 2]], [AB, B]),
    ],
)
def test_embed_takes_texts_and_token_ids(ask: Ask, inputs: Any, wanted: Any) -> None:
    answer = ask("/embed", inputs=inputs)
    assert answer.status_code == 200
    assert_near(answer.json(), wanted)


def test_embed_takes_all_its_parameters(ask: Ask) -> None:
    assert_near(ask("/embed", inputs="ab", normalize=False).json(), [[0, 2, 2, 0, 0, 0, 0, 0]])
    assert_near(ask("/embed", inputs="ab", dimensions=2).json(), [[0, 1]])
    assert ask("/embed", inputs="ab", prompt_name="query").json() == ask("/embed", inputs="q: ab").json()


def test_long_inputs_are_cut_unless_that_is_forbidden(ask: Ask) -> None:
    right = ask("/embed", inputs=LONG + "b").json()
    assert right == ask("/embed", inputs=LONG).json()
    assert ask("/embed", inputs=LONG + "b", truncate=True, truncation_direction="Right").json() == right
    assert ask("/embed", inputs=LONG + "b", truncate=True, truncation_direction="Left").json() != right
    assert_refused(ask("/embed", inputs=["a", LONG + "b"], truncate=False), 422, "Validation", "Input 1 has 34 tokens")


def test_embed_all_has_a_vector_for_each_token(ask: Ask) -> None:
    first, second = ask("/embed_all", inputs=["ab", "b"]).json()
    assert_near(first, np.eye(8)[[1, 1, 2, 2]])
    assert_near(second, np.eye(8)[[1, 2, 2]])


def test_embed_sparse_has_indices_and_values(ask: Ask) -> None:
    assert ask("/embed_sparse", inputs="bb").json() == [
        [{"index": 1, "value": 0.5}, {"index": 2, "value": 0.5}, {"index": 98, "value": 1.0}]
    ]


def test_predict_tells_labels_best_first(ask: Ask) -> None:
    single = ask("/predict", inputs="bcd").json()
    assert [row["label"] for row in single] == ["consonant", "other", "vowel"]
    assert sum(row["score"] for row in single) == pytest.approx(1)
    pair = ask("/predict", inputs=["bc", "d"]).json()
    assert pair == single
    assert ask("/predict", inputs=[["bcd"], ["bc", "d"]]).json() == [single, single]
    raw = ask("/predict", inputs="bcd", raw_scores=True).json()
    assert raw[0] == {"score": 3.0, "label": "consonant"}


def test_similarity_is_the_cosine(ask: Ask) -> None:
    inputs = {"source_sentence": "ab", "sentences": ["ab", "b"]}
    assert_near(ask("/similarity", inputs=inputs).json(), [1.0, AB @ B])
    asked = ask("/similarity", inputs=inputs, parameters={"prompt_name": "query", "truncate": True}).json()
    assert asked[0] == pytest.approx(1.0) and asked[1] != pytest.approx(AB @ B)


def test_tokenize_tells_tokens_and_their_places(ask: Ask) -> None:
    letter = {"id": 97, "text": "a", "special": False, "start": 0, "stop": 1}
    special = {"special": True, "start": None, "stop": None}
    first, last = {"id": 1, "text": "[CLS]", **special}, {"id": 2, "text": "[SEP]", **special}
    assert ask("/tokenize", inputs="a").json() == [[first, letter, last]]
    assert ask("/tokenize", inputs=["a", "a"], add_special_tokens=False).json() == [[letter], [letter]]
    assert len(ask("/tokenize", inputs="a", prompt_name="query").json()[0]) == 6


def test_decode_is_the_way_back(ask: Ask) -> None:
    ids = [token["id"] for token in ask("/tokenize", inputs="grüße").json()[0]]
    assert ask("/decode", ids=ids).json() == ["grüße"]
    assert ask("/decode", ids=[ids, [1, 97, 2]], skip_special_tokens=False).json() == ["[CLS]grüße[SEP]", "[CLS]a[SEP]"]


def test_rerank_is_a_bare_list_best_first(ask: Ask) -> None:
    found = ask("/rerank", query="ab", texts=["xy", "ab"], return_text=True)
    assert [(row["index"], row["text"]) for row in found.json()] == [(1, "ab"), (0, "xy")]
    assert found.headers["x-compute-characters"] == "6"
    assert "text" not in ask("/rerank", query="ab", texts=["xy"]).json()[0]


def test_info_says_what_serves(live: LiveCluster, letters: str, embedder: str, reranker: str) -> None:
    told = live.get("/info", params={"model": embedder}).json()
    assert told["model_id"] == "all-MiniLM-L6-v2" and told["served_model_name"] == embedder
    assert told["model_type"].keys() == {"embedding"}
    assert told["max_input_length"] == 256 and told["max_client_batch_size"] == 2048
    for name in ("max_concurrent_requests", "max_batch_tokens", "tokenization_workers"):
        assert isinstance(told[name], int) and told[name] > 0, name
    assert live.get("/info", params={"model": reranker}).json()["model_type"].keys() == {"reranker"}
    assert_refused(live.get("/info", params={"model": "nowhere"}), 404, "Validation", "uid: nowhere")


def test_a_model_may_be_named_in_the_address(live: LiveCluster, letters: str, embedder: str) -> None:
    assert_near(live.post(f"/embed?model={letters}", {"inputs": "ab"}).json(), [AB])
    (vector,) = live.post(f"/embed?model={embedder}", {"inputs": "ab"}).json()
    assert len(vector) == 384
    assert live.post(f"/rerank?model={letters}", {"query": "ab", "texts": ["ab"]}).json()[0]["index"] == 0
    assert_refused(
        live.post("/embed", {"inputs": "ab"}), 424, "Backend", "names no model and 2 running models can embed"
    )


def test_headers_say_what_it_cost(ask: Ask) -> None:
    headers = ask("/embed", inputs=["ab", "b"]).headers
    assert headers["x-compute-type"] == "cpu"
    assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("3", "7")
    for name in ("x-compute-time", "x-total-time", "x-queue-time", "x-inference-time"):
        assert headers[name].isdigit(), name


# ------------------------------------------------------------------------------------------------------- errors


def test_each_kind_of_error_has_its_status(ask: Ask, embedder: str) -> None:
    assert_refused(ask("/embed", inputs=[]), 400, "Empty", "`inputs` cannot be empty")
    assert_refused(ask("/decode", ids=[]), 400, "Empty")
    assert_refused(ask("/embed", inputs=5), 422, "Validation", "inputs")
    assert_refused(ask("/embed", inputs="a", dimensions=9), 422, "Validation", "dimensions")
    assert_refused(ask("/embed", inputs=["a"] * 2049), 413, "Validation", "2049 > maximum allowed batch size 2048")
    assert_refused(ask("/embed_sparse", inputs="a", model=embedder), 424, "Backend", "minilm cannot embed_sparse")
    assert_refused(ask("/embed", inputs="a", model="nowhere"), 404, "Validation", "uid: nowhere")


def test_a_wrong_method_has_the_same_shape(live: LiveCluster) -> None:
    assert_refused(live.get("/embed"), 405, "Validation")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.Overloaded("Full.", retry_after_s=2.0), 429, "Overloaded"),
        (errors.InferenceFailed("It broke."), 424, "Backend"),
        (errors.ModelLoading("Wait.", retry_after_s=30.0), 503, "Unhealthy"),
        (errors.WorkerLost("Gone."), 503, "Unhealthy"),
        (errors.Unavailable("Nobody."), 503, "Unhealthy"),
        (errors.DeadlineExceeded("Late."), 504, "Backend"),
        (errors.TooLarge("Large."), 413, "Validation"),
        (errors.InputTooLong("Long.", "input"), 422, "Validation"),
        (errors.ClusterError("Oh."), 500, "Backend"),
    ],
)
def test_errors_of_the_server_have_theirs(error: errors.ClusterError, status: int, kind: str) -> None:
    told = tei_error(error)
    assert told.status_code == status
    assert f'"error_type":"{kind}"'.encode() in told.body and f'"code":"{error.code()}"'.encode() in told.body
    assert told.headers.get("retry-after") == (None if error.retry_after_s is None else f"{error.retry_after_s:.0f}")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/embed", {}, "inputs"),
        ("/embed", {"inputs": None}, "inputs"),
        ("/embed", {"inputs": {"text": "a"}}, "inputs"),
        ("/embed", {"inputs": [{"text": "a"}]}, "inputs"),
        ("/embed", {"inputs": ["a", 1]}, "inputs"),
        ("/embed", {"inputs": [[]]}, "inputs"),
        ("/embed", {"inputs": [[-1]]}, "inputs"),
        ("/embed", {"inputs": "a", "normalize": "perhaps"}, "normalize"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "model": 5}, "model"),
        ("/embed_all", {"inputs": 5}, "inputs"),
        ("/embed_sparse", {"inputs": "a", "prompt_name": 5}, "prompt_name"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "inputs"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, "inputs"),
        ("/predict", {"inputs": [["a"], "b"]}, "inputs"),
        ("/predict", {"inputs": [[1]]}, "inputs"),
        ("/predict", {"inputs": "a", "raw_scores": 2}, "raw_scores"),
        ("/similarity", {}, "source_sentence"),
        ("/similarity", {"inputs": "a"}, "inputs"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, "sentences"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": [1]}}, "sentences"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": 5}, "parameters"),
        ("/tokenize", {"inputs": [1]}, "inputs"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": "perhaps"}, "add_special_tokens"),
        ("/decode", {"ids": "a"}, "ids"),
        ("/decode", {"ids": [1, "a"]}, "ids"),
        ("/decode", {"ids": [[1], 2]}, "ids"),
        ("/decode", {"ids": [2**31]}, "ids"),
        ("/decode", {"ids": [1], "skip_special_tokens": 2}, "skip_special_tokens"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_with_a_body_is_named(ask: Ask, path: str, body: dict[str, Any], param: str) -> None:
    answer = ask(path, **body)
    assert_refused(answer, 422, "Validation", param)
    assert answer.json()["param"] == param and answer.json()["code"] == "invalid_body"


# ------------------------------------------------------------------------------------------------ hosting, vLLM


@pytest.mark.parametrize("path", ["/", "/invocations"])
def test_a_body_says_what_is_asked_for(ask: Ask, path: str) -> None:
    assert_near(ask(path, inputs=["ab", "b"]).json(), [AB, B])
    ranked = ask(path, query="ab", texts=["xy", "ab"], return_text=True).json()
    assert ranked == ask("/rerank", query="ab", texts=["xy", "ab"], return_text=True).json()
    assert_refused(ask(path, inputs=[]), 400, "Empty")
    assert_refused(ask(path, query="ab", texts=[]), 422, "Validation")


def test_vertex_takes_several_bodies(ask: Ask) -> None:
    instances = [{"inputs": "ab"}, {"query": "ab", "texts": ["ab"]}]
    first, second = ask("/vertex", instances=instances).json()["predictions"]
    assert_near(first, [AB])
    assert [row["index"] for row in second] == [0]
    for wrong in ([], "ab", [1]):
        assert_refused(ask("/vertex", instances=wrong), 422, "Validation", "instances")


def test_rerank_refuses_in_teis_words_where_it_is_asked_in_them(ask: Ask) -> None:
    assert_refused(ask("/rerank", query="ab", texts=[]), 422, "Validation")
    usual = ask("/rerank", query="ab", documents=[])
    assert usual.status_code == 422 and usual.json()["error"]["param"] == "documents"


def test_a_prompt_is_tokenised_as_vllm_does_it(ask: Ask) -> None:
    assert ask("/tokenize", prompt="ab").json() == {
        "count": 4,
        "max_model_len": 32,
        "tokens": [1, 97, 98, 2],
        "token_strs": None,
    }
    bare = ask("/tokenize", prompt="ab", add_special_tokens=False, return_token_strs=True).json()
    assert (bare["tokens"], bare["token_strs"]) == ([97, 98], ["a", "b"])
    assert ask("/detokenize", tokens=[1, 97, 98, 2]).json() == {"prompt": "ab"}
    assert ask("/detokenize", tokens=["a"]).status_code == 422


def test_its_metrics_are_told_under_its_names(live: LiveCluster, ask: Ask) -> None:
    ask("/embed", inputs="ab")
    page = live.get("/metrics").text
    for name in ("te_request_count", "te_embed_success", "te_queue_size", "te_batch_next_size_bucket"):
        assert f"\n{name}{{" in page, name
