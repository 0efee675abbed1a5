"""Real models with many callers at once: each gets the answer that it would get alone."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray

WORDS = (
    "river mountain bread window theory paper garden engine winter market music doctor signal history colour "
    "metal island question teacher number village summer letter kitchen ocean machine forest language"
).split()
PASSAGE = (
    "The river rises in the mountains to the north, crosses the plain in wide bends, and reaches the sea after nine "
    "hundred kilometres. Barges carry grain and gravel on its lower course. "
)
#: Half precision is not used here, but a batch of another shape may round the last bits differently.
NEAR = 2e-6


def text(dice: random.Random, most: int = 120) -> str:
    return " ".join(dice.choices(WORDS, k=dice.randint(1, most)))


def embedding_body(dice: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"input": [text(dice) for _ in range(dice.randint(1, 5))], "encoding_format": "float"}
    if dice.random() < 0.4:
        body["dimensions"] = dice.choice([1, 32, 200, 384])
    if dice.random() < 0.3:
        body["prompt"] = dice.choice(["query: ", "Represent this: "])
    return body


def rerank_body(dice: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"query": text(dice, 8), "documents": [text(dice, 60) for _ in range(dice.randint(1, 12))]}
    if dice.random() < 0.5:
        body["top_n"] = dice.randint(1, 12)
    body["raw_scores"] = dice.random() < 0.3
    return body


def vectors(answer: dict[str, Any]) -> Any:
    return np.array([row["embedding"] for row in answer["data"]])


def test_64_callers_get_what_each_gets_alone(live: LiveCluster, embedder: str, reranker: str) -> None:
    dice = random.Random(11)
    asked = [("/v1/embeddings", {"model": embedder, **embedding_body(dice)}) for _ in range(40)]
    asked += [("/v1/rerank", {"model": reranker, **rerank_body(dice)}) for _ in range(24)]
    with httpx.Client(base_url=live.url, timeout=120, headers={"cache-control": "no-store"}) as http:

        def answer(question: tuple[str, dict[str, Any]]) -> dict[str, Any]:
            path, body = question
            found = http.post(path, json=body)
            assert found.status_code == 200, found.text
            return dict(found.json())

        alone = [answer(question) for question in asked]
        with ThreadPoolExecutor(64) as callers:
            together = [found for _ in range(2) for found in callers.map(answer, asked)]
    for ours, theirs, (path, body) in zip(together, alone * 2, asked * 2, strict=True):
        assert ours["usage"] == theirs["usage"]
        if path == "/v1/embeddings":
            assert [row["index"] for row in ours["data"]] == list(range(len(body["input"])))
            assert np.abs(vectors(ours) - vectors(theirs)).max() <= NEAR
        else:
            assert [row["index"] for row in ours["results"]] == [row["index"] for row in theirs["results"]]
            scores = [[row["relevance_score"] for row in one["results"]] for one in (ours, theirs)]
            assert np.abs(np.subtract(*scores)).max() <= 10 * NEAR


@pytest.mark.parametrize(
    ("poison", "status"),
    [
        pytest.param(["fine", "\ud800 lone"], {400, 422}, id="lone surrogate"),
        pytest.param([[101, 2_000_000, 102]], {400, 422}, id="token id out of range"),
        pytest.param(["fine", {"text": 5}], {400, 422}, id="not a text"),
        pytest.param([""], {200}, id="nothing"),
        pytest.param(["word " * 1_000_000], {200}, id="five megabytes"),
    ],
)
def test_a_poisonous_input_fails_alone(live: LiveCluster, embedder: str, poison: list[Any], status: set[int]) -> None:
    raw = httpx.Client(base_url=live.url, timeout=120)
    with raw as http, ThreadPoolExecutor(9) as callers:

        def ask(given: Any) -> httpx.Response:

            # Lone surrogates can only be sent as escapes, as a careless client does.
            content = json.dumps({"model": embedder, "input": given}, ensure_ascii=True)
            return http.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})

        others = [callers.submit(ask, [f"a harmless text {n}"]) for n in range(8)]
        bad = callers.submit(ask, poison).result()
        assert bad.status_code in status, bad.text[:300]
        assert {other.result().status_code for other in others} == {200}
        assert http.get("/ready").json()["ready"] is True


def test_a_large_request_is_computed_by_all_workers_and_comes_back_in_order(live: LiveCluster) -> None:
    dice = random.Random(5)
    texts = [f"{n} {text(dice, 12)}" for n in range(300)]
    with live.client() as client:
        uid = client.launch_model(model_name="all-MiniLM-L6-v2", model_type="embedding", model_uid="two", replica=2)
        until(lambda: len(live.worker_pids(uid)) == 2, within=60, why="the second replica does not come")
        try:
            whole = live.post("/v1/embeddings", {"model": uid, "input": texts}, headers={"cache-control": "no-store"})
            assert whole.status_code == 200, whole.text
            found = whole.json()
            few = live.post("/v1/embeddings", {"model": uid, "input": texts[140:160]}).json()
            assert [row["index"] for row in found["data"]] == list(range(300))
            assert np.abs(vectors(found)[140:160] - vectors(few)).max() <= NEAR
            wrong = live.post("/v1/embeddings", {"model": uid, "input": [*texts[:299], [3_000_000]]})
            assert wrong.status_code == 400 and "300" not in wrong.json()["detail"][:10]
            samples = live.get("/metrics").text.splitlines()
            batches = [line for line in samples if line.startswith("cluster_tokens_total") and f'model="{uid}"' in line]
            assert len(batches) == 2 and all(float(line.rsplit(" ", 1)[1]) > 500 for line in batches)
        finally:
            client.terminate_model(uid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "near"),
    # openvino-int8 is launched by `auto` below, and compared in test_compiled.py.
    [("torch-bf16", 0.9995), ("onnx-int8", 0.97), ("openvino-bf16", 0.9995)],
)
def test_another_engine_gives_nearly_the_same_vectors(
    live: LiveCluster, embedder: str, engine: str, near: float
) -> None:
    texts = ["The weather is lovely today.", "How do I reset my password?", PASSAGE * 3, "Bread."]
    with live.client() as client:
        uid = client.launch_model(
            model_name="all-MiniLM-L6-v2", model_type="embedding", model_uid=engine, model_engine=engine
        )
        try:
            assert client.describe_model(uid)["engine"] == engine
            ours, exact = (
                vectors(live.post("/v1/embeddings", {"model": one, "input": texts}).json()) for one in (uid, embedder)
            )
            assert (ours * exact).sum(axis=1).min() >= near
        finally:
            client.terminate_model(uid)


@pytest.mark.slow
def test_auto_measures_the_engines_and_remembers(live: LiveCluster) -> None:
    launch = {"model_name": "ce-tiny", "model_type": "rerank", "model_engine": "auto"}
    with live.client() as client:
        tables = []
        for uid in ("auto-1", "auto-2"):
            client.launch_model(**launch, model_uid=uid)
            tables.append(client.describe_model(uid))
            client.terminate_model(uid)
    first, second = tables
    assert first["engines"] == second["engines"], "the second launch measured again"
    assert [row["verdict"] for row in first["engines"]].count("chosen") == 1
    chosen = next(row for row in first["engines"] if row["verdict"] == "chosen")
    assert first["engine"] == chosen["engine"] and chosen["cosine"] >= 0.98
    assert {row["engine"] for row in first["engines"]} >= {"torch", "torch-bf16", "onnx", "onnx-int8", "openvino-int8"}
