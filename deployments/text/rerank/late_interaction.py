"""Rerankers that read query and documents apart and compare their tokens: documents seen before cost nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from cluster import errors
from cluster.worker.family import Example, Prepared, Setup
from deployments.text.facts import RerankFacts
from deployments.text.late_interaction import LateTexts, identity_of
from deployments.text.models import TextOptions
from deployments.text.rerank.requests import EXAMPLE, query_of, text_of
from deployments.text.tokenizing import Encoded


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

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        query = query_of(params)
        policy = params.get("long_documents") or self._options.long_documents
        if policy == "chunk":
            raise errors.BadRequest("This model does not read documents in parts.", "long_documents")
        cut = {"truncate": "NONE" if policy == "error" else params.get("truncate", True)}
        documents = self.read("document", [text_of(item) for item in items], cut)
        most = params.get("max_tokens_per_doc")
        values = [*self.read("query", [query], {}), *(_cut(one, most) for one in documents)]
        identities = [identity_of(one) for one in values]
        return Prepared(values, [len(one) for one in values], identities=identities, join=scores_of)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return np.asarray(outputs, dtype=np.float32)


def scores_of(outputs: list[Any]) -> list[Any]:
    """For each document, the nearness of each of the query's tokens to the nearest of the document's, summed up."""
    query, *documents = outputs
    return [np.float32((query @ one.T).max(axis=1).sum() if len(one) else 0.0) for one in documents]


def _cut(document: Encoded, most: int | None) -> Encoded:
    """What closes a text is kept."""
    if most is None or len(document) <= most:
        return document
    ids, types = ([*values[: most - 1], values[-1]] for values in (document.ids, document.type_ids))
    return Encoded(ids, types, document.want)
