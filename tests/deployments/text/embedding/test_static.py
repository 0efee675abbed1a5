"""A small table of random vectors, compared with sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import BertConfig, BertModel

from cluster import errors
from deployments.text.embedding.static import StaticEmbeddings
from tests.tiny import SIZES, TEXTS, ask, launched, saved, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("static")
    torch.manual_seed(0)
    table = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=24)
    SentenceTransformer(modules=[table], prompts={"query": "q "}, device="cpu").save(str(place))
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> StaticEmbeddings:
    return launched(StaticEmbeddings, folder, "embedding")


def test_vectors_are_those_of_sentence_transformers(model: StaticEmbeddings, folder: Path) -> None:
    reference = SentenceTransformer(str(folder), device="cpu")
    found = ask(model, "embed", TEXTS)
    assert found.dtype == np.float32 and np.abs(found - reference.encode(TEXTS)).max() < 1e-6
    asked = ask(model, "embed", TEXTS, prompt_name="query")
    assert np.abs(asked - reference.encode(TEXTS, prompt_name="query")).max() < 1e-6


def test_answers_come_without_a_batch(model: StaticEmbeddings) -> None:
    prepared = model.prepare("embed", ["A dog."], {})
    assert not prepared.values and prepared.answers.shape == (1, 24) and sum(prepared.tokens) > 1


def test_vectors_can_be_cut_and_normalized(model: StaticEmbeddings) -> None:
    found = ask(model, "embed", TEXTS[:1], dimensions=8, normalize=True)
    assert found.shape == (1, 8) and abs(np.linalg.norm(found) - 1) < 1e-6
    with pytest.raises(errors.BadRequest, match="dimensions must be 1 to 24"):
        model.prepare("embed", ["a"], {"dimensions": 25})


def test_no_texts_are_no_vectors(model: StaticEmbeddings) -> None:
    assert ask(model, "embed", []).shape == (0, 24)


@pytest.mark.parametrize("item", [None, 5, {"image": b""}])
def test_what_is_no_text_is_refused(model: StaticEmbeddings, item: object) -> None:
    with pytest.raises(errors.InvalidBody, match="An input is a text"):
        model.prepare("embed", ["a", item], {})


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, BertModel, BertConfig(**SIZES), tokenizer(types=True))
    with pytest.raises(errors.LoadFailed, match="begins with a Transformer"):
        launched(StaticEmbeddings, tmp_path, "embedding")
