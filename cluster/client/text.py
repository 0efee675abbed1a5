"""The calls and handles of models of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.client.http import Steps, ask, call, without_nones
from cluster.client.model import AsyncModel, Model, ModelCalls
from cluster.value import JsonObject


class TextCalls(ModelCalls):
    """The calls of models of text; a model answers those that it is able to."""

    model_type = "classify"
    abilities = frozenset({"classify"})

    @call
    def classify(self, /, input: str | Sequence[str], **fields: object) -> Steps[JsonObject]:
        """Each text's labels and scores, best first."""
        return ask("POST", "/classify", body={"model": self.uid, "input": input, **fields})

    @call
    def score(self, /, text_1: str | Sequence[str], text_2: str | Sequence[str], **fields: object) -> Steps[JsonObject]:
        """How well each text on one side fits its partner; a single text is paired with all of the other side."""
        return ask("POST", "/v1/score", body={"model": self.uid, "text_1": text_1, "text_2": text_2, **fields})

    @call
    def similarity(self, /, sentence: str, others: Sequence[str], **parameters: object) -> Steps[list[float]]:
        """Cosines between one sentence and others."""
        inputs = {"source_sentence": sentence, "sentences": others}
        return ask("POST", "/similarity", body={"model": self.uid, "inputs": inputs, "parameters": parameters})

    @call
    def tokenize(self, /, input: str | Sequence[str], **fields: object) -> Steps[list[list[JsonObject]]]:
        """Each text's tokens: id, text, where it starts and stops, whether it is special."""
        return ask("POST", "/tokenize", body={"model": self.uid, "inputs": input, **fields})

    @call
    def decode(self, /, ids: Sequence[int] | Sequence[Sequence[int]], **fields: object) -> Steps[list[str]]:
        """The text of each list of token ids."""
        return ask("POST", "/decode", body={"model": self.uid, "ids": ids, **fields})

    @call
    def convert_ids_to_tokens(
        self, /, input: Sequence[int] | Sequence[Sequence[int]], **fields: object
    ) -> Steps[list[Any]]:
        """The token of each id, as a list of tokens or, for several lists of ids, a list of such lists."""
        body = {"model": self.uid, "input": input, **fields}
        return ask("POST", "/v1/convert_ids_to_tokens", body=body)


class EmbeddingCalls(TextCalls):
    model_type = "embedding"
    abilities = frozenset({"embed", "embed_sparse", "embed_tokens"})

    @call
    def create_embedding(self, /, input: object, **fields: object) -> Steps[JsonObject]:
        """Vectors of a text or several, as OpenAI's embeddings answer has them."""
        return ask("POST", "/v1/embeddings", body={"model": self.uid, "input": input, **fields})

    @call
    def embed_sparse(self, /, input: object, **fields: object) -> Steps[JsonObject]:
        """Weights of vocabulary words by their token id: each row's `embedding`."""
        body = {"model": self.uid, "input": input, "return_sparse": True, **fields}
        return ask("POST", "/v1/embeddings", body=body)

    @call
    def embed_tokens(self, /, input: object, **fields: object) -> Steps[JsonObject]:
        """A vector for each token: each row's `embeddings`."""
        body = {"model": self.uid, "input": input, "return_multivector": True, **fields}
        return ask("POST", "/v1/embeddings", body=body)


class RerankCalls(TextCalls):
    model_type = "rerank"
    abilities = frozenset({"rerank"})

    @call
    def rerank(
        self,
        /,
        documents: Sequence[str | Mapping[str, object]],
        query: str | Mapping[str, object],
        top_n: int | None = None,
        max_chunks_per_doc: int | None = None,
        return_documents: bool | None = None,
        return_len: bool | None = None,
        **fields: object,
    ) -> Steps[JsonObject]:
        """The documents' indices and scores, best first."""
        options = {
            "top_n": top_n,
            "max_chunks_per_doc": max_chunks_per_doc,
            "return_documents": return_documents,
            "return_len": return_len,
        }
        body = {"model": self.uid, "query": query, "documents": documents, **without_nones(options), **fields}
        return ask("POST", "/v1/rerank", body=body)


class TextModel(TextCalls, Model):
    pass


class AsyncTextModel(TextCalls, AsyncModel):
    pass


class EmbeddingModel(EmbeddingCalls, Model):
    pass


class AsyncEmbeddingModel(EmbeddingCalls, AsyncModel):
    pass


class RerankModel(RerankCalls, Model):
    pass


class AsyncRerankModel(RerankCalls, AsyncModel):
    pass
