"""Classifiers with random weights, compared with plain transformers on one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from cluster import errors
from deployments.text.classify.sequences import SequenceClassifiers, probabilities
from tests.tiny import SIZES, TEXTS, ask, launched, saved, tokenizer

ITEMS = [*TEXTS, ["It rains.", "The street is wet."], ["Tea", TEXTS[-1]]]
LABELS = {0: "joy", 1: "anger", 2: "neither"}
KINDS = {
    "bert": (BertConfig(**SIZES, id2label=LABELS), BertForSequenceClassification, {"types": True}),
    "xlm-roberta": (
        XLMRobertaConfig(**SIZES, id2label=LABELS, max_position_embeddings=160),
        XLMRobertaForSequenceClassification,
        {},
    ),
    "modernbert": (
        ModernBertConfig(**SIZES, id2label=LABELS, classifier_pooling="mean", local_attention=8),
        ModernBertForSequenceClassification,
        {},
    ),
    "one label": (BertConfig(**SIZES, num_labels=1), BertForSequenceClassification, {"types": True}),
    "many at once": (
        BertConfig(**SIZES, id2label=LABELS, problem_type="multi_label_classification"),
        BertForSequenceClassification,
        {"types": True},
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    config, architecture, words = KINDS[request.param]
    folder = tmp_path_factory.mktemp("classifier")
    return request.param, saved(folder, architecture, config, tokenizer(**words))


@pytest.fixture(scope="module")
def model(kind: tuple[str, Path]) -> SequenceClassifiers:
    return launched(SequenceClassifiers, kind[1], "classify")


@pytest.fixture(scope="module")
def logits(kind: tuple[str, Path]) -> Any:
    name, folder = kind
    _, architecture, options = KINDS[name]
    words, plain = tokenizer(**options), architecture.from_pretrained(folder).eval()
    rows = []
    for item in ITEMS:
        texts = [item] if isinstance(item, str) else item
        with torch.inference_mode():
            given = words(*texts, return_tensors="pt", truncation=True, max_length=128)
            rows.append(plain(**given).logits[0].numpy())
    return np.stack(rows)


def test_raw_scores_are_the_logits_of_transformers(model: SequenceClassifiers, logits: Any) -> None:
    found = ask(model, "classify", ITEMS, raw_scores=True)
    assert found["scores"].dtype == np.float32 and found["scores"].shape == logits.shape
    assert np.abs(found["scores"] - logits).max() < 1e-5


def test_scores_are_probabilities(kind: tuple[str, Path], model: SequenceClassifiers, logits: Any) -> None:
    found = ask(model, "classify", ITEMS)["scores"]
    rows = torch.from_numpy(logits)
    expected = torch.sigmoid(rows) if kind[0] in ("one label", "many at once") else torch.softmax(rows, -1)
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_labels_are_those_of_the_model(kind: tuple[str, Path], model: SequenceClassifiers) -> None:
    labels = ["LABEL_0"] if kind[0] == "one label" else ["joy", "anger", "neither"]
    assert ask(model, "classify", ["a", "b"])["labels"] == [labels, labels]
    assert model.facts.labels == tuple(labels) and model.facts.packed is True  # type: ignore[attr-defined]


def test_no_texts_are_no_scores(model: SequenceClassifiers) -> None:
    found = ask(model, "classify", [])
    assert found["scores"].shape == (0, len(model.facts.labels)) and found["labels"] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("item", [None, 5, ["a"], ["a", "b", "c"], ["a", 5], {"text_pair": "b", "text": 5}])
def test_what_is_no_text_and_no_pair_is_refused(model: SequenceClassifiers, item: object) -> None:
    with pytest.raises(errors.InvalidBody, match="a text or a list of two texts"):
        model.prepare("classify", ["a", item], {})


def test_a_text_that_may_not_be_cut_is_refused_with_its_place(model: SequenceClassifiers) -> None:
    with pytest.raises(errors.InputTooLong, match="^Input 1 has "):
        model.prepare("classify", ["a", "word " * 200], {"truncate": "NONE"})


def test_large_logits_are_probabilities_too() -> None:
    assert probabilities(np.array([[1000.0, 0.0]], np.float32), True).tolist() == [[1.0, 0.0]]
    assert probabilities(np.array([[-1000.0, 1000.0]], np.float32), False).tolist() == [[0.0, 1.0]]
