"""The answers of /v1/embeddings and the like: for the fields of each client what that client reads."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.vectors import quantized
from tests.described import held_to_its_description
from tests.live import LiveCluster

#: Vectors of the letters model, worked out by hand: each token counts at the position of its number modulo 8. [CLS] is
#: 1 and [SEP] is 2.
AB = np.array([0, 2, 2, 0, 0, 0, 0, 0], np.float32) / np.sqrt(8)
B = np.array([0, 1, 2, 0, 0, 0, 0, 0], np.float32) / np.sqrt(5)
#: The same for bytes.
PNG = "data:image/png;base64," + base64.b64encode(bytes([3, 3, 4])).decode()
WAV = "data:audio/wav;base64," + base64.b64encode(bytes([5])).decode()
OF_PNG = np.array([0, 0, 0, 2, 1, 0, 0, 0], np.float32) / np.sqrt(5)
OF_WAV = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.float32)

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask(live: LiveCluster, letters: str) -> Iterator[Ask]:
    with httpx.Client(base_url=live.url, timeout=10, event_hooks=held_to_its_description(live.url)) as http:

        def ask(path: str = "/v1/embeddings", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
            return http.post(path, json={"model": letters, **body}, headers=headers)

        yield ask


def rows(answer: httpx.Response, field: str = "embedding") -> list[Any]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return [row[field] for row in data]


def assert_near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted), rtol=0, atol=1e-6)


def test_an_answer_has_all_that_clients_read(ask: Ask) -> None:
    answer = ask(input=["ab", "b"])
    assert_near(rows(answer), [AB, B])
    body = answer.json()
    assert (body["object"], body["model"], body["model_replica"]) == ("list", "letters", "letters-rep0")
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [row["object"] for row in body["data"]] == ["embedding"] * 2
    assert answer.headers["x-compute-tokens"] == "7"


def test_raw_bytes_are_the_matrix_with_its_shape_and_type(ask: Ask) -> None:
    answer = ask(input=["ab", "b"], headers={"accept": "application/octet-stream"})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (answer.headers["x-shape"], answer.headers["x-dtype"]) == ("2,8", "float32")
    assert answer.headers["x-compute-tokens"] == "7"
    assert_near(np.frombuffer(answer.content, "<f4").reshape(2, 8), [AB, B])
    told = ask(input=["ab", "b"], encoding_format="bytes")
    assert told.content == answer.content and "metadata" in told.headers


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary", "float16"])
def test_bytes_come_at_the_precision_that_is_asked_for(ask: Ask, precision: str) -> None:
    wanted = quantized(np.array([AB, B]), precision)
    numbers = ask(input=["ab", "b"], output_dtype=precision)
    assert np.array_equal(np.array(rows(numbers), wanted.dtype), wanted)
    raw = ask(input=["ab", "b"], output_dtype=precision, encoding_format="bytes_only")
    assert np.array_equal(np.frombuffer(raw.content, raw.headers["x-dtype"]).reshape(wanted.shape), wanted)
    encoded = rows(ask(input=["ab", "b"], embed_dtype=precision, encoding_format="base64"))
    assert np.array_equal([np.frombuffer(base64.b64decode(row), wanted.dtype) for row in encoded], wanted)


def test_two_thousand_texts_come_back_in_order(ask: Ask) -> None:
    texts = [f"{number:b}" for number in range(2048)]
    answer = ask(input=texts, headers={"accept": "application/octet-stream"})
    vectors = np.frombuffer(answer.content, "<f4").reshape(2048, 8)
    assert_near(vectors[[5, 2047]], [rows(ask(input=texts[n]))[0] for n in (5, 2047)])
    assert len(rows(ask(input=texts, encoding_format="base64"))) == 2048


# ----------------------------------------------------------------------------------------------------- dialects


def test_xinference_gets_sparse_weights_by_token_id(ask: Ask) -> None:
    answer = ask(input=["ab", "bb"], return_sparse=True)
    assert rows(answer) == [{"1": 0.5, "2": 0.5, "97": 0.5, "98": 0.5}, {"1": 0.5, "2": 0.5, "98": 1.0}]
    assert [row["object"] for row in answer.json()["data"]] == ["sparse_embedding"] * 2
    assert_near(rows(ask(input="ab", return_sparse=None)), [AB])


def test_jina_gets_a_vector_for_each_token(ask: Ask) -> None:
    (found,) = rows(ask(input="ab", return_multivector=True), "embeddings")
    assert_near(found, np.eye(8)[[1, 1, 2, 2]])
    assert_near(rows(ask(input="ab", return_multivector=False)), [AB])


def test_jina_gets_one_type_plainly_and_several_by_name(ask: Ask) -> None:
    (encoded,) = rows(ask(input=[{"text": "ab"}], embedding_type="base64", task="retrieval.query", normalized=True))
    assert_near(np.frombuffer(base64.b64decode(encoded), "<f4"), AB)
    (by_name,) = rows(ask(input="ab", embedding_type=["float", "ubinary"]))
    assert_near(by_name["float"], AB)
    assert by_name["ubinary"] == [0b01100000]


def test_three_kinds_of_vectors_come_from_one_pass(ask: Ask) -> None:
    answer = ask(input=["ab", "b"], return_dense=True, return_sparse=True, return_multivector=True)
    assert_near(rows(answer), [AB, B])
    assert rows(answer, "sparse_embedding")[1] == {"1": 0.5, "2": 0.5, "98": 0.5}
    assert [len(vectors) for vectors in rows(answer, "embeddings")] == [4, 3]
    assert answer.json()["usage"]["total_tokens"] == 7


def test_voyage_gets_its_types_and_dimensions(ask: Ask) -> None:
    answer = ask(input=["ab"], output_dtype="int8", output_dimension=4, input_type="document", encoding_format="base64")
    (row,) = rows(answer)
    assert_near(np.frombuffer(base64.b64decode(row), "i1"), [0, 90, 90, 0])
    assert answer.json()["usage"]["total_tokens"] == 4


def test_a_prompt_goes_before_the_text(ask: Ask) -> None:
    assert_near(rows(ask(input="ab", prompt_name="query")), rows(ask(input="q: ab")))
    assert_near(rows(ask(input="ab", prompt="q: ")), rows(ask(input="q: ab")))


def test_a_cap_on_tokens_is_met(ask: Ask) -> None:
    for cap in (-1, 32, 8192, None):
        assert_near(rows(ask(input="ab", truncate_prompt_tokens=cap)), [AB])
    capped = ask(input="abcd", truncate_prompt_tokens=4)
    assert capped.json()["usage"]["total_tokens"] == 4


def test_no_store_has_it_computed_again(ask: Ask) -> None:
    """The model is asked for a text whose vector counts how often it was computed."""
    times = [rows(ask(input="again"))[0][0] for _ in range(3)]
    assert times[0] == times[2]
    again = [rows(ask(input="again", headers={"cache-control": "no-store"}))[0][0] for _ in range(2)]
    assert again == [times[0] + 1, times[0] + 2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"late_chunking": True}, "late_chunking"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"endianness": "big"}, "endianness"),
        ({"return_sparse": True, "encoding_format": "base64"}, "return_sparse"),
        ({"return_sparse": True, "encoding_format": "bytes"}, "return_sparse"),
        ({"dimensions": 9}, "dimensions"),
    ],
)
def test_what_would_change_the_vectors_and_is_not_done_is_refused(ask: Ask, body: dict[str, Any], param: str) -> None:
    refused = ask(input="ab", **body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == param, refused.text


def test_a_model_without_an_ability_says_what_it_can(live: LiveCluster, embedder: str, reranker: str) -> None:
    for uid, body, ability in (
        (reranker, {}, "embed"),
        (reranker, {"return_multivector": True}, "embed_tokens"),
        (embedder, {"return_sparse": True}, "embed_sparse"),
        (embedder, {"return_sparse": True, "return_dense": True}, "embed_all"),
        (embedder, {"modality": "image"}, "embed_image"),
        (embedder, {"modality": "audio"}, "embed_audio"),
    ):
        refused = live.post("/v1/embeddings", {"model": uid, "input": PNG, **body})
        assert refused.status_code == 400, (body, refused.text)
        assert f"{uid} cannot {ability}; it can " in refused.json()["detail"]


# -------------------------------------------------------------------------------------------- images and sounds


def test_infinity_says_by_modality_what_the_inputs_are(ask: Ask) -> None:
    assert_near(rows(ask("/embeddings", input=[PNG, PNG], modality="image")), [OF_PNG, OF_PNG])
    assert_near(rows(ask("/embeddings", input=WAV, modality="audio")), [OF_WAV])
    assert_near(rows(ask("/embeddings", input="ab", modality="text")), [AB])
    assert_near(rows(ask("/embeddings_image", input=PNG)), [OF_PNG])
    assert_near(rows(ask("/embeddings_audio", input=[WAV])), [OF_WAV])


def test_texts_images_and_sounds_may_be_mixed(ask: Ask) -> None:
    answer = ask(input=["ab", {"image": PNG}, {"text": "b"}, {"audio": WAV}, {"image": PNG}, [1, 98, 2]])
    assert_near(rows(answer), [AB, OF_PNG, B, OF_WAV, OF_PNG, B])
    assert answer.json()["usage"]["total_tokens"] == 4 + 3 + 3 + 1 + 3 + 3


def test_an_image_is_a_data_uri_or_base64_and_no_url(ask: Ask) -> None:
    assert_near(rows(ask(input={"image": PNG.partition(",")[2]})), [OF_PNG])
    refused = ask(input=["ab", {"image": "http://127.0.0.1:1/a.png"}])
    assert refused.status_code == 400 and "CLUSTER_FETCH_URLS" in refused.json()["detail"]
    assert "Input 1" in refused.json()["detail"]
    refused = ask(input={"image": "data:text/plain;base64,AAEC"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "input"


# ------------------------------------------------------------------------------------------------------- cohere


def test_cohere_gets_every_type_by_name(ask: Ask) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = ask("/v2/embed", texts=["ab", "b"], input_type="search_document", embedding_types=types).json()
    assert answer["response_type"] == "embeddings_by_type" and answer["texts"] == ["ab", "b"]
    found = answer["embeddings"]
    assert list(found) == types
    assert_near(found["float"], [AB, B])
    assert_near([np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]], [AB, B])
    for precision in types[1:5]:
        assert found[precision] == quantized(np.array([AB, B]), precision).tolist()
    assert answer["meta"]["billed_units"] == {"input_tokens": 7}


def test_cohere_sends_images_in_two_ways(ask: Ask) -> None:
    answer = ask("/v2/embed", images=[PNG], input_type="image", embedding_types=["float"]).json()
    assert_near(answer["embeddings"]["float"], [OF_PNG])
    assert answer["meta"]["billed_units"] == {"input_tokens": 3, "images": 1}
    contents = [
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"content": [{"type": "text", "text": "ab"}]},
    ]
    answer = ask("/v2/embed", inputs=contents, input_type="search_query").json()
    assert_near(answer["embeddings"]["float"][1:], [OF_PNG, AB])
    assert answer["texts"] == ["a b", "ab"]


def test_coheres_first_version_has_bare_vectors(ask: Ask) -> None:
    answer = ask("/v1/embed", texts=["ab"], input_type="search_query", truncate="END").json()
    assert answer["response_type"] == "embeddings_floats" and answer["texts"] == ["ab"]
    assert_near(answer["embeddings"], [AB])
    by_type = ask("/v1/embed", texts=["ab"], embedding_types=["int8"]).json()
    assert by_type["response_type"] == "embeddings_by_type"
    assert by_type["embeddings"] == {"int8": quantized(AB[None], "int8").tolist()}


def test_cohere_says_whether_and_where_to_cut(ask: Ask) -> None:
    text = "a" * 20 + "b" * 20
    start, end = (
        ask("/v2/embed", texts=[text], truncate=cut).json()["embeddings"]["float"] for cut in ("START", "END")
    )
    assert start != end
    refused = ask("/v2/embed", texts=["ab", text], truncate="NONE")
    assert refused.status_code == 400 and "Input 1 has 42 tokens" in refused.json()["detail"]
    assert ask("/v2/embed", texts=[text], max_tokens=16).json()["error"]["param"] == "max_tokens"


# ----------------------------------------------------------------------------------------------------- listing


def test_infinity_is_told_what_a_model_can_and_what_it_has_to_do(live: LiveCluster, letters: str) -> None:
    models = {model["id"]: model for model in live.get("/models").json()["data"]}
    model = models[letters]
    assert (model["object"], model["owned_by"], model["backend"]) == ("model", "infinity", "letters")
    assert set(model["capabilities"]) == {"embed", "rerank", "classify", "image_embed", "audio_embed"}
    assert len(set(model["capabilities"])) == len(model["capabilities"])
    # No other test uses this model, and 512 of its longest inputs, of 32 tokens each, fit a batch of 16,384.
    assert model["stats"] == {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 512}
