"""Every route over HTTP: the answers to bad bodies, and the ids of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cluster import errors
from tests.deployments.ingress.route_tables import ABORT, GOOD, SERVING
from tests.described import held_to_its_description
from tests.live import LiveCluster

#: The clients of these routes read errors of another shape.
TEI_PATHS = (
    "/embed",
    "/embed_all",
    "/embed_sparse",
    "/predict",
    "/similarity",
    "/tokenize",
    "/decode",
    "/info",
    "/",
    "/invocations",
    "/vertex",
)


def unfit(path: str) -> int:
    """The status for a body that does not fit: 400 where OpenAI's clients ask, since they expect that."""
    return 400 if "/embeddings" in path or path.startswith("/api/") else 422


@pytest.fixture(scope="module")
def server(live: LiveCluster, embedder: str, reranker: str, letters: str) -> Iterator[httpx.Client]:
    with live.client() as client:
        client.launch_model("echo", model_uid="routes")
        with httpx.Client(
            base_url=live.url, timeout=10, event_hooks=held_to_its_description(live.url, bodies=False)
        ) as http:
            yield http
        client.terminate_model("routes")


def assert_refused(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    """Checks both shapes of an error: `detail` for Xinference's clients, `error` for OpenAI's."""
    assert answer.status_code == status, answer.text[:300]
    body = answer.json()
    if answer.url.path in TEI_PATHS or "error_type" in body:
        assert body.keys() == {"error", "error_type", "code", "param"}
        told = {"message": body["error"], "type": "invalid_request_error", "param": body["param"], "code": body["code"]}
        body = {"detail": body["error"], "error": told}
    elif answer.url.path.startswith("/api/"):
        told = {"message": body["error"], "type": "invalid_request_error", "param": body["param"], "code": body["code"]}
        body = {"detail": body["error"], "error": told}
    assert isinstance(body["detail"], str) and body["detail"]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] in errors.every_error()
    assert param is None or body["error"]["param"] == param, body["error"]
    assert answer.headers["x-request-id"]
    return body


def assert_serves(server: httpx.Client, path: str) -> None:
    answer = server.post(path, json=GOOD[path])
    assert answer.status_code == 200 and answer.json(), answer.text


def test_the_table_has_every_inference_route(described: dict[str, dict[str, Any]]) -> None:
    found = {path for path, calls in described.items() if SERVING & set(calls.get("post", {}).get("tags", ()))}
    assert found - {ABORT} == GOOD.keys()


@pytest.mark.parametrize("path", GOOD)
def test_what_is_no_json_object_is_refused(server: httpx.Client, path: Any) -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"\xff\xfe{}",
        b'{"model": NaN}',
        b'{"model": 1e999}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 50_000,
        b'{"model":' * 2000 + b"1" + b"}" * 2000,
        b"model=minilm&input=a",
    ):
        assert_refused(server.post(path, content=body), unfit(path))
    assert_serves(server, path)


MINILM = GOOD["/v1/embeddings"]
NESTED = json.loads("[" * 900 + "]" * 900)
BAD_EMBEDDINGS = [
    ({"model": "minilm"}, "input"),
    ({**MINILM, "input": None}, "input"),
    ({**MINILM, "input": []}, "input"),
    ({**MINILM, "input": 5}, "input"),
    ({**MINILM, "input": {}}, "input"),
    ({**MINILM, "input": {"text": 5}}, "input"),
    ({**MINILM, "input": [None]}, "input"),
    ({**MINILM, "input": [[]]}, "input"),
    ({**MINILM, "input": ["a", 1]}, "input"),
    ({**MINILM, "input": [1, 2.5]}, "input"),
    ({**MINILM, "input": [True]}, "input"),
    ({**MINILM, "input": [[1], ["a"]]}, "input"),
    ({**MINILM, "input": [-1]}, "input"),
    ({**MINILM, "input": [2**31]}, "input"),
    ({**MINILM, "input": [10**30]}, "input"),
    ({**MINILM, "input": NESTED}, "input"),
    ({**MINILM, "input": ["a"] * 2049}, None),
    ({**MINILM, "model": 5}, "model"),
    ({**MINILM, "model": ["minilm"]}, "model"),
    ({**MINILM, "model": "reranker"}, "model"),
    ({**MINILM, "dimensions": -1}, "dimensions"),
    ({**MINILM, "dimensions": "64"}, "dimensions"),
    ({**MINILM, "dimensions": 1.5}, "dimensions"),
    ({**MINILM, "dimensions": True}, "dimensions"),
    ({**MINILM, "dimensions": 385}, "dimensions"),
    ({**MINILM, "dimensions": 2**62}, "dimensions"),
    ({**MINILM, "dimensions": 10**30}, "dimensions"),
    ({**MINILM, "dimensions": NESTED}, "dimensions"),
    ({**MINILM, "encoding_format": "hex"}, "encoding_format"),
    ({**MINILM, "encoding_format": ["float"]}, "encoding_format"),
    ({**MINILM, "input": {"image": "AAEC"}}, "model"),
    ({**MINILM, "input": {"text": "a", "image": "AAEC"}}, "input"),
    ({**MINILM, "modality": "image"}, "model"),
    ({**MINILM, "modality": "smell"}, "modality"),
    ({**MINILM, "modality": 5}, "modality"),
    ({**MINILM, "output_dtype": "int4"}, "output_dtype"),
    ({**MINILM, "embedding_type": ["float", 5]}, "embedding_type"),
    ({**MINILM, "return_sparse": 2}, "return_sparse"),
    ({**MINILM, "late_chunking": "perhaps"}, "late_chunking"),
    ({**MINILM, "truncate_prompt_tokens": "all"}, "truncate_prompt_tokens"),
    ({**MINILM, "normalize": "perhaps"}, "normalize"),
    ({**MINILM, "prompt_name": 5}, "prompt_name"),
    ({**MINILM, "prompt_name": "no-such-prompt"}, "prompt_name"),
    ({**MINILM, "truncate": 5}, "truncate"),
    ({**MINILM, "truncate": "MAYBE"}, "truncate"),
    ({**MINILM, "input": "word " * 300, "truncate": "NONE"}, "input"),
]


@pytest.mark.parametrize(("body", "param"), BAD_EMBEDDINGS, ids=lambda value: str(value)[:60])
def test_a_bad_embedding_request_is_a_400(server: httpx.Client, body: Any, param: Any) -> None:
    for path in ("/v1/embeddings", "/embeddings"):
        assert_refused(server.post(path, json=body), 400, param)
        assert_serves(server, path)


RERANKER = GOOD["/v1/rerank"]
COHERE = GOOD["/v2/embed"]
TOKENS = GOOD["/v1/convert_ids_to_tokens"]
INFER = GOOD["/v1/infer"]
BAD_OTHERS = [
    ("/v1/rerank", {}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": None}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": "a"}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": []}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": [1]}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": [{}]}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": [{"text": None}]}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": NESTED}, "documents"),
    ("/v1/rerank", {**RERANKER, "documents": [{"text": "a", "x": NESTED}], "return_documents": True}, "documents"),
    ("/v1/rerank", {**RERANKER, "query": None}, "query"),
    ("/v1/rerank", {**RERANKER, "query": ["a"]}, "query"),
    ("/v1/rerank", {**RERANKER, "query": {"text": 5}}, "query"),
    ("/v1/rerank", {**RERANKER, "model": {}}, "model"),
    ("/v1/rerank", {**RERANKER, "top_n": 0}, "top_n"),
    ("/v1/rerank", {**RERANKER, "top_n": "2"}, "top_n"),
    ("/v1/rerank", {**RERANKER, "top_n": 10**30}, "top_n"),
    ("/v1/rerank", {**RERANKER, "top_n": NESTED}, "top_n"),
    ("/v1/rerank", {**RERANKER, "top_k": -1}, "top_k"),
    ("/v1/rerank", {**RERANKER, "return_documents": "perhaps"}, "return_documents"),
    ("/v1/rerank", {**RERANKER, "return_documents": NESTED}, "return_documents"),
    ("/v1/rerank", {**RERANKER, "return_len": 2}, "return_len"),
    ("/v1/rerank", {**RERANKER, "raw_scores": []}, "raw_scores"),
    ("/v1/rerank", {**RERANKER, "truncate": []}, "truncate"),
    ("/v1/rerank", {**RERANKER, "truncate": "MAYBE"}, "truncate"),
    ("/v1/rerank", {**RERANKER, "long_documents": "burn"}, "long_documents"),
    ("/v1/rerank", {**RERANKER, "max_chunks_per_doc": 0}, "max_chunks_per_doc"),
    ("/v1/rerank", {**RERANKER, "max_tokens_per_doc": "4096"}, "max_tokens_per_doc"),
    ("/v1/rerank", {**RERANKER, "kwargs": "{"}, "kwargs"),
    ("/v1/rerank", {**RERANKER, "kwargs": "5"}, "kwargs"),
    ("/v1/rerank", {**RERANKER, "kwargs": "[[1]]"}, "kwargs"),
    ("/v1/rerank", {**RERANKER, "kwargs": [1]}, "kwargs"),
    ("/rerank", {"query": "a", "texts": "a"}, "texts"),
    ("/rerank", {"query": "a", "texts": ["a"], "return_text": "perhaps"}, "return_text"),
    ("/v2/rerank", {**RERANKER, "documents": []}, "documents"),
    ("/vllm/rerank", {**RERANKER, "query": 1}, "query"),
    ("/v2/embed", {"model": "minilm"}, "texts"),
    ("/v2/embed", {**COHERE, "texts": []}, "texts"),
    ("/v2/embed", {**COHERE, "texts": "a"}, "texts"),
    ("/v2/embed", {**COHERE, "texts": [1]}, "texts"),
    ("/v2/embed", {"model": "minilm", "inputs": [{}]}, "inputs"),
    ("/v2/embed", {"model": "minilm", "inputs": [{"content": [{"type": "image_url"}]}]}, "inputs"),
    ("/v2/embed", {"model": "minilm", "inputs": [{"content": [{"type": "text", "text": 5}]}]}, "inputs"),
    ("/v2/embed", {**COHERE, "model": 5}, "model"),
    ("/v2/embed", {**COHERE, "embedding_types": 5}, "embedding_types"),
    ("/v2/embed", {**COHERE, "embedding_types": "float"}, "embedding_types"),
    ("/v2/embed", {**COHERE, "embedding_types": [5]}, "embedding_types"),
    ("/v2/embed", {**COHERE, "embedding_types": ["int4"]}, "embedding_types"),
    ("/v2/embed", {"model": "minilm", "images": [5]}, "images"),
    ("/v2/embed", {"model": "minilm", "inputs": []}, "inputs"),
    ("/v1/embed", {**COHERE, "truncate": "MIDDLE"}, "truncate"),
    ("/v2/embed", {**COHERE, "output_dimension": "x"}, "output_dimension"),
    ("/v1/convert_ids_to_tokens", {"model": "minilm"}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": 5}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": ["a"]}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": [-1]}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": [True]}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": [10**15]}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": ["9" * 30]}, "input"),
    ("/v1/convert_ids_to_tokens", {**TOKENS, "input": [[1], 2]}, "input"),
    ("/v1/infer", {"model": "routes"}, "items"),
    ("/v1/infer", {**INFER, "items": None}, "items"),
    ("/v1/infer", {**INFER, "items": "a"}, "items"),
    ("/v1/infer", {**INFER, "model": 5}, "model"),
    ("/v1/infer", {**INFER, "ability": []}, "ability"),
    ("/v1/infer", {**INFER, "params": [1]}, "params"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD_OTHERS, ids=lambda value: str(value)[:60])
def test_a_body_that_does_not_fit_is_a_422(server: httpx.Client, path: Any, body: Any, param: Any) -> None:
    assert assert_refused(server.post(path, json=body), 422, param)["error"]["code"] == "invalid_body"
    assert_serves(server, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {**RERANKER, "rank_fields": ["title"]}),
        ("/v1/rerank", {**RERANKER, "kwargs": '{"mood": "good"}'}),
        ("/v1/rerank", {**RERANKER, "documents": ["a"] * 2049}),
        ("/v1/rerank", {**RERANKER, "model": "minilm"}),
        ("/v2/embed", {**COHERE, "output_dimension": 385}),
        ("/v2/embed", {"model": "minilm", "images": ["AAEC"]}),
        ("/v2/embed", {**COHERE, "max_tokens": 5}),
        ("/v1/convert_ids_to_tokens", {**TOKENS, "model": "reranker"}),
        ("/v1/infer", {"items": ["a"]}),
        ("/v1/infer", {**INFER, "ability": "embed"}),
        ("/v1/infer", {**INFER, "items": ["bad"]}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_fits_but_cannot_be_done_is_a_400(server: httpx.Client, path: str, body: Any) -> None:
    assert_refused(server.post(path, json=body), 400)
    assert_serves(server, path)


#: The fields of each route with a good value. A wrong value must be refused by the name of the field.
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {
        "input": ["a"],
        "model": "letters",
        "dimensions": 4,
        "encoding_format": "float",
        "output_dtype": "int8",
        "normalize": True,
        "prompt_name": "query",
        "truncate": True,
        "truncation_direction": "Left",
        "truncate_prompt_tokens": 512,
        "return_sparse": False,
        "return_multivector": False,
        "late_chunking": False,
        "endianness": "little",
        "modality": "text",
    },
    "/v2/embed": {
        "texts": ["a"],
        "model": "letters",
        "embedding_types": ["float"],
        "output_dimension": 4,
        "max_tokens": 512,
        "truncate": "END",
        "input_type": "search_query",
    },
    "/v1/rerank": {
        "query": "a",
        "documents": ["a"],
        "model": "letters",
        "top_n": 1,
        "return_documents": True,
        "return_len": True,
        "raw_scores": True,
        "truncate": True,
        "max_tokens_per_doc": 16,
        "max_chunks_per_doc": 2,
        "long_documents": "truncate",
        "kwargs": "{}",
    },
    "/classify": {"input": ["a"], "model": "letters", "raw_scores": True, "truncate": True},
    "/v1/classify": {"input": ["a"], "model": "letters", "use_activation": True},
    "/score": {"text_1": "a", "text_2": ["a"], "model": "letters", "use_activation": True, "truncate": True},
    "/pooling": {
        "input": ["a"],
        "model": "letters",
        "task": "embed",
        "encoding_format": "float",
        "embed_dtype": "float32",
        "dimensions": 4,
        "use_activation": True,
    },
    "/embed": {
        "inputs": ["a"],
        "model": "letters",
        "normalize": True,
        "dimensions": 4,
        "prompt_name": "query",
        "truncate": True,
        "truncation_direction": "Right",
    },
    "/predict": {"inputs": "a", "model": "letters", "raw_scores": True, "truncate": True},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "model": "letters", "parameters": {}},
    "/tokenize": {"inputs": "a", "model": "letters", "add_special_tokens": True, "prompt_name": "query"},
    "/decode": {"ids": [97], "model": "letters", "skip_special_tokens": True},
}


@pytest.mark.parametrize("path", FIELDS)
def test_a_text_that_means_true_or_false_is_as_good_as_the_word(server: httpx.Client, path: Any) -> None:
    """RAGFlow, for one, sends `"truncate": "true"`."""
    booleans = [name for name, value in FIELDS[path].items() if isinstance(value, bool)]
    for name in booleans:
        for value in (True, False):
            answers = [server.post(path, json={**FIELDS[path], name: sent}) for sent in (value, str(value).lower())]
            bodies = [answer.json() for answer in answers]
            assert [answer.status_code for answer in answers] == [answers[0].status_code] * 2, bodies
            for body in bodies:
                for of_its_own in ("id", "created") if isinstance(body, dict) else ():
                    body.pop(of_its_own, None)
            assert bodies[0] == bodies[1], (name, value)


ODD = (  # type: ignore[var-annotated]
    -1,
    2**70,
    1.5,
    True,
    "odd",
    "",
    [],
    {},
    [None],
    [5, "a"],
    [[[]]],
    {"text": 5},
    {"odd": {}},
    [{"image": 5}],
    NESTED,
)


@pytest.mark.parametrize("path", FIELDS)
def test_any_field_may_hold_anything_and_is_taken_or_named(server: httpx.Client, path: Any) -> None:
    whole = FIELDS[path]
    assert server.post(path, json=whole).status_code == 200
    for name in whole:
        for value in ODD:
            answer = server.post(path, json={**whole, name: value})
            if answer.status_code != 200:
                assert 400 <= answer.status_code < 500, (name, str(value)[:60], answer.text)
                told = answer.json()
                param = told["param"] if path in TEI_PATHS else told["error"]["param"]
                inside = {"inputs": ("source_sentence", "sentences"), "kwargs": ("text", "odd")}.get(name, ())
                assert param in (name, *inside), (name, str(value)[:60], told)
    assert server.post(path, json=whole).status_code == 200


def test_whatever_else_an_object_holds_stays_at_the_door(server: httpx.Client) -> None:
    odd = {"text": "a", "x": NESTED}
    plain = server.post("/v1/embeddings", json=MINILM).json()["data"][0]["embedding"]
    answer = server.post("/v1/embeddings", json={**MINILM, "input": [odd]})
    assert answer.json()["data"][0]["embedding"] == pytest.approx(plain, abs=1e-5)
    ranked = server.post("/v1/rerank", json={**RERANKER, "documents": [odd, "b"]})
    assert [row["index"] for row in ranked.json()["results"]] == [0, 1]


def test_items_nested_too_deeply_are_refused(server: httpx.Client) -> None:
    assert_refused(server.post("/v1/infer", json={**INFER, "items": [NESTED]}, timeout=3), 422, "items")


@pytest.mark.parametrize("path", GOOD)
def test_inference_on_an_unknown_uid_is_a_404(server: httpx.Client, path: Any) -> None:
    body = assert_refused(server.post(path, json={**GOOD[path], "model": "nowhere"}), 404, "model")
    assert body["error"]["code"] == "model_not_found" and "uid: nowhere" in body["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/status"),
        ("GET", "/progress"),
        ("GET", "/events"),
        ("GET", "/logs"),
        ("GET", "/replicas"),
        ("POST", "/replicas"),
        ("DELETE", "/replicas/0"),
        ("POST", "/cancel"),
        ("POST", "/scale"),
        ("GET", "/scale"),
        ("POST", "/doze"),
        ("POST", "/sleep"),
        ("POST", "/wake"),
        ("POST", "/restart"),
    ],
)
@pytest.mark.parametrize("uid", ["nowhere", "%00", "%F0%9F%90%88", "x" * 300])
def test_control_of_an_unknown_uid_is_a_400(server: httpx.Client, method: str, path: str, uid: str) -> None:
    answer = server.request(method, f"/v1/models/{uid}{path}", json={"replica": 1})
    assert assert_refused(answer, 400)["error"]["code"] == "unknown_uid"


def test_unknown_paths_and_methods_have_the_same_shape(server: httpx.Client) -> None:
    assert_refused(server.get("/nowhere"), 404)
    assert_refused(server.put("/v1/models"), 405)
    assert_refused(server.get("/v1/embeddings"), 405)


def test_bad_query_parameters_have_the_same_shape(server: httpx.Client) -> None:
    assert_refused(server.get("/v1/models/minilm/status", params={"version": "new"}), 422)
    assert_refused(server.get("/v1/models/minilm/status", params={"version": 1, "wait": "nan"}), 422)
    assert_refused(server.post("/v1/models", params={"timeout": "nan"}, json={"model_name": "echo"}), 422)
    assert_refused(server.post("/v1/embeddings", json=MINILM, headers={"x-request-timeout": "soon"}), 400)
    assert_refused(server.post("/v1/embeddings", json=MINILM, headers={"x-request-timeout": "-1"}), 400)


def ids_of(answer: httpx.Response) -> set[str]:
    return set(answer.headers.get_list("x-request-id", split_commas=True))


def test_a_request_keeps_the_id_it_came_with(server: httpx.Client) -> None:
    given = {"x-request-id": "mine-1.2:3_4"}
    answer = server.post("/v2/embed", json=COHERE, headers=given)
    assert answer.json()["id"] == "mine-1.2:3_4"
    unfit = server.post("/v2/embed", json={}, headers=given)
    unknown = server.get("/nowhere", headers=given)
    assert ids_of(answer) == ids_of(unfit) == ids_of(unknown) == {"mine-1.2:3_4"}


def test_a_request_without_an_id_gets_one_of_its_own(server: httpx.Client) -> None:
    answers = [server.post("/v2/embed", json=COHERE) for _ in range(5)]
    ids = [answer.json()["id"] for answer in answers]
    assert len(set(ids)) == 5 and all(re.fullmatch(r"[\w.:-]{8,128}", id) for id in ids)
    assert [ids_of(answer) for answer in answers] == [{id} for id in ids]


@pytest.mark.parametrize("id", ["", "two words", "a" * 129, 'quote"', "né".encode()])
def test_an_id_that_would_spoil_a_log_is_replaced(server: httpx.Client, id: Any) -> None:
    answer = server.post("/v2/embed", json=COHERE, headers={"x-request-id": id})
    assert re.fullmatch(r"[\w.:-]{8,128}", answer.json()["id"])


def test_an_answer_says_its_id_once(server: httpx.Client) -> None:
    answer = server.get("/health", headers={"x-request-id": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
