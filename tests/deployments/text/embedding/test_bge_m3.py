"""A tiny XLM-R with the two other heads of bge-m3, compared with the same arithmetic in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import XLMRobertaConfig, XLMRobertaModel

from cluster import errors
from deployments.text.embedding.bge_m3 import BgeM3
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.vectors import Rows, SparseRows
from tests.tiny import SIZES, TEXTS, ask, launched, saved, tokenizer

KINDS = ["dense", "sparse", "tokens"]


def small_bge_m3(place: Path, pickles: bool = False) -> Path:
    """Its parts for sparse vectors and vectors of tokens are pickles on the hub."""
    config = XLMRobertaConfig(**SIZES, max_position_embeddings=160)
    body = Transformer(str(saved(place / "body", XLMRobertaModel, config, tokenizer())))
    modules = [body, Pooling(32, pooling_mode="cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(place / "model"))
    torch.manual_seed(2)
    for name, width in (("sparse_linear", 1), ("colbert_linear", 32)):
        weights = torch.nn.Linear(32, width).state_dict()
        if pickles:
            torch.save(weights, place / "model" / f"{name}.pt")
        else:
            save_file(weights, place / "model" / f"{name}.safetensors")
    return place / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bge_m3(tmp_path_factory.mktemp("m3"), pickles=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> BgeM3:
    return launched(BgeM3, folder, "embedding", allow_pickle=True)


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[dict[str, Any]]:
    """All texts in one padded batch, as the model's own library computes them."""
    words, plain = tokenizer(), XLMRobertaModel.from_pretrained(folder).eval()
    sparse, tokens = (torch.load(folder / f"{name}_linear.pt", weights_only=True) for name in ("sparse", "colbert"))
    given = words(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.inference_mode():
        rows = plain(**given).last_hidden_state
        weights = torch.relu(rows @ sparse["weight"].T + sparse["bias"]).squeeze(-1)
        vectors = torch.nn.functional.normalize(rows @ tokens["weight"].T + tokens["bias"], dim=-1)
    found = []
    for place in range(len(TEXTS)):
        ids, length = given["input_ids"][place].tolist(), int(given["attention_mask"][place].sum())
        largest: dict[int, float] = {}
        for id, weight in zip(ids[:length], weights[place, :length].tolist(), strict=True):
            if id not in words.all_special_ids and weight > largest.get(id, 0):
                largest[id] = weight
        dense = torch.nn.functional.normalize(rows[place, 0], dim=-1).numpy()
        found.append({"dense": dense, "sparse": largest, "tokens": vectors[place, 1:length].numpy()})
    return found


def agree(kind: str, found: Any, expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, one in zip(found, expected, strict=True):
        if kind == "sparse":
            assert ours[0].tolist() == sorted(one["sparse"]) and ours[0].dtype == np.int32
            assert ours[1] == pytest.approx([one["sparse"][id] for id in sorted(one["sparse"])], abs=1e-5)
        else:
            assert ours.shape == one[kind].shape and np.abs(ours - one[kind]).max(initial=0) < 1e-5


@pytest.mark.parametrize(
    ("ability", "kind"), [("embed", "dense"), ("embed_sparse", "sparse"), ("embed_tokens", "tokens")]
)
def test_each_kind_is_that_of_the_plain_arithmetic(model: BgeM3, expected: Any, ability: str, kind: str) -> None:
    agree(kind, ask(model, ability, TEXTS), expected)


@pytest.mark.parametrize("kinds", [KINDS, ["sparse", "dense"], ["tokens"]], ids="+".join)
def test_all_kinds_come_of_one_pass(model: BgeM3, expected: Any, kinds: list[str]) -> None:
    found = ask(model, "embed_all", TEXTS, kinds=kinds)
    assert list(found) == kinds
    for kind in kinds:
        agree(kind, found[kind], expected)


def test_it_packs(model: BgeM3) -> None:
    assert model.facts.packed is True and model.facts.dimensions == 32  # type: ignore[attr-defined]


def test_shapes_are_those_that_routes_expect(model: BgeM3) -> None:
    found = ask(model, "embed_all", TEXTS, kinds=KINDS)
    assert isinstance(found["sparse"], SparseRows) and isinstance(found["tokens"], Rows)
    assert found["dense"].shape == (len(TEXTS), 32)


def test_parts_that_are_pickles_are_refused_unless_they_are_trusted(folder: Path) -> None:
    with pytest.raises(errors.LoadFailed, match="sparse_linear only as a pickle: .*CLUSTER_ALLOW_PICKLE=true"):
        launched(BgeM3, folder, "embedding")


def test_parts_in_safetensors_need_no_trust(folder: Path, model: BgeM3, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    SentenceTransformer(str(folder), device="cpu").save(str(copy))
    for name in ("sparse_linear", "colbert_linear"):
        save_file(torch.load(folder / f"{name}.pt", weights_only=True), copy / f"{name}.safetensors")
    found = ask(launched(BgeM3, copy, "embedding"), "embed_sparse", TEXTS)
    assert np.abs(found.values - ask(model, "embed_sparse", TEXTS).values).max() < 1e-5


def test_a_model_without_the_parts_is_refused_with_a_way_out(folder: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(errors.LoadFailed, match="model_engine=sentence_transformers"):
        launched(BgeM3, tmp_path / "model", "embedding", allow_pickle=True)
    assert "sentence_transformers" not in BgeM3.engines
    dense = launched(SentenceTransformers, tmp_path / "model", "embedding")
    assert ask(dense, "embed", TEXTS).shape == (len(TEXTS), 32)
