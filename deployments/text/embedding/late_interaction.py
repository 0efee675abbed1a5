"""A vector for every token of a text: ColBERT models, whose vectors are compared token by token later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cluster import errors
from cluster.worker.family import Example, Params, Prepared, Setup
from deployments.text.facts import EmbeddingFacts
from deployments.text.late_interaction import LateTexts, identity_of, role_of
from deployments.text.models import TEXTS
from deployments.vectors import Floats, Rows


class LateInteraction(LateTexts):
    abilities: ClassVar[tuple[str, ...]] = ("embed_tokens", "tokenize", "decode", "tokens")
    example: Example = Example(TEXTS, {}, "embed_tokens")

    def load(self, setup: Setup) -> EmbeddingFacts:
        facts = super().load(setup)
        (size,) = self.run(self.read("document", ["size"], {}))
        if isinstance(size, errors.BadRequest):
            raise size
        return facts.extended(EmbeddingFacts, dimensions=int(size.shape[1]))

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        if ability != "embed_tokens":
            return super().prepare(ability, items, params)
        if params.get("dimensions") is not None:
            raise errors.BadRequest("The vectors of tokens cannot be cut.", "dimensions")
        values = self.read(role_of(params), items, params)
        return Prepared(values, [len(value) for value in values], identities=[identity_of(value) for value in values])

    def pack(self, outputs: list[Floats], params: Params) -> object:
        return Rows.of(outputs)
