"""Rerankers that read query and document together, scored in fp32; the query is encoded once per request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel

from cluster import errors
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Batched, Example, Params, Prepared, Prospect, Setup
from deployments.text import loading
from deployments.text.facts import RerankFacts
from deployments.text.needs import encoder_plan_of
from deployments.text.rerank.requests import EXAMPLE, RerankOptions, best_of, query_of, refuse_instruction, text_of
from deployments.text.tokenizing import ENGINES, Encoded, TextEncoder, truncation_of
from deployments.vectors import Floats, refused_unless_finite, sigmoid

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder
    from transformers import PreTrainedTokenizerFast


class CrossEncoders(Batched):
    engines: ClassVar[tuple[str, ...]] = (*ENGINES, "cross_encoder")
    abilities: ClassVar[tuple[str, ...]] = ("rerank",)
    Options: ClassVar[type[BaseModel]] = RerankOptions
    example: Example = EXAMPLE
    #: What every pass of the model is given beside the texts.
    constants: ClassVar[JsonObject] = {}

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return super().plan(prospect) if prospect.on_card else encoder_plan_of(prospect, cls.number_format(prospect))

    def load(self, setup: Setup) -> RerankFacts:
        options = setup.options
        self._options = options

        def encoder_for(model: CrossEncoder) -> TextEncoder:
            if model.num_labels != 1:
                raise errors.LoadFailed(
                    f"{setup.entry.name} has {model.num_labels} labels; a reranker has one score. "
                    "Launch it with model_type classify."
                )
            self._is_sigmoid = type(model.activation_fn).__name__ == "Sigmoid"
            limit = min(model.max_seq_length or 512, setup.entry.max_tokens or 10**9)
            return self._encoder_of(model.tokenizer, min(limit, options.max_tokens or limit))

        self._pipeline, self.pace, facts = loading.start(
            type(self), setup, "CrossEncoder", "scores", encoder_for, sample=self._sample
        )
        self._encoder: TextEncoder = self._pipeline.encoder
        self.largest = Example([loading.LONG_TEXT], {**EXAMPLE.params, "long_documents": "truncate"}, "rerank")
        return facts.extended(RerankFacts, type=setup.entry.facts.get("type", "normal"))

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        query = query_of(params)
        values, parts = self._read(query, [text_of(item) for item in items], params)
        tokens = [len(value) for value in values]
        identities = [value.identity for value in values]
        return Prepared(values, tokens, identities=identities, join=None if parts is None else best_of(parts))

    def run(self, batch: Sequence[Encoded]) -> Sequence[object]:
        return refused_unless_finite(self._pipeline.vectors(batch, **self.constants))

    def pack(self, outputs: list[Floats], params: Params) -> Floats:
        logits = np.asarray(outputs, dtype=np.float32).reshape(-1)
        return logits if params.get("raw_scores") or not self._is_sigmoid else sigmoid(logits)

    def set_threads(self, threads: int) -> None:
        self._pipeline.set_threads(threads)

    def _encoder_of(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> TextEncoder:
        return TextEncoder(tokenizer, max_tokens)

    def _sample(self, encoder: TextEncoder) -> list[Encoded]:
        return loading.pair_sample(encoder)

    def _read(self, query: str, documents: Sequence[str], params: Params) -> tuple[list[Encoded], list[int] | None]:
        """The query beside each document, and of how many parts each document is when they are read in parts."""
        refuse_instruction(params)
        policy = params.get("long_documents") or self._options.long_documents
        most = params.get("max_tokens_per_doc")
        if policy == "chunk":
            return self._encoder.encode_chunks(query, documents, most)
        truncate = "NONE" if policy == "error" else truncation_of(params)
        return self._encoder.encode_pairs(query, documents, truncate, most), None
