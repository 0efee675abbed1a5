"""Token ids that come in place of a text: whose they are is said by the launch or the request, and never guessed.

Clients of OpenAI count tokens with its vocabulary and some send those ids, LangChain's by default; clients of vLLM send
the model's own. Both are numbers, and either read as the other gives vectors of other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from cluster import errors
from cluster.names import quoted
from cluster.worker.family import Params

if TYPE_CHECKING:
    from tiktoken import Encoding


def _spelled(value: object) -> object:
    return "cl100k_base" if value == "cl100k" else value


Vocabulary = Annotated[Literal["model", "cl100k_base"], BeforeValidator(_spelled)]
_VOCABULARY: TypeAdapter[Literal["model", "cl100k_base"]] = TypeAdapter(Vocabulary)


def vocabulary_of(params: Params, launched: Literal["model", "cl100k_base"] | None) -> Literal["model", "cl100k_base"]:
    """Whose ids the lists of a request are."""
    vocabulary = params.get("token_ids")
    if vocabulary is not None:
        try:
            return _VOCABULARY.validate_python(vocabulary)
        except ValidationError:
            raise errors.BadRequest(
                f"token_ids takes model or cl100k_base, not {quoted(vocabulary)}.", "token_ids"
            ) from None
    if launched is None:
        raise errors.BadRequest(
            "The input is token ids, and nothing says of which vocabulary: launch the model with token_ids=cl100k_base "
            "for clients of OpenAI such as LangChain's or token_ids=model for the model's own, send token_ids with the "
            "request, or send texts (in LangChain: check_embedding_ctx_length=False).",
            "input",
        )
    return launched


def openai_text(ids: Sequence[int]) -> str:
    """The text behind ids of cl100k_base, the vocabulary of OpenAI's embedding models."""
    try:
        return str(_cl100k().decode(list(ids)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise errors.InvalidBody(f"The token ids are not those of cl100k_base: {error}.", "input") from None


@cache
def _cl100k() -> Encoding:
    import tiktoken

    try:
        return tiktoken.get_encoding("cl100k_base")
    except OSError as error:
        raise errors.BadRequest(
            f"The vocabulary cl100k_base is not on this machine and cannot be had ({error}); put it into a folder and "
            "start the server with TIKTOKEN_CACHE_DIR, or send texts.",
            "input",
        ) from None
