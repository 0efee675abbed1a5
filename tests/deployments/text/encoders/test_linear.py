"""Linear layers rearranged for faster arithmetic: the same numbers, and only where that is safe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.text.encoders import linear
from deployments.text.encoders.linear import Arranged, arrange
from tests.deployments.text.encoders.test_packing import BODIES, HEADS, Case, body_of, head_of, pipeline_of
from tests.tiny import TEXTS

KINDS = [*((case, body_of, "sentence_embedding") for case in BODIES), *((case, head_of, "scores") for case in HEADS)]


@pytest.mark.parametrize(("case", "load", "output"), KINDS, ids=[f"{case.model}-{case.name}" for case, *_ in KINDS])
def test_a_model_answers_as_before(case: Case, load: object, output: str, tmp_path: Path) -> None:
    model = load(case.folder(tmp_path), case, torch.float32)  # type: ignore[operator]
    pipeline = pipeline_of(model, output if case.model != "Qwen3ForCausalLM" else "causal_logits")
    encoded = pipeline.encoder.encode(list(TEXTS))
    expected = pipeline.vectors(encoded)
    arrange(model[0])
    assert any(isinstance(one, Arranged) for one in model[0].modules())
    for row, same in zip(pipeline.vectors(encoded), expected, strict=True):
        assert np.abs(row - same).max() <= 1e-5 * max(1.0, np.abs(same).max())


def test_half_precision_is_left_to_torch_where_the_processor_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = BODIES[0]
    model = body_of(case.folder(tmp_path), case, torch.bfloat16)
    monkeypatch.setattr(linear, "arranged_dtypes", lambda: (torch.float32,))
    arrange(model[0])
    assert not any(isinstance(one, Arranged) for one in model[0].modules())
    monkeypatch.undo()
    arrange(model[0])
    has_own = torch.bfloat16 in linear.arranged_dtypes()
    assert any(isinstance(one, Arranged) for one in model[0].modules()) == has_own


class Own(torch.nn.Module):  # type: ignore[misc]
    """A layer whose code came with a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)


def test_a_models_own_code_keeps_its_layers() -> None:
    model = Own()
    arrange(model)
    assert type(model.layer) is torch.nn.Linear


def test_a_layer_that_shares_its_weights_keeps_them() -> None:
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50))
    arrange(model)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert isinstance(model.bert.encoder.layer[0].intermediate.dense, Arranged)


def test_nothing_is_read_from_the_file_any_more(tmp_path: Path) -> None:
    """Or the pages of all layers would stay in memory beside the layers themselves."""
    case = BODIES[0]
    model = body_of(case.folder(tmp_path), case, torch.float32)
    assert not all(parameter.untyped_storage().resizable() for parameter in model.parameters()), "it was mapped"
    arrange(model[0])
    assert all(parameter.untyped_storage().resizable() for parameter in model[0].parameters())
