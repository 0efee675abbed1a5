"""A query and a document, each a text, a picture or both, as the tokens in which a vision-language model is asked
whether one answers the other. The words around them are those that Qwen3-VL-Reranker was trained with, in the order of
its authors' `scripts/qwen3_vl_reranker.py`.

Pictures stay files here: only their sizes are looked at, which say how many tokens they take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from deployments import pictures
from deployments.text.rerank.requests import JUDGE
from deployments.text.tokenizing import Encoded, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
DOCUMENT = "<Document>:"
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")


class SeenSize(NamedTuple):
    """The size in which the model reads a picture, and the number of tokens that stand for it."""

    width: int
    height: int
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class JudgedPicture:
    data: bytes
    size: SeenSize
    #: Whose it is, in errors.
    owner: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class JudgedSide:
    """One side of the pair."""

    text: str | None
    picture: JudgedPicture | None


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A query beside a document, with the pictures that stand among the tokens, in their order."""

    tokens: Encoded
    pictures: Sequence[JudgedPicture]

    @property
    def identity(self) -> tuple[bytes, ...]:
        """Equal for pairs that the model cannot tell apart."""
        return (self.tokens.identity, *(picture.digest for picture in self.pictures))


def judged(value: object, where: str, owner: str, param: str, seen: Callable[[int, int], SeenSize]) -> JudgedSide:
    """A text, or an object with `text`, with `image`, or with both. `seen`: in which size a picture of some width and
    height is read; ValueError for those that the model does not read."""
    if isinstance(value, str):
        return JudgedSide(value, None)
    text, data = (value.get("text"), value.get("image")) if isinstance(value, dict) else (None, None)
    if not isinstance(text, str | None) or not isinstance(data, bytes | None) or (text is None and data is None):
        raise errors.InvalidBody(f"{where} is neither a text nor an object with `text`, `image` or both.", param)
    if data is None:
        return JudgedSide(text, None)
    size = pictures.size_of(data, where, param)
    try:
        picture = JudgedPicture(data, seen(*size), owner, blake2b(data, digest_size=16).digest())
    except ValueError as error:
        raise errors.BadRequest(f"{where} is a picture that the model does not read: {error}.", param) from None
    return JudgedSide(text, picture)


class JudgingPrompt:
    """Puts pairs into tokens. Nothing in a caller's text is taken for a mark of the model's, such as that of a
    picture or the end of a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
        tokenizer.backend_tokenizer.encode_special_tokens = True
        self.encoder = TextEncoder(tokenizer, max_tokens)
        start, end, before, self.mark, after = (tokenizer.convert_tokens_to_ids(name) for name in MARKS)
        self._around = before, after
        system, line, turn, self._document = self._ids([f"system\n{JUDGE}", "\n", "assistant\n", DOCUMENT])
        self._opening = [start, *system, end, *line, start]
        self._closing = [end, *line, start, *turn]

    def of(
        self, query: JudgedSide, documents: Sequence[JudgedSide], instruction: str, truncate: str, most: int | None
    ) -> list[JudgedPair]:
        """`truncate` is START, END or NONE, as for other texts. Of a document only its text is cut. `most`: tokens of
        it that are kept."""
        head = [*self._opening, *self._asked(query, instruction)]
        texts = [document.text or "" for document in documents]
        read = self.encoder.cut(texts, self.encoder.max_tokens, truncate == "START")
        # Together, since the mark before it and a text that begins with punctuation share a token.
        rows = self._ids(
            [text if document.picture else DOCUMENT + text for text, document in zip(read, documents, strict=True)]
        )
        pairs = []
        for place, (document, ids) in enumerate(zip(documents, rows, strict=True)):
            begun = len(self._document)
            if document.picture is None:
                fixed, text = [*head, *ids[:begun]], ids[begun:]
            else:
                fixed, text = [*head, *self._document, *self._marks(document.picture)], ids
            around = len(fixed) + len(self._closing)
            self._refuse_full(place, around)
            if truncate == "NONE":
                self.encoder.refuse_long(place, around + len(text), read[place] is not texts[place])
            kept = min(len(text), self.encoder.max_tokens - around, most or len(text))
            text = text[len(text) - kept :] if truncate == "START" else text[:kept]
            tokens = [*fixed, *text, *self._closing]
            pictures = [side.picture for side in (query, document) if side.picture is not None]
            pairs.append(JudgedPair(Encoded(tokens, [0] * len(tokens)), pictures))
        return pairs

    def _asked(self, query: JudgedSide, instruction: str) -> list[int]:
        instruction, text = self.encoder.cut([instruction, query.text or ""], self.encoder.max_tokens)
        before = f"user\n<Instruct>: {instruction}<Query>:"
        # What follows begins with a bracket on a line of its own, which no tokenizer joins with what is before it.
        if query.picture is None:
            (ids,) = self._ids([f"{before}{text}\n"])
            return [*ids]
        first, second = self._ids([before, f"{text}\n"])
        return [*first, *self._marks(query.picture), *second]

    def _marks(self, picture: JudgedPicture) -> list[int]:
        before, after = self._around
        return [before, *[self.mark] * picture.size.tokens, after]

    def _ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        rows = self.encoder.ids_of(texts)
        if any(self.mark in row for row in rows):
            raise errors.BadRequest("A text holds the token that stands for pictures; take it out.", "documents")
        return rows

    def _refuse_full(self, place: int, around: int) -> None:
        if around > self.encoder.max_tokens:
            raise errors.InputTooLong(
                f"Input {place} leaves no room for its text: with the query, the instruction and the pictures it has "
                f"{around} tokens, the model reads {self.encoder.max_tokens}; shorten them, or launch the model with "
                "smaller max_pixels.",
                "documents",
            )
