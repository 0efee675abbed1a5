"""Three kinds of vectors of one pass: one for the text, weights for its words, and one for each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cluster import errors
from cluster.worker.family import Params, Setup
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.tokenizing import ENGINES, Encoded
from deployments.vectors import Floats, Ints, Rows, SparseRows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DENSE, SPARSE, TOKENS = "sentence_embedding", "token_weights", "token_vectors"
#: Ability -> what it reads of texts, and what of tokens.
READS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "": ([DENSE], []),
    "embed_sparse": ([], [SPARSE]),
    "embed_tokens": ([], [TOKENS]),
    "embed_all": ([DENSE], [SPARSE, TOKENS]),
}


class BgeM3(SentenceTransformers):
    #: Without the name of the library, which runs the model with its one vector per text.
    engines: ClassVar[tuple[str, ...]] = ("bge_m3", *(name for name in ENGINES if name != "sentence_transformers"))
    abilities: ClassVar[tuple[str, ...]] = (
        "embed",
        "embed_sparse",
        "embed_tokens",
        "embed_all",
        "tokenize",
        "decode",
        "tokens",
    )

    def run(self, batch: Sequence[Encoded]) -> Sequence[object]:
        want = batch[0].want
        rows = self._pipeline.several(batch, *READS[want])
        outputs: list[object] = []
        for encoded, features in zip(batch, rows, strict=True):
            if not all(np.isfinite(array).all() for array in features.values()):
                outputs.append(errors.BadRequest("the model gives no finite answer to it.", "input"))
                continue
            kinds: dict[str, object] = {}
            if DENSE in features:
                kinds["dense"] = features[DENSE]
            if SPARSE in features:
                kinds["sparse"] = self._weights(encoded, features[SPARSE])
            if TOKENS in features:
                # The first token stands for the whole text, not for a word of it.
                kinds["tokens"] = features[TOKENS][1:]
            outputs.append(kinds if want == "embed_all" else next(iter(kinds.values())))
        return outputs

    def pack(self, outputs: list[Any], params: Params) -> object:
        if outputs and isinstance(outputs[0], dict):
            return {kind: self.pack([output[kind] for output in outputs], params) for kind in params["kinds"]}
        if outputs and isinstance(outputs[0], tuple):
            return SparseRows.of(outputs)
        if outputs and outputs[0].ndim == 2:
            return Rows.of(outputs)
        return super().pack(outputs, params)

    def _weights(self, encoded: Encoded, weights: Floats) -> tuple[Ints, Floats]:
        """A word's weight is the largest that it has anywhere in the text."""
        ids, places = np.unique(np.asarray(encoded.ids, dtype=np.int32), return_inverse=True)
        largest = np.zeros(len(ids), np.float32)
        np.maximum.at(largest, places, weights)
        kept = (largest > 0) & ~np.isin(ids, self._unused)
        return ids[kept], largest[kept]

    def _complete(self, setup: Setup, model: SentenceTransformer) -> None:
        from deployments.text.encoders.heads import SeveralKinds, small_state

        parts = (
            small_state(setup.folder, name, setup.entry.name, setup.allow_pickle)
            for name in ("sparse_linear", "colbert_linear")
        )
        model.append(SeveralKinds(*parts).to(model.device, next(model.parameters()).dtype))
        self._unused = model.tokenizer.all_special_ids
