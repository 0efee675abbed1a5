"""Rerankers that read query and documents apart and compare their tokens: documents seen before cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from cluster import errors
from cluster.worker.family import Example, Params, Prepared, Setup
from deployments.text.facts import RerankFacts
from deployments.text.late_interaction import LateTexts, identity_of
from deployments.text.models import TextOptions
from deployments.text.rerank.requests import EXAMPLE, query_of, refuse_instruction, text_of
from deployments.text.tokenizing import Encoded
from deployments.vectors import Floats


class LateRerankOptions(TextOptions):
    long_documents: str = Field(
        default="truncate",
        pattern="^(truncate|error)$",
        description="What is done with a document that does not fit: cut it, or refuse it.",
    )


class LateRerankers(LateTexts):
    abilities: ClassVar[tuple[str, ...]] = ("rerank",)
    Options: ClassVar[type[BaseModel]] = LateRerankOptions
    example: Example = EXAMPLE

    def load(self, setup: Setup) -> RerankFacts:
        kind = setup.entry.facts.get("type", "late interaction")
        return super().load(setup).extended(RerankFacts, type=kind)

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        query = query_of(params)
        refuse_instruction(params)
        policy = params.get("long_documents") or self._options.long_documents
        if policy == "chunk":
            raise errors.BadRequest("This model does not read documents in parts.", "long_documents")
        cut = {"truncate": "NONE" if policy == "error" else params.get("truncate", True)}
        documents = self.read("document", [text_of(item) for item in items], cut)
        most = params.get("max_tokens_per_doc")
        values = [*self.read("query", [query], {}), *(_cut(value, most) for value in documents)]
        identities = [identity_of(value) for value in values]
        return Prepared(values, [len(value) for value in values], identities=identities, join=scores_of)

    def pack(self, outputs: list[Floats], params: Params) -> Floats:
        return np.asarray(outputs, dtype=np.float32)


def scores_of(outputs: list[Floats]) -> list[np.float32]:
    """For each document, the nearness of each of the query's tokens to the nearest of the document's, summed up."""
    query, *documents = outputs
    return [np.float32((query @ document.T).max(axis=1).sum() if len(document) else 0.0) for document in documents]


def _cut(document: Encoded, most: int | None) -> Encoded:
    """What closes a text is kept."""
    if most is None or len(document) <= most:
        return document
    ids, types = ([*values[: most - 1], values[-1]] for values in (document.ids, document.type_ids))
    return Encoded(ids, types, document.want)
