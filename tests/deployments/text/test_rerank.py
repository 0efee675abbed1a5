"""The installed reranker, compared with what sentence-transformers computes from its weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.settings import Settings
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.text.facts import RerankFacts
from deployments.text.rerank.cross_encoder import CrossEncoders

ENTRY = Catalog.builtin().find("ce-tiny")
SOURCE = ENTRY.sources[0]
FOLDER = locate(SOURCE, home=Settings().home)
CLOSE = 1e-5

QUERY = "Why is there high and low tide?"
DOCUMENTS = [
    "The moon pulls the sea.",
    "Bread needs salt.",
    "",
    "x",
    "Grüße aus Zürich",
    "潮汐由月球引力引起",
    "The moon pulls the sea. " * 10,
    "Nothing of the kind is said here, at length. " * 300,
    "The moon pulls the sea.",
]


def load(**options: Any) -> CrossEncoders:
    family = CrossEncoders()
    family.load(Setup(ENTRY, SOURCE, family.Options(**options), FOLDER, "cpu", threads=1))
    return family


@pytest.fixture(scope="module")
def model() -> CrossEncoders:
    return load()


@pytest.fixture(scope="module")
def reference() -> CrossEncoder:
    """The weights are stored in fp16 and compared in fp32."""
    return CrossEncoder(str(FOLDER), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})


@pytest.fixture(scope="module")
def expected(reference: CrossEncoder) -> dict[str, float]:
    """The score of each document by sentence-transformers."""
    return dict(zip(DOCUMENTS, reference.predict([(QUERY, document) for document in DOCUMENTS]), strict=True))


def score(model: CrossEncoders, documents: Sequence[Any], query: str = QUERY, **params: Any) -> Any:
    params["query"] = query
    return model.pack(list(model.run(model.prepare("rerank", documents, params).values)), params)


# -------------------------------------------------------------------------------------------------------- parity


def test_scores_are_those_of_sentence_transformers(model: CrossEncoders, expected: dict[str, float]) -> None:
    found = score(model, DOCUMENTS)
    assert found.shape == (len(DOCUMENTS),) and found.dtype == np.float32
    for document, value in zip(DOCUMENTS, found, strict=True):
        assert abs(value - expected[document]) < CLOSE, document[:30]


def test_scores_lie_between_none_and_one_and_tell_the_documents_apart(model: CrossEncoders) -> None:
    found = score(model, DOCUMENTS)
    assert ((found >= 0) & (found <= 1)).all()
    assert found[0] > found[1]


def test_raw_scores_are_what_comes_before_the_sigmoid(model: CrossEncoders, reference: CrossEncoder) -> None:
    raw = score(model, DOCUMENTS, raw_scores=True)
    logits = reference.predict([(QUERY, document) for document in DOCUMENTS], activation_fn=torch.nn.Identity())
    assert np.abs(raw - logits).max() < 1e-4
    assert np.abs(1 / (1 + np.exp(-raw)) - score(model, DOCUMENTS)).max() < CLOSE


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_batch_does_not_matter(model: CrossEncoders, expected: dict[str, float], seed: int) -> None:
    documents = random.Random(seed).choices(DOCUMENTS, k=15)
    for document, value in zip(documents, score(model, documents), strict=True):
        assert abs(value - expected[document]) < CLOSE, document[:30]


@pytest.mark.parametrize("document", dict.fromkeys(DOCUMENTS), ids=lambda document: ascii(document[:10]))
def test_a_document_has_the_same_score_alone_as_among_others(
    model: CrossEncoders, expected: dict[str, float], document: str
) -> None:
    assert abs(score(model, [document])[0] - expected[document]) < CLOSE


def test_equal_documents_have_equal_scores(model: CrossEncoders) -> None:
    found = score(model, ["The moon pulls the sea."] * 40)
    assert np.unique(found).size == 1


def test_near_certain_documents_are_told_apart(model: CrossEncoders) -> None:
    """In half precision the sigmoid would give them equal scores."""
    documents = [f"The moon pulls the sea{'.' * n}" for n in range(1, 6)]
    assert np.unique(score(model, documents)).size == np.unique(score(model, documents, raw_scores=True)).size


def test_half_precision_is_near(expected: dict[str, float]) -> None:
    found = score(load(torch_dtype="bfloat16"), DOCUMENTS[:6])
    assert found.dtype == np.float32
    assert np.abs(found - [expected[document] for document in DOCUMENTS[:6]]).max() < 0.05


# ----------------------------------------------------------------------------------------------------- long texts


@pytest.mark.parametrize(
    ("query", "document"),
    [
        pytest.param(QUERY, "The moon pulls the sea. " * 500, id="a long document"),
        pytest.param("Why is there high and low tide? " * 200, "The moon.", id="a long query"),
        pytest.param("Why is there high and low tide? " * 200, "The moon pulls the sea. " * 500, id="both"),
    ],
)
def test_what_is_too_long_is_cut_as_sentence_transformers_does(
    model: CrossEncoders, reference: CrossEncoder, query: str, document: str
) -> None:
    assert abs(score(model, [document], query)[0] - reference.predict([(query, document)])[0]) < CLOSE
    assert model.prepare("rerank", [document], {"query": query}).tokens == [512]


def test_a_document_that_may_not_be_cut_is_refused_with_its_place_and_length(model: CrossEncoders) -> None:
    with pytest.raises(errors.InputTooLong) as caught:
        model.prepare("rerank", ["short", "word " * 600], {"query": "one", "truncate": "NONE"})
    assert caught.value.message.startswith("Input 1 has 604 tokens, the model reads 512;")


def test_a_document_read_in_parts_has_the_score_of_its_best(model: CrossEncoders) -> None:
    long = "Bread needs salt. " * 200 + "The moon pulls the sea. " * 20
    prepared = model.prepare("rerank", ["x", long], {"query": QUERY, "long_documents": "chunk"})
    outputs = list(model.run(prepared.values))
    assert len(outputs) > 2 and prepared.join is not None
    assert model.pack(prepared.join(outputs), {"raw_scores": True})[1] == max(outputs[1:]).item()  # type: ignore[type-var, attr-defined]


def test_fewer_tokens_are_read_when_that_was_asked_for() -> None:
    assert load(max_tokens=32).prepare("rerank", ["word " * 100], {"query": "one"}).tokens == [32]


# -------------------------------------------------------------------------------------------------------- inputs


def test_a_document_can_be_an_object_with_a_text(model: CrossEncoders) -> None:
    objects = [{"text": document, "id": 5} for document in DOCUMENTS]
    assert np.array_equal(score(model, objects), score(model, DOCUMENTS))


@pytest.mark.parametrize("query", [None, 5, {"text": "a"}, ["a"]])
def test_a_query_is_a_text(model: CrossEncoders, query: object) -> None:
    with pytest.raises(errors.InvalidBody) as caught:
        model.prepare("rerank", ["a"], {"query": query})
    assert caught.value.param == "query"


@pytest.mark.parametrize("document", [None, 5, {}, {"text": None}, ["a"]])
def test_what_is_no_text_is_refused(model: CrossEncoders, document: object) -> None:
    with pytest.raises(errors.InvalidBody) as caught:
        model.prepare("rerank", ["a", document], {"query": "b"})
    assert caught.value.param == "documents"


def test_an_instruction_is_refused_and_not_left_out(model: CrossEncoders) -> None:
    with pytest.raises(errors.BadRequest, match="takes no instruction"):
        model.prepare("rerank", ["a"], {"query": QUERY, "instruction": "Find recipes"})


def test_no_documents_are_no_scores(model: CrossEncoders) -> None:
    assert score(model, []).shape == (0,)


def test_tokens_are_counted_as_the_model_reads_them(model: CrossEncoders, reference: CrossEncoder) -> None:
    pairs = [[QUERY, document] for document in DOCUMENTS]
    read = reference.tokenizer(pairs, truncation=True, max_length=512)["input_ids"]
    assert list(model.prepare("rerank", DOCUMENTS, {"query": QUERY}).tokens) == [len(ids) for ids in read]


def test_what_is_told_of_the_model_is_so() -> None:
    family = CrossEncoders()
    told = family.load(Setup(ENTRY, SOURCE, family.Options(), FOLDER, "cpu", threads=1))
    assert told == RerankFacts(max_tokens=512, type="normal", dtype="float32", packed=True, engine="torch")


def test_the_warm_up_example_can_be_run(model: CrossEncoders) -> None:
    example = model.example
    found = model.run(model.prepare(example.ability, example.items, example.params).values)
    assert len(found) == len(example.items)
