"""Exports a model as ONNX with torch alone: `python -m deployments.text.encoders.export`, a job on stdin."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cluster.value import JsonObject
from deployments.conversions import complete
from deployments.text.encoders.conversion import EXPORTED

# Before anything imports transformers.
from deployments.text.encoders.library import sentence_transformers

sentence_transformers()

from transformers import AttentionInterface  # noqa: E402
from transformers.masking_utils import AttentionMaskInterface  # noqa: E402

log = logging.getLogger("cluster.worker.worker")


class Exported(torch.nn.Module):  # type: ignore[misc]
    """A transformers model as a function of arrays, with one output."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.model = model
        self._names = names
        self._output = output

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**dict(zip(self._names, arrays, strict=True))), self._output)


def _whole(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention as one operation, which both runtimes compute faster than the dozen that it is made of otherwise."""
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if causal or any(kwargs.get(name) is not None for name in ("sliding_window", "position_bias", "softcap", "s_aux")):
        raise NotImplementedError("this attention is more than a mask of the padding")
    if query.shape[1] != key.shape[1] or query.shape[-1] != value.shape[-1]:
        raise NotImplementedError("this attention has fewer keys than queries")
    batch, heads, length, size = query.shape
    rows = [part.transpose(1, 2).reshape(batch, length, heads * size) for part in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        [*rows, None, attention_mask],
        {"num_heads": heads, "scale": float(size**-0.5 if scaling is None else scaling)},
        dtype=query.dtype,
        shape=rows[0].shape,
        version=1,
    )
    return output.reshape(batch, length, heads, size), None


def _padding(*, attention_mask: torch.Tensor, **kwargs: object) -> torch.Tensor:
    return attention_mask.to(torch.int32)


AttentionInterface.register("whole", _whole)
AttentionMaskInterface.register("whole", _padding)


def export(folder: str, loader: JsonObject, file: Path) -> None:
    """The first module of a sentence-transformers model as ONNX, with free batch size and length."""
    try:
        _write(body_of(folder, loader, {"attn_implementation": "whole"}), loader, file)
        if agrees(body_of(folder, loader, {}), loader, file):
            return
    # Models whose attention is not like this: the exporter breaks it into single operations.
    except Exception as error:
        log.info("attention is exported in parts: %s: %s", type(error).__name__, error)
    _write(body_of(folder, loader, {}), loader, file)


def body_of(folder: str, loader: JsonObject, how: JsonObject) -> torch.nn.Module:
    kind = getattr(sentence_transformers(), loader["kind"])
    arguments = {**loader["arguments"], "device": "cpu"}
    arguments["model_kwargs"] = {**arguments.get("model_kwargs", {}), "dtype": torch.float32, **how}
    return kind(folder, **arguments)[0]


def _example(body: torch.nn.Module, loader: JsonObject) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: tensors[name] for name in body.tokenizer.model_input_names if name in loader["inputs"]}


def _write(body: torch.nn.Module, loader: JsonObject, file: Path) -> None:
    example = _example(body, loader)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=loader["max_tokens"])}
    with torch.inference_mode():
        torch.onnx.export(
            Exported(body.model.float(), list(example), loader["output"]).eval(),
            tuple(example.values()),
            str(file),
            input_names=list(example),
            output_names=["output"],
            dynamo=True,
            dynamic_shapes=(tuple(free for _ in example),),
            # Beside the file: sessions then read one copy of it in the system's cache instead of having one each.
            external_data=True,
            verbose=False,
        )


def agrees(body: torch.nn.Module, loader: JsonObject, file: Path) -> bool:
    """Whether the file computes what the model does, where nothing is padded."""
    import onnxruntime

    example = _example(body, loader)
    with torch.inference_mode():
        expected = Exported(body.model.eval().float(), list(example), loader["output"])(*example.values()).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: array.numpy() for name, array in example.items()})
    if output.shape[:2] == example["attention_mask"].shape:
        kept = example["attention_mask"].numpy().astype(bool)
        output, expected = output[kept], expected[kept]
    return bool(np.allclose(output, expected, rtol=1e-3, atol=1e-3))


def main() -> None:
    logging.disable(logging.WARNING)
    convert(json.load(sys.stdin))


def convert(job: JsonObject) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        complete(Path(job["place"]) / EXPORTED, lambda file: export(job["folder"], job["loader"], file))


if __name__ == "__main__":
    main()
