"""The exported model: attention is a single operation where that is possible, and the results are always those of the
model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from deployments.text.encoders.export import agrees, body_of, export
from tests.deployments.text.encoders.test_packing import BODIES, HEADS

pytestmark = pytest.mark.slow

LAYERS = 2
#: For each model: how many layers are exported with attention as one operation.
WHOLE = {"BertForSequenceClassification": LAYERS, "MPNetModel": 0}


@pytest.mark.parametrize("name", WHOLE)
def test_attention_is_one_operation_where_it_can_be(name: str, tmp_path: Path) -> None:
    import onnx

    case = next(case for case in (*BODIES, *HEADS) if case.model == name)
    is_head = case in HEADS
    loader = {
        "kind": "CrossEncoder" if is_head else "SentenceTransformer",
        "arguments": {"device": "cpu", "local_files_only": True},
        "inputs": ["input_ids", "attention_mask", "token_type_ids"],
        "output": "logits" if is_head else "last_hidden_state",
        "max_tokens": 64,
    }
    folder, file = str(case.folder(tmp_path / "model")), tmp_path / "model.onnx"
    export(folder, loader, file)
    kinds = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert kinds["MultiHeadAttention"] == WHOLE[name]
    assert agrees(body_of(folder, loader, {}), loader, file)
