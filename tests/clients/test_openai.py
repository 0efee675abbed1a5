"""The openai package against /v1."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from deployments.vectors import quantized
from tests.clients.conftest import TEXTS, assert_nearly_all, assert_same
from tests.live import LiveCluster, until


@pytest.fixture
def client(live: LiveCluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def strict(client: openai.OpenAI) -> openai.OpenAI:
    """An answer that is not all that the package describes is an error. To it no vector in base64 is: it checks them
    before it decodes them."""
    return client.with_options(_extra_kwargs={"_strict_response_validation": True})


def test_by_default_vectors_travel_as_base64_and_are_the_same(
    client: openai.OpenAI, embedder: str, vectors: list[list[float]]
) -> None:
    raw = client.embeddings.with_raw_response.create(model=embedder, input=TEXTS)
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    answer = raw.parse()
    assert_same([row.embedding for row in answer.data], vectors)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", embedder)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3 * 5


def test_floats_are_the_same(strict: openai.OpenAI, embedder: str, vectors: list[list[float]]) -> None:
    answer = strict.embeddings.create(model=embedder, input=TEXTS, encoding_format="float")
    assert_same([row.embedding for row in answer.data], vectors)


def test_what_is_alike_is_near(client: openai.OpenAI, embedder: str) -> None:
    cat, kitten, rates = (row.embedding for row in client.embeddings.create(model=embedder, input=TEXTS).data)
    assert np.dot(cat, kitten) > 0.5 > np.dot(cat, rates)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)


def test_one_text_is_one_row(client: openai.OpenAI, embedder: str, vectors: list[list[float]]) -> None:
    answer = client.embeddings.create(model=embedder, input=TEXTS[0])
    assert_same([row.embedding for row in answer.data], vectors[:1])


def test_fewer_dimensions_are_the_first_ones_at_length_one(
    client: openai.OpenAI, embedder: str, vectors: list[list[float]]
) -> None:
    answer = client.embeddings.create(model=embedder, input=TEXTS, dimensions=64)
    cut = np.array(vectors)[:, :64]
    assert_same([row.embedding for row in answer.data], cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_a_precision_can_be_asked_for(client: openai.OpenAI, embedder: str, vectors: list[list[float]]) -> None:
    asked = {"model": embedder, "input": TEXTS, "encoding_format": "float", "extra_body": {"output_dtype": "int8"}}
    found = [row.embedding for row in client.embeddings.create(**asked).data]
    assert_nearly_all(found, quantized(np.array(vectors, np.float32), "int8"))


def test_raw_bytes_can_be_asked_for(client: openai.OpenAI, embedder: str, vectors: list[list[float]]) -> None:
    headers = {"Accept": "application/octet-stream"}
    asked = {"model": embedder, "input": TEXTS, "encoding_format": "float", "extra_headers": headers}
    raw = client.embeddings.with_raw_response.create(**asked).http_response
    shape = tuple(map(int, raw.headers["x-shape"].split(",")))
    assert_same(np.frombuffer(raw.content, raw.headers["x-dtype"]).reshape(shape), vectors)


def test_token_ids_are_the_models_own(client: openai.OpenAI, embedder: str) -> None:
    # [CLS] hello world [SEP]
    ids = [101, 7592, 2088, 102]
    answer = client.embeddings.create(model=embedder, input=ids, extra_body={"token_ids": "model"})
    text = client.embeddings.create(model=embedder, input="hello world")
    assert_same(answer.data[0].embedding, text.data[0].embedding)
    assert answer.usage.prompt_tokens == 4
    lists = [ids, ids[:2] + ids[3:]]
    both = client.embeddings.create(model=embedder, input=lists, extra_body={"token_ids": "model"})
    assert_same(both.data[0].embedding, answer.data[0].embedding)
    assert len(both.data) == 2 and both.usage.prompt_tokens == 7


def test_the_async_client_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    async def embed() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(*(client.embeddings.create(model=embedder, input=text) for text in TEXTS))
        return [answer.data[0].embedding for answer in answers]

    assert_same(asyncio.run(embed()), vectors)


def test_models_are_listed_and_retrieved(strict: openai.OpenAI, embedder: str, reranker: str) -> None:
    listed = {model.id: model for model in strict.models.list()}
    assert {embedder, reranker} <= listed.keys()
    assert listed[embedder].object == "model"
    assert listed[embedder].dimensions == 384  # type: ignore[attr-defined]
    retrieved = strict.models.retrieve(embedder)
    assert retrieved.model_name == "all-MiniLM-L6-v2"  # type: ignore[attr-defined]
    assert (retrieved.id, retrieved.object, retrieved.owned_by) == (embedder, "model", "xinference")
    assert retrieved.created == listed[embedder].created and 0 < time.time() - retrieved.created < 36_000
    with pytest.raises(openai.NotFoundError, match="nobody"):
        strict.models.retrieve("nobody")


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2", "minilm"])
def test_a_model_answers_to_its_name_and_to_its_hub_id(
    strict: openai.OpenAI, embedder: str, vectors: list[list[float]], name: str
) -> None:
    assert strict.models.retrieve(name).id == embedder
    answer = strict.embeddings.create(model=name, input=TEXTS, encoding_format="float")
    assert answer.model == embedder
    assert_same([row.embedding for row in answer.data], vectors)


def test_a_model_answers_to_aliases_and_shares_them_by_weight(strict: openai.OpenAI, live: LiveCluster) -> None:
    aliases = {"red": ["acme/red:1", "acme/any=3"], "blue": "acme/any=1,acme/blue"}
    with live.client() as ours:
        try:
            for uid, names in aliases.items():
                ours.launch_model("letters", model_uid=uid, aliases=names)
            for name, uid in (("acme/red:1", "red"), ("ACME/blue", "blue")):
                assert strict.models.retrieve(name).id == uid
                assert strict.embeddings.create(model=name, input="a", encoding_format="float").model == uid
                assert ours.get_model(name).create_embedding("a")["model"] == uid
                # As it stands, for clients that leave the slash in the path.
                assert live.get(f"/v1/models/{name}").json()["id"] == uid
            shares = Counter(
                strict.embeddings.create(model="acme/any", input="a", encoding_format="float").model for _ in range(60)
            )
            assert shares["red"] > shares["blue"] > 0
            with pytest.raises(openai.BadRequestError, match=r"2 models answer to letters: \['blue', 'red'\]"):
                strict.embeddings.create(model="letters", input="a")
            with pytest.raises(openai.ConflictError, match="Alias red is the uid of another model"):
                strict.post(
                    "/models", body={"model_name": "letters", "model_uid": "x", "aliases": "red"}, cast_to=object
                )
        finally:
            for status in ours.statuses():
                if status.uid in aliases:
                    ours.terminate_model(status.uid)
            until(lambda: not aliases.keys() & ours.list_models().keys(), within=10)


def test_a_model_that_is_not_there_is_not_found(client: openai.OpenAI, embedder: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model="nowhere", input="a")
    assert raised.value.code == "model_not_found" and raised.value.param == "model"
    assert "nowhere" in raised.value.message and embedder in raised.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[1, "a"]]}, "input"),
        ({"input": [10**9]}, "input"),
        ({"input": [101, 7592, 102]}, "input"),
        ({"input": [101, 7592, 102], "extra_body": {"token_ids": "gpt2"}}, "token_ids"),
        ({"input": "a", "dimensions": 385}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_bad_body_is_a_bad_request(client: openai.OpenAI, embedder: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model=embedder, **body)
    assert raised.value.param == param and raised.value.type == "invalid_request_error"


def test_a_reranker_does_not_embed(client: openai.OpenAI, reranker: str) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot embed; it can rerank"):
        client.embeddings.create(model=reranker, input="a")
