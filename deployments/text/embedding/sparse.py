"""Weights for the words of a vocabulary, those in a text and those it implies: SPLADE and similar models."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from cluster import errors
from cluster.worker.family import Example, Params, Setup
from deployments.text.engine_limits import MOST_SPARSE_TOKENS
from deployments.text.facts import EmbeddingFacts
from deployments.text.models import TEXTS, TextOptions, Texts
from deployments.text.tokenizing import Encoded
from deployments.vectors import Floats, Ints, SparseRows, refused_unless_finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

#: What the architectures call the part of a masked language model that gives a weight to every word.
HEADS = ("cls", "lm_head", "vocab_projector", "decoder", "generator_lm_head")


class SparseOptions(TextOptions):
    max_active_dims: int | None = Field(default=None, gt=0, description="Keep that many of the largest weights.")


class SparseEncoders(Texts):
    abilities: ClassVar[tuple[str, ...]] = ("embed_sparse", "tokenize", "decode", "tokens")
    Options: ClassVar[type[BaseModel]] = SparseOptions
    example: Example = Example(TEXTS, {}, "embed_sparse")
    kind: ClassVar[str] = "SparseEncoder"
    answers_in_words: ClassVar[bool] = True

    def load(self, setup: Setup) -> EmbeddingFacts:
        _refuse_untrained(setup)
        facts = super().load(setup)
        self.pace = replace(
            self.pace, batch_tokens=min(self.pace.batch_tokens or MOST_SPARSE_TOKENS, MOST_SPARSE_TOKENS)
        )
        return facts.extended(EmbeddingFacts)

    def run(self, batch: Sequence[Encoded]) -> Sequence[object]:
        rows = refused_unless_finite(self._pipeline.vectors(batch))
        return [row if isinstance(row, Exception) else weights_of(row, self._most) for row in rows]

    def pack(self, outputs: list[tuple[Ints, Floats]], params: Params) -> object:
        return SparseRows.of(outputs)

    def _complete(self, setup: Setup, model: SentenceTransformer) -> None:
        first = type(model[0]).__name__
        if not hasattr(model[0], "model"):
            raise errors.LoadFailed(f"{setup.entry.name} begins with a {first}, and only transformers can be run.")
        _weigh_exactly(model[0].model)
        self._most = setup.options.max_active_dims or model.max_active_dims

    def _check(self, params: Params) -> None:
        if params.get("dimensions") is not None:
            raise errors.BadRequest("Sparse weights have no dimensions to cut.", "dimensions")


def weights_of(row: Floats, most: int | None = None) -> tuple[Ints, Floats]:
    """The words with a weight, ascending."""
    places = np.flatnonzero(row > 0)
    if most is not None and len(places) > most:
        places = np.sort(places[np.argpartition(-row[places], most - 1)[:most]])
    return places.astype(np.int32), row[places].astype(np.float32)


def _weigh_exactly(model: nn.Module) -> None:
    """Keeps what turns a token into weights in full precision: their logarithm makes much of small differences."""
    head = next((getattr(model, name) for name in HEADS if hasattr(model, name)), None)
    if head is None or str(model.dtype) == "torch.float32":
        return
    # Its embeddings are shared with the body and keep their format.
    name = next(name for name in HEADS if getattr(model, name, None) is head)
    exact = copy.deepcopy(head).float()
    exact.register_forward_pre_hook(lambda module, given: (given[0].float(), *given[1:]))
    setattr(model, name, exact)


def _refuse_untrained(setup: Setup) -> None:
    """sentence-transformers puts a head of random weights on a model that has none."""
    if (setup.folder / "modules.json").exists():
        return
    config = json.loads((setup.folder / "config.json").read_text())
    if not any(name.endswith("ForMaskedLM") for name in config.get("architectures") or ()):
        raise errors.LoadFailed(
            f"{setup.entry.name} is not a sparse encoder: it has neither modules.json nor a masked language model."
        )
