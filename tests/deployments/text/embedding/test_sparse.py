"""A masked language model with random weights as a sparse encoder, compared with sentence-transformers and with the
formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from transformers import BertConfig, BertForMaskedLM, BertModel

from cluster import errors
from deployments.text.embedding.sparse import SparseEncoders, weights_of
from deployments.vectors import SparseRows
from tests.tiny import SIZES, TEXTS, ask, launched, saved, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("splade"), BertForMaskedLM, BertConfig(**SIZES), tokenizer(types=True))


@pytest.fixture(scope="module")
def model(folder: Path) -> SparseEncoders:
    return launched(SparseEncoders, folder, "embedding")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    """The formula of the paper: the largest log(1 + relu) of each word over the tokens of the text."""
    words, plain = tokenizer(types=True), BertForMaskedLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = [plain(**words(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return np.stack([torch.log1p(torch.relu(one)).amax(0).numpy() for one in logits])


def test_weights_are_those_of_the_paper(model: SparseEncoders, expected: Any) -> None:
    found = ask(model, "embed_sparse", TEXTS)
    assert isinstance(found, SparseRows) and len(found) == len(TEXTS)
    assert found.indices.dtype == np.int32 and found.values.dtype == np.float32
    for (indices, values), row in zip(found, expected, strict=True):
        assert np.array_equal(indices, np.flatnonzero(row > 0)), "ascending, and all that there are"
        assert np.abs(values - row[indices]).max() < 1e-5 and (values > 0).all()


def test_weights_are_those_of_sentence_transformers(model: SparseEncoders, folder: Path) -> None:
    reference = SparseEncoder(str(folder), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    for (indices, values), row in zip(ask(model, "embed_sparse", TEXTS), reference, strict=True):
        assert np.abs(values - row.numpy()[indices]).max() < 1e-5


def test_it_packs(model: SparseEncoders) -> None:
    assert model.facts.packed is True and not model.pace.pads  # type: ignore[attr-defined]


def test_a_folder_that_sentence_transformers_saved_gives_the_same(
    folder: Path, model: SparseEncoders, tmp_path: Path
) -> None:
    SparseEncoder(str(folder), device="cpu").save(str(tmp_path / "model"))
    again = ask(launched(SparseEncoders, tmp_path / "model", "embedding"), "embed_sparse", TEXTS)
    found = ask(model, "embed_sparse", TEXTS)
    assert np.array_equal(again.indices, found.indices) and np.abs(again.values - found.values).max() < 1e-5


@pytest.mark.parametrize("most", [1, 5, 10_000])
def test_the_largest_weights_are_kept_in_the_order_of_the_words(folder: Path, model: SparseEncoders, most: int) -> None:
    cut = ask(launched(SparseEncoders, folder, "embedding", max_active_dims=most), "embed_sparse", TEXTS)
    for (indices, values), (whole, weights) in zip(cut, ask(model, "embed_sparse", TEXTS), strict=True):
        assert len(indices) == min(most, len(whole)) and (np.diff(indices) > 0).all()
        assert values.min() >= np.sort(weights)[-len(values)] - 1e-6


def test_a_word_without_weight_is_left_out() -> None:
    indices, values = weights_of(np.array([0.0, 2.0, -1.0, 0.5], np.float32))
    assert indices.tolist() == [1, 3] and values.tolist() == [2.0, 0.5]
    assert [len(part) for part in weights_of(np.zeros(4, np.float32))] == [0, 0]


def test_no_texts_are_no_rows(model: SparseEncoders) -> None:
    assert len(ask(model, "embed_sparse", [])) == 0


def test_dimensions_are_refused(model: SparseEncoders) -> None:
    with pytest.raises(errors.BadRequest, match="no dimensions to cut"):
        model.prepare("embed_sparse", ["a"], {"dimensions": 8})


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, BertModel, BertConfig(**SIZES), tokenizer(types=True))
    with pytest.raises(errors.LoadFailed, match="is not a sparse encoder"):
        launched(SparseEncoders, tmp_path, "embedding")


def test_tokens_can_be_asked_for(model: SparseEncoders) -> None:
    (told,) = model.prepare("tokenize", ["A dog."], {}).answers
    assert told["tokens"][0] == "[CLS]" and model.prepare("tokens", told["ids"][:1], {}).answers == ["[CLS]"]
