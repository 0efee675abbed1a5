"""Language models as rerankers: asked whether a document answers a query, how much likelier yes is than no.

The words around query and document are those that Qwen3-Reranker was trained with. See its model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from cluster import errors
from cluster.value import JsonObject
from cluster.worker.family import Params
from deployments.text.rerank.cross_encoder import CrossEncoders
from deployments.text.rerank.requests import JUDGE, RerankOptions
from deployments.text.sample import PASSAGES, QUESTIONS
from deployments.text.tokenizing import ENGINES, Encoded, TextEncoder, truncation_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEFORE = f"<|im_start|>system\n{JUDGE}<|im_end|>\n<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class CausalOptions(RerankOptions):
    instruction: str = Field(default=INSTRUCTION, description="What a document is to be judged by.")


class CausalScorers(CrossEncoders):
    engines: ClassVar[tuple[str, ...]] = (*ENGINES, "causal")
    Options: ClassVar[type[BaseModel]] = CausalOptions
    #: The model computes logits over its vocabulary for the last token only.
    constants: ClassVar[JsonObject] = {"logits_to_keep": 1}

    def _encoder_of(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> TextEncoder:
        words = tokenizer.backend_tokenizer
        self._before, self._after = (tokenizer.encode(text, add_special_tokens=False) for text in (BEFORE, AFTER))
        # A caller's text may hold the same marks, which are letters there: a document that ended its turn could say
        # itself that it answers the query.
        marks = [token for token in words.get_added_tokens_decoder().values() if token.content in BEFORE + AFTER]
        words.add_special_tokens(marks)
        words.encode_special_tokens = True
        return super()._encoder_of(tokenizer, max_tokens)

    def _sample(self, encoder: TextEncoder) -> list[Encoded]:
        self._encoder = encoder
        return [value for text in QUESTIONS for value in self._read(text, PASSAGES[::3], {})[0]]

    def _read(self, query: str, documents: Sequence[str], params: Params) -> tuple[list[Encoded], list[int] | None]:
        instruction = params.get("instruction") or self._options.instruction
        # The text before a document ends at a word boundary, so it is tokenised once and each document by itself.
        (asked,) = self._encoder.ids_of([f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"])
        head, tail = [*self._before, *asked], self._after
        room = self._encoder.max_tokens - len(head) - len(tail)
        if room < 1:
            raise errors.InputTooLong(
                f"The query and the instruction leave no room for a document: they have {len(head)} tokens, the model "
                f"reads {self._encoder.max_tokens}; shorten them.",
                "query",
            )
        policy = params.get("long_documents") or self._options.long_documents
        truncate = "NONE" if policy == "error" else truncation_of(params)
        most = min(room, params.get("max_tokens_per_doc") or room)
        values: list[Encoded] = []
        parts: list[int] = []
        texts = [f" {document}" for document in documents]
        read = texts if policy == "chunk" else self._encoder.cut(texts, self._encoder.max_tokens, truncate == "START")
        for index, ids in enumerate(self._encoder.ids_of(read)):
            if policy == "chunk":
                pieces = [ids[at : at + most] for at in range(0, max(1, len(ids)), most)]
            else:
                if truncate == "NONE":
                    is_cut = read[index] is not texts[index]
                    self._encoder.refuse_long(index, len(head) + len(ids) + len(tail), is_cut)
                pieces = [ids[-most:] if truncate == "START" else ids[:most]]
            inputs = [[*head, *piece, *tail] for piece in pieces]
            values += [Encoded(ids, [0] * len(ids)) for ids in inputs]
            parts.append(len(pieces))
        return values, parts if policy == "chunk" else None
