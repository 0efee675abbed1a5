"""What all rerankers share: options, and how a request is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from cluster import errors
from cluster.worker.family import Example, Params
from deployments.text.tokenizing import EncoderOptions
from deployments.vectors import Floats

#: What language models are told before they are asked. Qwen's rerankers of texts and of pictures were trained with it.
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
EXAMPLE = Example(["The moon pulls the sea.", "Bread needs salt."], {"query": "Why tides?"}, "rerank")


class RerankOptions(EncoderOptions):
    long_documents: str = Field(
        default="truncate",
        pattern="^(truncate|error|chunk)$",
        description="What is done with a document that does not fit: cut it, refuse it, or take its best part.",
    )


def query_of(params: Params) -> str:
    query = params.get("query")
    if not isinstance(query, str):
        raise errors.InvalidBody("A rerank request needs a query, which is a text.", "query")
    return query


def refuse_instruction(params: Params) -> None:
    """For models that are no language models."""
    if params.get("instruction") is not None:
        raise errors.BadRequest("This model takes no instruction; leave it out.", "instruction")


def text_of(item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    raise errors.InvalidBody(f"A document is a text or an object with `text`, not {type(item).__name__}.", "documents")


def best_of(parts: Sequence[int]) -> Callable[[list[Floats]], list[Floats]]:
    """Gives a document that was read in parts the score of its best part."""

    def join(outputs: list[Floats]) -> list[Floats]:
        ends = np.cumsum(parts)
        return [max(outputs[end - count : end], key=np.max) for end, count in zip(ends, parts, strict=True)]

    return join
