"""Texts packed in one row give the same as each text alone, for every architecture that is packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Pooling

from deployments.text.encoders.engines import Recipe
from deployments.text.encoders.pipeline import Pipeline
from deployments.text.tokenizing import TextEncoder
from tests.tiny import SIZES, TEXTS, saved, tokenizer

EXACT = 1e-5
#: The largest difference of two vectors that were computed in half precision.
NEAR = 0.999


@dataclass
class Case:
    name: str
    config: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    pooling: str = "mean"
    packs: bool = True

    def folder(self, place: Path) -> Path:
        config = getattr(transformers, self.config)(**{**SIZES, **self.options})
        return saved(place, getattr(transformers, self.model), config, tokenizer(**self.words))


DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
#: Its two layers differ: one attends to the whole text, the other to a window shorter than most of the texts.
MODERN = {"local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 3, "max_position_embeddings": 256}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
LEFT = {"pads_left": True, "frames": False}

BODIES = [
    Case("bert", "BertConfig", "BertModel", words={"types": True}),
    Case("bert-cls", "BertConfig", "BertModel", words={"types": True}, pooling="cls"),
    Case("roberta", "RobertaConfig", "RobertaModel", {"max_position_embeddings": 160}),
    Case("xlm-roberta", "XLMRobertaConfig", "XLMRobertaModel", {"max_position_embeddings": 160}, pooling="cls"),
    Case("modernbert", "ModernBertConfig", "ModernBertModel", MODERN),
    Case("modernbert-cls", "ModernBertConfig", "ModernBertModel", MODERN, pooling="cls"),
    Case("qwen3", "Qwen3Config", "Qwen3Model", GROUPED, LEFT, pooling="lasttoken"),
    Case("qwen3-mean", "Qwen3Config", "Qwen3Model", GROUPED, LEFT, pooling="mean"),
    Case("distilbert", "DistilBertConfig", "DistilBertModel", DISTIL),
    Case("mpnet", "MPNetConfig", "MPNetModel", {"max_position_embeddings": 160}, packs=False),
]
HEADS = [
    Case("bert", "BertConfig", "BertForSequenceClassification", {"num_labels": 1}, {"types": True}),
    Case("bert-labels", "BertConfig", "BertForSequenceClassification", {"num_labels": 3}, {"types": True}),
    Case(
        "xlm-roberta",
        "XLMRobertaConfig",
        "XLMRobertaForSequenceClassification",
        {"num_labels": 1, "max_position_embeddings": 160},
    ),
    Case(
        "modernbert-cls",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**MODERN, "num_labels": 1, "classifier_pooling": "cls"},
    ),
    Case(
        "modernbert-mean",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**MODERN, "num_labels": 1, "classifier_pooling": "mean"},
    ),
    Case("distilbert", "DistilBertConfig", "DistilBertForSequenceClassification", {**DISTIL, "num_labels": 2}),
    Case(
        "deberta",
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {"num_labels": 3, "relative_attention": True, "pos_att_type": "p2c|c2p", "max_position_embeddings": 160},
        packs=False,
    ),
    Case("qwen3-words", "Qwen3Config", "Qwen3ForCausalLM", GROUPED, {**LEFT, "extra": ("yes", "no")}),
]


def body_of(folder: Path, case: Case, dtype: torch.dtype) -> Any:
    model = loaded("SentenceTransformer", folder, dtype)
    model[1] = Pooling(model[0].get_embedding_dimension(), pooling_mode=case.pooling)
    return model


def head_of(folder: Path, case: Case, dtype: torch.dtype) -> Any:
    return loaded("CrossEncoder", folder, dtype)


def loaded(kind: str, folder: Path, dtype: torch.dtype) -> Any:
    return Recipe(kind, {"device": "cpu", "local_files_only": True}, "").load(folder, dtype, None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    found: dict[str, Path] = {}

    def folder(case: Case) -> Path:
        key = f"{case.model}-{case.name}"
        if key not in found:
            found[key] = case.folder(tmp_path_factory.mktemp(key))
        return found[key]

    return folder


def pipeline_of(model: Any, output: str) -> Pipeline:
    return Pipeline(model, TextEncoder(model.tokenizer, 64), output)


def alone(pipeline: Pipeline, text: str) -> Any:
    """One text alone in a row, neither padded nor packed."""
    features, _ = pipeline._forward(pipeline.encoder.encode([text]), packs=False)
    return features[pipeline._output][0].float().numpy()


def agree(pipeline: Pipeline, texts: list[str]) -> None:
    found = pipeline.vectors(pipeline.encoder.encode(texts))
    for text, row in zip(texts, found, strict=True):
        expected = alone(pipeline, text)
        if pipeline.dtype == torch.float32:
            assert np.abs(row - expected).max() <= EXACT * max(1.0, np.abs(expected).max()), text[:30]
        elif row.size > 1:
            cosine = row @ expected / (np.linalg.norm(row) * np.linalg.norm(expected))
            assert cosine >= NEAR, text[:30]
        else:
            assert np.abs(row - expected).max() <= 0.05 * max(1.0, np.abs(expected).max()), text[:30]


named = {"ids": lambda case: case.name}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@dtypes
@pytest.mark.parametrize("case", BODIES, **named)
def test_a_text_has_the_vector_that_it_has_alone(folders: Any, case: Case, dtype: torch.dtype) -> None:
    pipeline = pipeline_of(body_of(folders(case), case, dtype), "sentence_embedding")
    assert pipeline.packs is case.packs
    # A causal model that adds no tokens has nothing to read in an empty text.
    agree(pipeline, [text for text in TEXTS if text or case.words is not LEFT])


@dtypes
@pytest.mark.parametrize("case", HEADS, **named)
def test_a_text_has_the_scores_that_it_has_alone(folders: Any, case: Case, dtype: torch.dtype) -> None:
    pipeline = pipeline_of(head_of(folders(case), case, dtype), "scores")
    assert pipeline.packs is case.packs
    agree(pipeline, [text for text in TEXTS if text or "pads_left" not in case.words])


@pytest.mark.parametrize("case", [case for case in BODIES if case.packs], **named)
def test_a_text_has_the_token_vectors_that_it_has_alone(folders: Any, case: Case) -> None:
    pipeline = pipeline_of(body_of(folders(case), case, torch.float32), "sentence_embedding")
    texts = pipeline.encoder.encode([text for text in TEXTS if text])
    for encoded, rows in zip(texts, pipeline.token_vectors(texts), strict=True):
        expected = pipeline.token_vectors([encoded], packs=False)[0]
        assert rows.shape == expected.shape == (len(encoded), 32)
        assert np.abs(rows - expected).max() <= EXACT * np.abs(expected).max()


@pytest.mark.parametrize("case", [BODIES[0], BODIES[5], BODIES[7]], **named)
def test_the_neighbours_of_a_text_in_its_row_do_not_matter(folders: Any, case: Case) -> None:
    pipeline = pipeline_of(body_of(folders(case), case, torch.float32), "sentence_embedding")
    here = pipeline.vectors(pipeline.encoder.encode([TEXTS[0], TEXTS[2], TEXTS[6]]))[1]
    there = pipeline.vectors(pipeline.encoder.encode([TEXTS[2], TEXTS[4]] * 3))[4]
    assert np.abs(here - there).max() <= EXACT


def test_a_window_that_is_shorter_than_the_text_matters(folders: Any) -> None:
    """If it did not matter, the tests with a window would prove nothing."""
    case = BODIES[4]
    narrow = pipeline_of(body_of(folders(case), case, torch.float32), "sentence_embedding")
    wide = Case("modernbert-wide", case.config, case.model, {**case.options, "local_attention": 200})
    wide_pipeline = pipeline_of(body_of(folders(wide), wide, torch.float32), "sentence_embedding")
    one, other = (one.vectors(one.encoder.encode([TEXTS[6]]))[0] for one in (narrow, wide_pipeline))
    assert np.abs(one - other).max() > 0.01
