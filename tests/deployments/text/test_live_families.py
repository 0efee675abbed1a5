"""Folders of every kind, launched by their path without naming a family, and asked over HTTP."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from xinference_client import RESTfulClient

from tests.deployments.text.embedding.test_clip import clip
from tests.deployments.text.rerank.test_vision import PICTURES, vision
from tests.deployments.text.test_late_interaction import EXPANSIONS, made
from tests.live import LiveCluster
from tests.painted import as_uri
from tests.tiny import SIZES, saved, tokenizer

TEXTS = ["A dog.", "Tea and bread"]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def http(live: LiveCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=30) as client:
        yield client


@pytest.fixture
def serve(live: LiveCluster, http: httpx.Client) -> Iterator[Callable[[str, Path], Ask]]:
    """Launches a folder and returns a function that asks the model; terminates it after the test."""
    uids: list[str] = []
    with live.client() as client:

        def serve(type: str, folder: Path) -> Ask:
            uid = client.launch_model("tiny", model_type=type, model_uid=f"tiny-{len(uids)}", model_path=str(folder))
            uids.append(uid)

            def ask(path: str, **body: Any) -> Any:
                answer = http.post(path, json={"model": uid, **body})
                assert answer.status_code == 200, answer.text
                return answer.json()

            return ask

        yield serve
        for uid in uids:
            client.terminate_model(uid)


def test_sparse(serve: Any, tmp_path: Path) -> None:
    saved(tmp_path / "body", BertForMaskedLM, BertConfig(**SIZES), tokenizer(types=True))
    SparseEncoder(str(tmp_path / "body"), device="cpu").save(str(tmp_path / "model"))
    ask = serve("embedding", tmp_path / "model")
    rows = ask("/embed_sparse", inputs=TEXTS)
    assert [len(row) > 5 for row in rows] == [True, True] and rows[0][0]["value"] > 0
    found = ask("/v1/embeddings", input=TEXTS, return_sparse=True)["data"][0]["embedding"]
    assert found == pytest.approx({str(word["index"]): word["value"] for word in rows[0]})


def test_late_interaction_embeds_and_ranks(serve: Any, tmp_path: Path) -> None:
    folder = made(tmp_path, EXPANSIONS["unseen"], BertConfig(**SIZES), BertModel, tokenizer(types=True))
    vectors = serve("embedding", folder)("/v1/embeddings", input=TEXTS, return_multivector=True)["data"]
    assert np.asarray(vectors[0]["embeddings"]).shape[1] == 8
    results = serve("rerank", folder)("/v1/rerank", query="tea", documents=TEXTS)["results"]
    assert sorted(one["index"] for one in results) == [0, 1]
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]


def test_all_three_kinds_of_bge_m3(serve: Any, tmp_path: Path) -> None:
    config = XLMRobertaConfig(**SIZES, max_position_embeddings=160)
    body = Transformer(str(saved(tmp_path / "body", XLMRobertaModel, config, tokenizer())))
    modules = [body, Pooling(32, pooling_mode="cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    for name, size in (("sparse_linear", 1), ("colbert_linear", 32)):
        save_file(torch.nn.Linear(32, size).state_dict(), tmp_path / "model" / f"{name}.safetensors")
    ask = serve("embedding", tmp_path / "model")
    (row,) = ask("/v1/embeddings", input="A dog.", return_dense=True, return_sparse=True, return_multivector=True)[
        "data"
    ]
    assert len(row["embedding"]) == 32 and row["sparse_embedding"] and len(row["embeddings"][0]) == 32


def test_static(serve: Any, tmp_path: Path) -> None:
    table = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=24)
    SentenceTransformer(modules=[table], device="cpu").save(str(tmp_path))
    answer = serve("embedding", tmp_path)("/v1/embeddings", input=TEXTS)
    assert [len(row["embedding"]) for row in answer["data"]] == [24, 24] and answer["usage"]["prompt_tokens"] > 2


def test_clip(serve: Any, tmp_path: Path) -> None:
    ask = serve("embedding", clip(tmp_path))
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    rows = [ask("/embeddings", input=one, modality=kind)["data"][0]["embedding"] for one, kind in
            (("A dog.", "text"), (picture, "image"))]  # fmt: skip
    assert [len(row) for row in rows] == [16, 16]


def test_a_picture_that_cannot_be_read_is_the_callers_mistake(serve: Any, http: httpx.Client, tmp_path: Path) -> None:
    serve("embedding", clip(tmp_path))
    answer = http.post(
        "/embeddings", json={"model": "tiny-0", "input": "data:image/png;base64,AwME", "modality": "image"}
    )
    assert answer.status_code == 400 and "Input 0 is not a readable picture" in answer.json()["detail"]


def test_causal(serve: Any, tmp_path: Path) -> None:
    words = tokenizer(pads_left=True, frames=False, max_tokens=512, extra=("yes", "no", "<|im_start|>", "<|im_end|>"))
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=512)
    saved(tmp_path, Qwen3ForCausalLM, config, words)
    ask = serve("rerank", tmp_path)
    usual, told = (
        {
            one["index"]: one["relevance_score"]
            for one in ask("/v1/rerank", query="tea", documents=TEXTS, **more)["results"]
        }
        for more in ({}, {"instruction": "Find recipes"})
    )
    assert all(0 < score < 1 for score in usual.values())
    assert usual.keys() == told.keys() and all(abs(usual[place] - told[place]) > 1e-6 for place in usual)


def test_pictures_are_ranked_beside_texts(serve: Any, http: httpx.Client, tmp_path: Path) -> None:
    ask = serve("rerank", vision(tmp_path))
    images = [as_uri(data) for data in PICTURES[:3]]
    documents = ["A dog.", {"image": images[0]}, {"text": "Tea", "image": images[1], "id": 7}, {"text": "A dog."}]
    query = {"text": "What is on it?", "image": images[2].partition(",")[2]}
    rows = ask("/v1/rerank", query=query, documents=documents, return_documents=True)["results"]
    scores = {row["index"]: row["relevance_score"] for row in rows}
    assert [row["relevance_score"] for row in rows] == sorted(scores.values(), reverse=True)
    # Those of equal score stay in their order.
    assert scores[0] == scores[3] and list(scores).index(3) == list(scores).index(0) + 1
    assert len({round(score, 5) for score in scores.values()}) == 3 and all(0 < score < 1 for score in scores.values())
    assert {row["index"]: row["document"] for row in rows} == dict(enumerate([{"text": "A dog."}, *documents[1:]]))
    alone = ask("/v1/rerank", query=query, documents=documents[2:3])
    assert alone["results"][0]["relevance_score"] == pytest.approx(scores[2], abs=1e-5)
    (best, *_) = ask("/rerank", query="Tea", documents=["a", "b"], top_n=1)["results"]
    assert 0 < best["relevance_score"] < 1
    for body, said in (
        ({"documents": ["a", {"image": "data:image/png;base64,AwME"}]}, "Input 1 is not a readable picture"),
        ({"documents": ["a", {"image": "https://example.com/a.png"}]}, "Input 1 is a URL, and none is fetched"),
        ({"documents": ["a", {"image": as_uri(PICTURES[1][:-200])}]}, "Input 1: the document is a picture that cannot"),
        ({"documents": ["a"], "query": {"image": "data:image/png;base64,AwME"}}, "The query is not a readable picture"),
    ):
        answer = http.post("/v1/rerank", json={"model": "tiny-0", "query": "Tea", **body})
        assert answer.status_code == 400 and said in answer.json()["detail"]


def test_classify(serve: Any, tmp_path: Path) -> None:
    config = BertConfig(**SIZES, id2label={0: "joy", 1: "anger", 2: "neither"})
    saved(tmp_path, BertForSequenceClassification, config, tokenizer(types=True))
    ask = serve("classify", tmp_path)
    (scores,) = ask("/classify", input=["A dog."])["data"]
    assert {one["label"] for one in scores} == {"joy", "anger", "neither"}
    assert sum(one["score"] for one in scores) == pytest.approx(1, abs=1e-5)
    assert ask("/predict", inputs="A dog.")[0]["label"] == scores[0]["label"]


def test_xinferences_client_opens_a_classifier_as_what_takes_anything(
    serve: Any, live: LiveCluster, tmp_path: Path
) -> None:
    config = BertConfig(**SIZES, id2label={0: "joy", 1: "anger", 2: "neither"})
    saved(tmp_path, BertForSequenceClassification, config, tokenizer(types=True))
    ask = serve("classify", tmp_path)
    ((best, *_),) = ask("/classify", input=["A dog."])["data"]
    client = RESTfulClient(live.url)
    answer = client.get_model("tiny-0").infer("A dog.", raw_scores=False)
    client.close()
    (scores,), (labels,) = answer["scores"], answer["labels"]
    assert dict(zip(labels, scores, strict=True))[best["label"]] == pytest.approx(best["score"], abs=1e-5)
