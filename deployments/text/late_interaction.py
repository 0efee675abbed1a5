"""A vector for every token, of queries and of documents, each read in its own way: as in ColBERT and similar models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cluster import errors
from cluster.worker.family import Params, Setup
from deployments.text.models import ROLES, Texts
from deployments.text.tokenizing import Encoded, TextEncoder
from deployments.vectors import Arrays, Floats, refused_unless_finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


@dataclass(frozen=True)
class Expansion:
    """Queries are filled up with a token, usually the mask, whose vectors take part in the comparison."""

    token: int
    length: int
    #: Longer queries are cut to that length.
    is_fixed: bool
    #: Whether the words of the query see the tokens it was filled up with.
    is_seen: bool

    @classmethod
    def of(cls, body: nn.Module) -> Expansion | None:
        expansion = getattr(body, "query_expansion", None)
        if expansion is None:
            return None
        words = body.tokenizer
        token = words.mask_token_id if words.mask_token_id is not None else words.eos_token_id
        if expansion["token"] is not None:
            token = words.convert_tokens_to_ids(expansion["token"])
        return cls(int(token), expansion["length"], expansion["strategy"] == "fixed", expansion["attend"])

    def filled(self, query: Encoded) -> Encoded:
        missing = self.length - len(query)
        if missing <= 0:
            return query
        return replace(query, ids=[*query.ids, *[self.token] * missing], type_ids=[*query.type_ids, *[0] * missing])

    def amend(self, arrays: Arrays) -> Arrays:
        """Fills the padding of queries instead, for models whose words must not attend to what is filled in."""
        mask = arrays["attention_mask"]
        missing = max(0, self.length - mask.shape[1])
        wide = {name: np.pad(array, ((0, 0), (0, missing))) for name, array in arrays.items()}
        places = (wide["attention_mask"] == 0) & (np.arange(mask.shape[1] + missing) < self.length)
        wide["input_ids"] = np.where(places, self.token, wide["input_ids"])
        return {**wide, "query_expansion_positions": places}


class LateTexts(Texts):
    kind: ClassVar[str] = "MultiVectorEncoder"
    output: ClassVar[str] = "token_embeddings"

    def run(self, batch: Sequence[Encoded]) -> list[Floats | errors.BadRequest]:
        """Queries and documents of a batch are a pass each."""
        outputs: dict[int, Floats | errors.BadRequest] = {}
        for role in ("query", "document"):
            indices = [index for index, text in enumerate(batch) if text.want == role]
            fills = role == "query" and self._expansion is not None and not self._expansion.is_seen
            amend = self._expansion.amend if fills and self._expansion else None
            vectors = self._pipeline.token_vectors([batch[index] for index in indices], task=role, amend=amend)
            for index, output in zip(indices, refused_unless_finite(vectors), strict=True):
                outputs[index] = output
        return [outputs[index] for index in range(len(batch))]

    def read(self, role: str, items: Sequence[object], params: Params) -> list[Encoded]:
        params = {"prompt_name": role, **params}
        encoder = self._query_encoder if role == "query" else None
        texts = [replace(text, want=role) for text in self._encoded(items, params, encoder)]
        if role == "query" and self._expansion is not None and self._expansion.is_seen:
            return [self._expansion.filled(text) for text in texts]
        return texts

    def _complete(self, setup: Setup, model: SentenceTransformer) -> None:
        body = model[0]
        self._expansion = Expansion.of(body)
        longest = model.max_seq_length or setup.entry.max_tokens or 512
        is_fixed = self._expansion is not None and self._expansion.is_fixed
        length = self._expansion.length if self._expansion and is_fixed else getattr(body, "query_length", None)
        self._query_encoder = TextEncoder(model.tokenizer, min(longest, length or longest))
        if getattr(body, "document_length", None):
            model.max_seq_length = min(longest, body.document_length)


def role_of(params: Params) -> str:
    """A text is a document unless it is said to be a query."""
    return "query" if ROLES.get(str(params.get("prompt_name"))) == "query" else "document"


def identity_of(one: Encoded) -> tuple[str, bytes]:
    return one.want, one.identity
