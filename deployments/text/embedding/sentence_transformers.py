"""One vector per text: models in the layout of sentence-transformers, run by hand so that callers share batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from cluster import errors
from cluster.worker.family import Params, Setup
from deployments.text.facts import EmbeddingFacts
from deployments.text.models import EmbeddingOptions, Texts
from deployments.text.tokenizing import Encoded
from deployments.vectors import Floats, Rows, refused_unless_finite, unit


class SentenceTransformers(Texts):
    Options: ClassVar[type[BaseModel]] = EmbeddingOptions
    abilities: ClassVar[tuple[str, ...]] = ("embed", "embed_tokens", "tokenize", "decode", "tokens")

    def load(self, setup: Setup) -> EmbeddingFacts:
        facts = super().load(setup)
        self._dimensions = len(self._pipeline.vectors(self._encoder.encode(["size"]))[0])
        dimensions = min(self._options.dimensions or self._dimensions, self._dimensions)
        return facts.extended(EmbeddingFacts, dimensions=dimensions)

    def run(self, batch: Sequence[Encoded]) -> Sequence[object]:
        wants_tokens = bool(batch) and batch[0].want == "embed_tokens"
        outputs = self._pipeline.token_vectors(batch) if wants_tokens else self._pipeline.vectors(batch)
        return refused_unless_finite(outputs)

    def pack(self, outputs: list[Floats], params: Params) -> object:
        if outputs and outputs[0].ndim == 2:
            return Rows.of([self._shaped(matrix, params) for matrix in outputs])
        return self._shaped(np.stack(outputs) if outputs else np.empty((0, self._dimensions), np.float32), params)

    def _shaped(self, vectors: Floats, params: Params) -> Floats:
        dimensions = params.get("dimensions") or self._options.dimensions
        normalize = params.get("normalize", self._options.normalize)
        if dimensions is not None and dimensions < self._dimensions:
            # A cut vector is not of length 1 any more; the model's own convention is kept.
            is_unit = bool(len(vectors)) and abs(float(np.linalg.norm(vectors[0])) - 1) < 1e-3
            vectors = vectors[:, :dimensions]
            normalize = is_unit if normalize is None else normalize
        return np.ascontiguousarray(unit(vectors) if normalize else vectors, dtype=np.float32)

    def _check(self, params: Params) -> None:
        dimensions = params.get("dimensions")
        if dimensions is not None and not 1 <= dimensions <= self._dimensions:
            raise errors.BadRequest(
                f"dimensions must be 1 to {self._dimensions} for this model, not {dimensions}.", "dimensions"
            )
