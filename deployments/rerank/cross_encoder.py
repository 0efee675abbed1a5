"""Rerankers that read query and document together, scored in fp32; the query is encoded once per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from cluster import errors
from cluster.family import Example, Pace, Prepared, Setup
from deployments.device import library_arguments, torch_for
from deployments.text import ENGINES, Encoded, EncoderOptions, TextEncoder, truncation_of
from deployments.vectors import refused_unless_finite


class RerankOptions(EncoderOptions):
    long_documents: str = Field(
        default="truncate",
        pattern="^(truncate|error|chunk)$",
        description="What is done with a document that does not fit: cut it, refuse it, or take its best part.",
    )


class CrossEncoders:
    engines: ClassVar[tuple[str, ...]] = (*ENGINES, "cross_encoder")
    abilities: ClassVar[tuple[str, ...]] = ("rerank",)
    Options: ClassVar[type[BaseModel]] = RerankOptions
    example: ClassVar[Example] = Example(
        ["The moon pulls the sea.", "Bread needs salt."], {"query": "Why tides?"}, "rerank"
    )
    pace: Pace

    def load(self, setup: Setup) -> Mapping[str, Any]:
        torch = torch_for(setup)
        from deployments.encoders import engines

        setup.report(0.3)
        options: RerankOptions = setup.options
        self._options = options

        def encoder_for(model: Any) -> TextEncoder:
            if model.num_labels != 1:
                raise errors.LoadFailed(f"{setup.entry.name} has {model.num_labels} labels; a reranker has one score.")
            self._is_sigmoid = isinstance(model.activation_fn, torch.nn.Sigmoid)
            limit = min(model.max_seq_length or 512, setup.entry.max_tokens or 10**9)
            return TextEncoder(model.tokenizer, min(limit, options.max_tokens or limit))

        def sample(encoder: TextEncoder) -> list[Encoded]:
            return [one for text in engines.QUESTIONS for one in encoder.encode_pairs(text, engines.PASSAGES[::3])]

        recipe = engines.Recipe("CrossEncoder", library_arguments(setup), "scores")
        self._pipeline, told = engines.start(
            engines.Launch(
                setup,
                recipe,
                encoder_for,
                sample,
                options.torch_dtype,
                options.attn_implementation,
                options.min_cosine,
                options.min_rank,
            )
        )
        setup.report(0.9)
        self._encoder = self._pipeline.encoder
        self.pace = engines.pace_of(self._pipeline, setup)
        return {
            "max_tokens": self._encoder.max_tokens,
            "type": setup.entry.facts.get("type", "normal"),
            "dtype": str(self._pipeline.dtype).removeprefix("torch."),
            "packed": self._pipeline.packs,
            **told,
        }

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        query = params.get("query")
        if not isinstance(query, str):
            raise errors.InvalidBody("A rerank request needs a query, which is a text.", None, "query")
        documents = [_text_of(item) for item in items]
        policy = params.get("long_documents") or self._options.long_documents
        truncate = "NONE" if policy == "error" else truncation_of(params)
        most = params.get("max_tokens_per_doc")
        if policy == "chunk":
            values, parts = self._encoder.encode_chunks(query, documents, most)
        else:
            values, parts = self._encoder.encode_pairs(query, documents, truncate, most), None
        tokens = [len(one) for one in values]
        identities = [one.identity for one in values]
        return Prepared(values, tokens, identities=identities, join=None if parts is None else _best_of(parts))

    def run(self, batch: Sequence[Encoded]) -> Sequence[Any]:
        return refused_unless_finite(self._pipeline.vectors(batch))

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        logits = np.asarray(outputs, dtype=np.float32).reshape(-1)
        if params.get("raw_scores") or not self._is_sigmoid:
            return logits
        # In fp32 whatever the model computes in: half precision makes ties at the top.
        return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)

    def set_threads(self, threads: int) -> None:
        self._pipeline.set_threads(threads)


def _best_of(parts: Sequence[int]) -> Any:
    """The score of a document that was read in parts is that of its best part."""

    def join(outputs: list[Any]) -> list[Any]:
        ends = np.cumsum(parts)
        return [max(outputs[end - count : end], key=float) for end, count in zip(ends, parts, strict=True)]

    return join


def _text_of(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    raise errors.InvalidBody(
        f"A document is a text or an object with `text`, not {type(item).__name__}.", None, "documents"
    )
