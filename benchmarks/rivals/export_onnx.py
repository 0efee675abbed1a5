"""Makes folders that ONNX servers can load: weights as ONNX in fp32 and int8 beside config and tokenizer.

Runs in a rival's environment, not in ours: python export_onnx.py WEIGHTS KIND MAX_TOKENS FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer


class Embedder(torch.nn.Module):
    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(weights, torch_dtype=torch.float32, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kinds = torch.zeros_like(input_ids)
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=kinds).last_hidden_state


class Reranker(torch.nn.Module):
    """Finds for itself which tokens are the document's: Infinity's ONNX engine does not pass that on, and without it
    its scores would be wrong."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            weights, torch_dtype=torch.float32, attn_implementation="eager"
        )
        self.separator = AutoTokenizer.from_pretrained(weights).sep_token_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        is_end = (input_ids == self.separator).long()
        kinds = (is_end.cumsum(1) - is_end).clamp(max=1)
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=kinds).logits


def export(weights: Path, kind: str, target: Path) -> None:
    model = (Embedder if kind == "embedding" else Reranker)(weights).eval()
    ids = torch.randint(1000, 20000, (2, 16))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=512)
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        str(target),
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state" if kind == "embedding" else "logits"],
        dynamo=True,
        dynamic_shapes={name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
        external_data=False,
    )


def beside(weights: Path, folder: Path, max_tokens: int) -> None:
    """Config and tokenizer. Servers take the length of a text from different places: each says the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in weights.glob("*.*"):
        if source.suffix in (".json", ".txt"):
            shutil.copy(source, folder)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), key: max_tokens}))


def main() -> None:
    weights, kind, max_tokens, target = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    for precision in ("fp32", "int8"):
        beside(weights, target / precision, max_tokens)
    exact = target / "fp32" / "model.onnx"
    export(weights, kind, exact)
    model = onnx.load(exact)
    # The exporter leaves shapes of weights that it has transposed since; they are inferred anew.
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        target / "int8" / "model.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main()
