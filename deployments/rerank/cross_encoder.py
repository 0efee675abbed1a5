"""Rerankers that read query and document together: loaded by sentence-transformers, scored in fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.family import Example, Prepared, Setup
from deployments.device import loading_arguments, torch_for
from deployments.text import Encoded, TextEncoder, passes, truncation_of


class RerankOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_tokens: int | None = Field(default=None, gt=0, description="Read fewer tokens of a pair than the model can.")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None


class CrossEncoders:
    engines: ClassVar[tuple[str, ...]] = ("sentence_transformers", "cross_encoder")
    abilities: ClassVar[tuple[str, ...]] = ("rerank",)
    Options: ClassVar[type[BaseModel]] = RerankOptions
    example: ClassVar[Example] = Example(
        ["The moon pulls the sea.", "Bread needs salt."], {"query": "Why tides?"}, "rerank"
    )

    def load(self, setup: Setup) -> Mapping[str, Any]:
        self._torch = torch_for(setup)
        from sentence_transformers import CrossEncoder

        setup.report(0.3)
        options: RerankOptions = setup.options
        arguments = loading_arguments(setup, options.torch_dtype, options.attn_implementation)
        self._model = CrossEncoder(str(setup.folder), **arguments).eval()
        setup.report(0.9)
        if self._model.num_labels != 1:
            raise errors.LoadFailed(
                f"{setup.entry.name} has {self._model.num_labels} labels; a reranker has one score."
            )
        self._is_sigmoid = isinstance(self._model.activation_fn, self._torch.nn.Sigmoid)
        limit = min(self._model.max_seq_length or 512, setup.entry.max_tokens or 10**9)
        self._encoder = TextEncoder(self._model.tokenizer, min(limit, options.max_tokens or limit))
        return {
            "max_tokens": self._encoder.max_tokens,
            "type": setup.entry.facts.get("type", "normal"),
            "dtype": str(next(self._model.parameters()).dtype).removeprefix("torch."),
        }

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        query = params.get("query")
        if not isinstance(query, str):
            raise errors.InvalidBody("A rerank request needs a query, which is a text.", None, "query")
        values = self._encoder.encode([(query, _text_of(item)) for item in items], truncation_of(params))
        return Prepared(values, [len(one) for one in values])

    def run(self, batch: Sequence[Encoded]) -> Sequence[Any]:
        torch = self._torch
        outputs: list[Any] = [None] * len(batch)
        for positions in passes([len(one) for one in batch]):
            with torch.inference_mode():
                features = {
                    name: torch.from_numpy(array).to(self._model.device)
                    for name, array in self._encoder.features([batch[p] for p in positions]).items()
                }
                logits = self._model(features)["scores"].float().cpu().numpy().reshape(-1)
            for position, logit in zip(positions, logits, strict=True):
                outputs[position] = logit
        return outputs

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        logits = np.asarray(outputs, dtype=np.float32)
        if params.get("raw_scores") or not self._is_sigmoid:
            return logits
        # In fp32 whatever the model computes in: half precision makes ties at the top.
        return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)


def _text_of(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    raise errors.InvalidBody(
        f"A document is a text or an object with `text`, not {type(item).__name__}.", None, "documents"
    )
