"""Our own clients against a real server, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster import AsyncClient, Client, LaunchSpec, errors
from cluster.client import AsyncEmbeddingModel, EmbeddingModel, RerankModel
from cluster.status import ModelStatus
from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.live import LiveCluster, until


@pytest.fixture
def client(live: LiveCluster) -> Iterator[Client]:
    with live.client() as client:
        before = {status.uid for status in client.statuses()}
        yield client
        assert {status.uid for status in client.statuses()} == before, "a test left wishes behind"


def test_a_model_lives_from_launch_to_terminate(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="our-echo", steps=3)
    status = client.status(uid)
    assert (status.state, status.ready, status.wanted.spec.options) == ("READY", 1, {"steps": 3})
    model = client.get_model(uid)
    assert model.infer("/v1/infer", items=["a", {"b": [1, 2.5, None]}])["results"] == ["a", {"b": [1, 2.5, None]}]
    assert [event["event_type"] for event in client.events(uid)] == ["INFO"] * len(client.events(uid))
    client.terminate_model(uid)
    with pytest.raises(errors.ModelNotFound, match="uid: our-echo"):
        model.infer("/v1/infer", items=["a"])
    with pytest.raises(errors.UnknownUid, match="uid: our-echo"):
        client.get_model(uid)


def test_embedding_is_the_same(client: Client, embedder: str, vectors: list[list[float]]) -> None:
    model = client.get_model(embedder)
    assert isinstance(model, EmbeddingModel)
    answer = model.create_embedding(TEXTS)
    assert_same([row["embedding"] for row in answer["data"]], vectors)
    assert answer["usage"]["total_tokens"] > 3 * 5
    assert model.convert_ids_to_tokens([7592, 2088]) == ["hello", "world"]


def test_a_text_models_handle_can_all_that_it_can(client: Client, letters: str) -> None:
    model = client.get_model(letters)
    assert isinstance(model, EmbeddingModel)
    assert model.embed_sparse("ab")["data"][0]["embedding"] == {"1": 0.5, "2": 0.5, "97": 0.5, "98": 0.5}
    assert len(model.embed_tokens(["ab", "b"])["data"][1]["embeddings"]) == 3
    assert model.classify("bcd")["data"][0][0]["label"] == "consonant"
    assert model.similarity("ab", ["ab", "x"])[0] == pytest.approx(1)
    ids = [token["id"] for token in model.tokenize("ab")[0]]
    assert ids == [1, 97, 98, 2] and model.decode(ids) == ["ab"]
    assert [row["score"] for row in model.score("ab", ["ab", "xy"], raw_scores=True)["data"]] == [4, -4]


def test_errors_of_every_dialect_are_raised_as_their_class(client: Client, letters: str) -> None:
    model = EmbeddingModel(client, letters)
    with pytest.raises(errors.InvalidBody, match="skip_special_tokens") as raised:
        model.decode([97], skip_special_tokens="perhaps")
    assert raised.value.param == "skip_special_tokens"
    with pytest.raises(errors.InputTooLong, match="Input 0 has 42 tokens"):
        model.similarity("a" * 40, ["a"], truncate=False)
    with pytest.raises(errors.ModelNotFound, match="uid: nowhere"):
        EmbeddingModel(client, "nowhere").tokenize("a")


def test_rerank_is_the_same(client: Client, reranker: str, scores: dict[int, float]) -> None:
    model = client.get_model(reranker)
    assert isinstance(model, RerankModel)
    answer = model.rerank(DOCUMENTS, QUERY, top_n=2, return_documents=True)
    assert [row["index"] for row in answer["results"]] == list(scores)[:2]
    assert_same([row["relevance_score"] for row in answer["results"]], list(scores.values())[:2])
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[1]}


def test_a_model_is_ready_as_soon_as_its_launch_says_so(client: Client) -> None:
    for turn in range(2):
        uid = client.launch_model("echo", model_uid=f"our-quick-{turn}")
        assert client.get_model(uid).infer("/v1/infer", items=[turn])["results"] == [turn]
        assert uid in client.list_models()
        client.terminate_model(uid)


def test_what_is_wished_for_can_be_written_down_and_read_again(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="our-declared", steps=3)
    declared = client.export()
    assert {"model_name": "echo", "model_type": "echo", "model_uid": uid, "steps": 3} in declared
    changes = client.apply(declared, prune=False, dry_run=True)
    assert {change["uid"]: change["change"] for change in changes}[uid] == "same"
    client.terminate_model(uid)


def test_a_request_under_way_can_be_aborted(client: Client, live: LiveCluster) -> None:
    uid = client.launch_model("echo", model_uid="our-aborted")
    body = {"model": uid, "items": [{"sleep": 5}]}
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(live.post, "/v1/infer", body, headers={"x-request-id": "our-request"})
        until(lambda: client.abort_request(uid, "our-request")["msg"] == "DONE", within=5)
        assert waiting.result(timeout=3).status_code == 409
    assert client.abort_request(uid, "another-request") == {"msg": "NOT_FOUND"}
    assert client.abort_request("nowhere", "our-request") == {"msg": "NO_OP"}
    client.terminate_model(uid)


def test_equal_launches_are_one(client: Client) -> None:
    first = client.submit(_spec(model_uid="our-one"))
    assert client.submit(_spec(model_uid="our-one")) == first
    with pytest.raises(errors.Conflict, match="our-one is taken by another launch .steps differ"):
        client.launch_model("echo", model_uid="our-one", steps=2)
    client.wait_until_ready("our-one", timeout=20)
    client.terminate_model("our-one")


def _spec(**fields: Any) -> LaunchSpec:
    return LaunchSpec(model_name="echo", model_type="echo", **fields)


def test_a_misspelled_option_is_asked_about(client: Client) -> None:
    with pytest.raises(
        errors.BadOption, match="There is no option 'load_secnods'; did you mean 'load_seconds'"
    ) as raised:
        client.launch_model("echo", load_secnods=3)
    assert raised.value.param == "load_secnods" and raised.value.status == 400


def test_a_misspelled_model_is_asked_about(client: Client) -> None:
    with pytest.raises(errors.UnknownModel, match="all-MiniLM-L6-v2"):
        client.launch_model("all-MiniLM-L6-v3", "embedding")


def test_what_does_not_fit_says_why_on_every_node(client: Client) -> None:
    with pytest.raises(errors.DoesNotFit, match=r"our-huge fits on no node \(.*of .*\)") as raised:
        client.launch_model("echo", model_uid="our-huge", memory="900TiB")
    assert raised.value.status == 503
    checked = client.check(_spec(model_uid="our-huge", memory="900TiB"))
    assert checked["fits"] is False and checked["claim_bytes"] == 900 * 2**40


def test_a_failed_load_says_why_and_how_its_log_ended(client: Client) -> None:
    with pytest.raises(errors.LoadFailed, match="the weights are torn") as raised:
        client.launch_model("echo", model_uid="our-torn", load_error="the weights are torn")
    assert any("the weights are torn" in line for line in raised.value.log_tail)
    assert client.status("our-torn").state == "FAILED"
    assert client.events("our-torn")[-1]["event_type"] == "ERROR"
    client.terminate_model("our-torn")


def test_a_cancelled_launch_is_cancelled_for_whoever_waits(client: Client) -> None:
    uid, generation = client.submit(_spec(model_uid="our-slow", options={"load_seconds": 30}))

    def cancel_once_loading(status: ModelStatus) -> None:
        if status.stage == "loading":
            client.cancel_launch_model(uid)

    with pytest.raises(errors.LaunchCancelled):
        client.wait_until_ready(uid, generation, timeout=20, on_status=cancel_once_loading)


def test_an_error_of_the_model_is_no_error_of_the_next_request(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="our-raising")
    model = client.get_model(uid)
    with pytest.raises(errors.InferenceFailed, match="told to raise"):
        model.infer("/v1/infer", items=[{"raise": True}])
    with pytest.raises(errors.BadRequest, match="An item is bad"):
        model.infer("/v1/infer", items=["bad"])
    assert model.infer("/v1/infer", items=["good"])["results"] == ["good"]
    client.terminate_model(uid)


def test_the_async_client_does_the_same(
    live: LiveCluster, embedder: str, reranker: str, vectors: list[list[float]], scores: dict[int, float]
) -> None:
    async def live_through() -> None:
        async with AsyncClient(live.url) as client:
            uid = await client.launch_model("echo", model_uid="our-async", steps=2)
            model = await client.get_model(uid)
            answers = await asyncio.gather(*(model.infer("/v1/infer", items=[turn]) for turn in range(50)))
            assert [answer["results"] for answer in answers] == [[turn] for turn in range(50)]
            await client.terminate_model(uid)

            embedding = await client.get_model(embedder)
            assert isinstance(embedding, AsyncEmbeddingModel)
            answers = await asyncio.gather(*(embedding.create_embedding(text) for text in TEXTS))
            assert_same([answer["data"][0]["embedding"] for answer in answers], vectors)
            answer = await (await client.get_model(reranker)).rerank(DOCUMENTS, QUERY)
            assert [row["index"] for row in answer["results"]] == list(scores)

            with pytest.raises(errors.BadOption, match="did you mean 'steps'"):
                await client.launch_model("echo", step=3)
            with pytest.raises(errors.DoesNotFit, match="fits on no node"):
                await client.launch_model("echo", model_uid="our-huge", memory="900TiB")
            with pytest.raises(errors.LoadFailed, match="the weights are torn") as raised:
                await client.launch_model("echo", model_uid="our-torn", load_error="the weights are torn")
            assert raised.value.log_tail
            await client.terminate_model("our-torn")
            with pytest.raises(errors.ModelNotFound, match="uid: our-async"):
                await model.infer("/v1/infer", items=[1])

    asyncio.run(live_through())
