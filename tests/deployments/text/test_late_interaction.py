"""ColBERT models with random weights, with every way to fill up queries, compared with sentence-transformers."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.worker.family import path_of
from deployments import resolve
from deployments.text.embedding.late_interaction import LateInteraction
from deployments.text.rerank.late_interaction import LateRerankers
from deployments.vectors import Rows
from tests.tiny import SIZES, TEXTS, ask, launched, saved, tokenizer

QUERIES = ["Why tides?", "tea", "", "Is the river high in the mountains when it rains for a whole day and a night?"]
EXPANSIONS = {
    "unseen": {"strategy": "fixed", "attend": False, "length": 16},
    "seen": {"strategy": "fixed", "attend": True, "length": 16},
    "at least": {"strategy": "min", "attend": False, "length": 16},
    "none": None,
}


def made(place: Path, expansion: Any, config: Any, kind: Any, words: Any, masks: bool = True) -> Path:
    body = Transformer(str(saved(place / "body", kind, config, words)), query_expansion=expansion, document_length=40)
    torch.manual_seed(1)
    dense = Dense(32, 8, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    mask = [MultiVectorMask(skiplist_words=list(string.punctuation))] if masks else []
    modules = [body, dense, *mask, Normalize(module_input_name="token_embeddings")]
    prompts = {"query": "Q: ", "document": "D: "}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(place / "model"))
    return place / "model"


@pytest.fixture(scope="module", params=EXPANSIONS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("colbert")
    return made(place, EXPANSIONS[request.param], BertConfig(**SIZES), BertModel, tokenizer(types=True))


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return launched(LateInteraction, folder, "embedding")


@pytest.fixture(scope="module")
def reference(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu")


def agree(found: Any, expected: Any) -> None:
    assert isinstance(found, Rows) and len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max(initial=0) < 1e-5


def one_by_one(encode: Callable[..., Any], texts: list[str]) -> list[Any]:
    return [encode(text, convert_to_numpy=True) for text in texts]


def test_documents_are_those_of_sentence_transformers(model: LateInteraction, reference: MultiVectorEncoder) -> None:
    expected = one_by_one(reference.encode_document, TEXTS)
    agree(ask(model, "embed_tokens", TEXTS, prompt_name="document"), expected)
    agree(ask(model, "embed_tokens", TEXTS), expected)
    agree(ask(model, "embed_tokens", TEXTS, prompt_name="search_document"), expected)


def test_queries_are_those_of_sentence_transformers(model: LateInteraction, reference: MultiVectorEncoder) -> None:
    expected = one_by_one(reference.encode_query, QUERIES)
    agree(ask(model, "embed_tokens", QUERIES, prompt_name="query"), expected)
    agree(ask(model, "embed_tokens", QUERIES, prompt_name="search_query"), expected)


def test_queries_and_documents_may_share_a_batch(model: LateInteraction) -> None:
    queries, documents = model.read("query", QUERIES, {}), model.read("document", TEXTS, {})
    mixed = model.run([documents[0], *queries, *documents[1:]])
    agree(Rows.of(mixed[1 : 1 + len(queries)]), list(model.run(queries)))
    agree(Rows.of([mixed[0], *mixed[1 + len(queries) :]]), list(model.run(documents)))  # type: ignore[list-item]


def test_what_is_told_of_the_model_is_so(model: LateInteraction) -> None:
    assert model.facts.dimensions == 8 and model.facts.packed is True and model.facts.max_tokens == 40  # type: ignore[attr-defined]


def test_a_query_and_a_document_of_the_same_words_are_not_taken_for_each_other(model: LateInteraction) -> None:
    identities = [
        model.prepare("embed_tokens", ["a"], {"prompt": "", "prompt_name": role}).identities
        for role in ("query", "document")
    ]
    assert identities[0] != identities[1]


def test_dimensions_are_refused(model: LateInteraction) -> None:
    with pytest.raises(errors.BadRequest, match="cannot be cut"):
        model.prepare("embed_tokens", ["a"], {"dimensions": 4})


def test_another_architecture_packs_as_well(tmp_path: Path) -> None:
    config = ModernBertConfig(**SIZES, local_attention=8)
    folder = made(tmp_path, None, config, ModernBertModel, tokenizer())
    model, reference = launched(LateInteraction, folder, "embedding"), MultiVectorEncoder(str(folder), device="cpu")
    assert model.facts.packed is True
    agree(ask(model, "embed_tokens", TEXTS), one_by_one(reference.encode_document, TEXTS))


def test_a_model_without_a_mask_answers_for_every_token(tmp_path: Path) -> None:
    folder = made(tmp_path, EXPANSIONS["unseen"], BertConfig(**SIZES), BertModel, tokenizer(types=True), masks=False)
    model, reference = launched(LateInteraction, folder, "embedding"), MultiVectorEncoder(str(folder), device="cpu")
    agree(ask(model, "embed_tokens", TEXTS), one_by_one(reference.encode_document, TEXTS))
    agree(ask(model, "embed_tokens", QUERIES, prompt_name="query"), one_by_one(reference.encode_query, QUERIES))


def saved_by_pylate(place: Path) -> Path:
    """As PyLate saved models before it said so: a body, its own projection, and its settings beside the library's."""
    words = tokenizer(types=True, extra=("[Q] ", "[D] "))
    folder = saved(place / "pylate", BertModel, BertConfig(**SIZES), words)
    (folder / "1_Dense").mkdir()
    torch.manual_seed(1)
    save_file({"linear.weight": torch.randn(8, 32)}, folder / "1_Dense" / "model.safetensors")
    linear = {"in_features": 32, "out_features": 8, "bias": False}
    files = {
        "1_Dense/config.json": {**linear, "activation_function": "torch.nn.modules.linear.Identity"},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 47, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "4.0.2"},
            "prompts": {},
            "similarity_fn_name": "MaxSim",
            "query_prefix": "[Q] ",
            "document_prefix": "[D] ",
            "query_length": 32,
            "document_length": 48,
            "attend_to_expansion_tokens": False,
            "skiplist_words": list(string.punctuation),
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_what_pylate_saved_without_a_mask_is_served_as_it_was_trained(tmp_path: Path) -> None:
    folder = saved_by_pylate(tmp_path)
    wanted = resolve(
        LaunchSpec(model_name="late", model_type="embedding", model_path=str(folder)),
        Catalog.builtin(),
        Settings(home=tmp_path),
    )
    assert wanted.family == path_of(LateInteraction)
    model = launched(LateInteraction, folder, "embedding")
    words = model._encoder
    (document,) = ask(model, "embed_tokens", ["tea, bread!"], prompt_name="document")
    (query,) = ask(model, "embed_tokens", ["tea, bread!"], prompt_name="query")
    assert np.abs(np.linalg.norm(document, axis=1) - 1).max() < 1e-5
    # Punctuation of documents has no vectors, and queries are filled up.
    (ids,) = words.ids_of(["tea, bread!"])
    kept = [token for token in words.tokens_of(ids) if token not in string.punctuation]
    assert len(document) == len(kept) + 3 and len(query) == 32


# -------------------------------------------------------------------------------------------------------- reranking


@pytest.fixture(scope="module")
def reranker(folder: Path) -> LateRerankers:
    return launched(LateRerankers, folder, "rerank")


def test_scores_are_those_of_sentence_transformers(reranker: LateRerankers, reference: MultiVectorEncoder) -> None:
    for query in QUERIES:
        documents = reference.encode_document(TEXTS)
        expected = reference.similarity([reference.encode_query(query)], documents)[0].numpy()
        found = ask(reranker, "rerank", TEXTS, query=query)
        assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-4


def test_a_document_of_limited_length_keeps_what_closes_it(reranker: LateRerankers) -> None:
    prepared = reranker.prepare("rerank", [TEXTS[-1], "a"], {"query": "b", "max_tokens_per_doc": 6})
    whole = reranker.prepare("rerank", [TEXTS[-1], "a"], {"query": "b"})
    assert [len(one) <= 6 for one in prepared.values[1:]] == [True, True]
    assert prepared.values[1].ids[-1] == whole.values[1].ids[-1]


def test_reading_in_parts_is_refused(reranker: LateRerankers) -> None:
    with pytest.raises(errors.BadRequest, match="in parts"):
        reranker.prepare("rerank", ["a"], {"query": "b", "long_documents": "chunk"})


def test_an_instruction_is_refused_and_not_left_out(reranker: LateRerankers) -> None:
    with pytest.raises(errors.BadRequest, match="takes no instruction"):
        reranker.prepare("rerank", ["a"], {"query": "a", "instruction": "Find recipes"})


def test_a_document_that_may_not_be_cut_is_refused_with_its_place(reranker: LateRerankers) -> None:
    with pytest.raises(errors.InputTooLong, match="^Input 1 has "):
        reranker.prepare("rerank", ["a", TEXTS[-1]], {"query": "b", "long_documents": "error"})


def test_a_query_is_a_text(reranker: LateRerankers) -> None:
    with pytest.raises(errors.InvalidBody, match="needs a query"):
        reranker.prepare("rerank", ["a"], {"query": None})


def test_no_documents_are_no_scores(reranker: LateRerankers) -> None:
    assert ask(reranker, "rerank", [], query="a").shape == (0,)
