"""Text in, token ids out: tokenising that any thread may do at any time, and the arrays of one forward pass.

Knows nothing of models beyond their tokenizer.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.worker.family import Params
from deployments.vectors import Arrays

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: What an encoder reads as one input.
TextOrPair: TypeAlias = str | tuple[str, ...]
Item = TypeVar("Item", bound=TextOrPair)

#: Names under which `model_engine` finds what runs text encoders; `auto` measures them and takes the best.
ENGINES = (
    "sentence_transformers",
    "torch",
    "torch_bf16",
    "onnx",
    "onnx_int8",
    "openvino_bf16",
    "openvino_int8",
    "auto",
    # Xinference's name for the library of the bge models, whose vectors are the same.
    "flag",
)

#: Characters of a long text that are read for each token that is needed. If they hold too few tokens, four times as
#: many are read, and so on up to MOST_CHARACTERS: tokenising takes 65 times the memory of the text.
CHARACTERS_PER_TOKEN = 8
MOST_CHARACTERS = 250_000
#: Numbers of tokens to which texts are cut that are kept ready: each is a tokenizer of its own.
SHORTER = 8
#: Tokens that must lie between the last that is kept and the place of the cut, so that the cut does not show.
MARGIN = 64
#: Most characters of a text that has to be tokenised in full.
MOST_WHOLE = 1_000_000
#: Most characters of all texts of a request for tokens, whose answer has a row for each token.
MOST_TOLD = 300_000
#: Characters that are tokenised at a time, on all cores.
GROUP_CHARACTERS = 500_000


class EncoderOptions(BaseModel):
    """Launch options of everything that reads text with an encoder."""

    model_config = ConfigDict(extra="forbid")

    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_tokens: int | None = Field(default=None, gt=0, description="Read fewer tokens of a text than the model can.")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    min_cosine: float = Field(
        default=0.98, gt=0, le=1, description="model_engine=auto: mean cosine to fp32 that an engine must reach."
    )
    min_rank: float = Field(
        default=0.985, gt=0, le=1, description="model_engine=auto: rank correlation with fp32 that it must reach."
    )


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: Sequence[int]
    type_ids: Sequence[int]
    #: Which output is wanted, of models that have several.
    want: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def identity(self) -> bytes:
        """Equal for inputs that a model cannot tell apart."""
        return blake2b(array("q", [*self.ids, *self.type_ids]).tobytes(), digest_size=16).digest()


class TokensOfText(TypedDict):
    """The tokens of one text, and where in the text each stands."""

    ids: list[int]
    tokens: list[str]
    special: list[bool]
    start: list[int]
    stop: list[int]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer puts before, between and after the two texts of a pair, and how it marks them."""

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]
    #: Type of: what is before, the first text, what is between, the second text, what is after.
    types: Sequence[list[int]]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int]) -> Encoded:
        before, first_type, between, second_type, after = self.types
        return Encoded(
            [*self.before, *first, *self.between, *second, *self.after],
            [*before, *first_type * len(first), *between, *second_type * len(second), *after],
        )

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Frame | None:
        """Read from an encoded pair; None when the tokenizer does more than put fixed tokens around the two texts."""
        pair = tokenizer.encode("a b", "c d")
        parts: list[list[int]] = [[], [], [], [], []]
        part = 0
        for index, sequence in enumerate(pair.sequence_ids):
            if sequence is not None:
                part = max(part, 1 + 2 * sequence)
            elif part % 2:
                part += 1
            parts[part].append(index)
        ids = [[pair.ids[index] for index in indices] for indices in parts]
        texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("a b", "c d")]
        types = [[pair.type_ids[index] for index in indices] for indices in parts]
        if [ids[1], ids[3]] != texts or any(len(set(types[index])) > 1 for index in (1, 3)):
            return None
        return cls(ids[0], ids[2], ids[4], [types[0], types[1][:1], types[2], types[3][:1], types[4]])


def copied(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that cuts and fills texts in a way of its own. Both share the vocabulary, which takes 300 MB where it
    has 250,000 words, and which encoding does not change."""
    from tokenizers import Tokenizer

    copy = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(copy, part, getattr(tokenizer, part))
    added = tokenizer.get_added_tokens_decoder()
    copy.add_tokens([added[id] for id in sorted(added)])
    # Added tokens are numbered in their order, which need not be how a file numbers them.
    is_same = copy.get_added_tokens_decoder() == added
    copy = copy if is_same else Tokenizer.from_str(tokenizer.to_str())
    # Files do not hold it.
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy


def fitting(first: int, second: int, most: int) -> tuple[int, int]:
    """How many tokens of two texts are kept: the longer one is cut first, down to the length of the other."""
    if first + second <= most:
        return first, second
    short, long = sorted((first, second))
    kept_short = min(short, most // 2)
    kept_long = min(long, most - kept_short)
    return (kept_short, kept_long) if first <= second else (kept_long, kept_short)


def _cutting(own: Tokenizer, side: str, most: int) -> Tokenizer:
    tokenizer = copied(own)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    around = len(tokenizer.encode("").ids)
    if most <= around:
        raise errors.BadRequest(
            f"Of {most} tokens the model takes {around} around the text, and none is left for it: ask for more.",
            "input",
        )
    tokenizer.enable_truncation(most, direction=side)
    return tokenizer


def _end_of(ids: Sequence[int], count: int) -> Sequence[int]:
    return ids[len(ids) - count :]


class TextEncoder:
    """A private copy of a fast tokenizer for each way of cutting, so that no call changes what another one sees."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
        own = tokenizer.backend_tokenizer
        self.max_tokens = max_tokens
        self.vocabulary = len(tokenizer)
        self._names = tuple(tokenizer.model_input_names)
        self._pad_id = tokenizer.pad_token_id or 0
        self._pad_type_id = tokenizer.pad_token_type_id
        self._pads_left = tokenizer.padding_side == "left"
        self._whole = copied(own)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._frame = Frame.of(self._whole)
        self._cut: dict[str, Tokenizer] = {}
        for side in ("left", "right"):
            self._cut[side] = copied(own)
            self._cut[side].no_padding()
            self._cut[side].enable_truncation(max_tokens, direction=side)
        #: For the last of those who asked for fewer tokens than the model reads.
        self._shorter = lru_cache(SHORTER)(lambda side, most: _cutting(own, side, most))

    def encode(
        self,
        texts: Sequence[TextOrPair],
        truncate: str = "END",
        places: Sequence[int] | None = None,
        most: int | None = None,
    ) -> list[Encoded]:
        """Texts, or pairs of them. `truncate` is START, END, or NONE: then a text that is too long is an error, which
        names its place among the caller's inputs. `most`: tokens that are kept of each, where that is fewer than the
        model reads."""
        items = self._within(texts, truncate == "START")
        if truncate != "NONE":
            side = "left" if truncate == "START" else "right"
            is_shorter = most is not None and most < self.max_tokens
            tokenizer = self._shorter(side, most) if is_shorter else self._cut[side]
            return [Encoded(*ids) for ids in _encoded(tokenizer, items)]
        encoded = [Encoded(*ids) for ids in _encoded(self._whole, items)]
        for index, position in enumerate(places or range(len(texts))):
            self.refuse_long(position, len(encoded[index]), _size_of(items[index]) < _size_of(texts[index]))
        return encoded

    def encode_pairs(
        self, first: str, seconds: Sequence[str], truncate: str = "END", most_of_second: int | None = None
    ) -> list[Encoded]:
        """The first text paired with each of the others; it is tokenised once, not once per pair."""
        if self._frame is None:
            return self.encode([(first, second) for second in seconds], truncate)
        is_start = truncate == "START"
        (question,) = self.cut([first], self.max_tokens, is_start)
        texts = self.cut(seconds, self.max_tokens, is_start and most_of_second is None)
        head, *tails = self._plain([question, *texts])
        encoded = []
        for index, tail in enumerate(tails):
            is_cut = question is not first or (most_of_second is None and texts[index] is not seconds[index])
            if most_of_second is not None:
                tail = tail[:most_of_second]
            if truncate == "NONE":
                self.refuse_long(index, len(head) + len(tail) + self._frame.size, is_cut)
            kept = fitting(len(head), len(tail), self.max_tokens - self._frame.size)
            start, end = (
                (_end_of(head, kept[0]), _end_of(tail, kept[1]))
                if is_start
                else (
                    head[: kept[0]],
                    tail[: kept[1]],
                )
            )
            encoded.append(self._frame.around(start, end))
        return encoded

    def encode_chunks(
        self, first: str, seconds: Sequence[str], most_of_second: int | None = None
    ) -> tuple[list[Encoded], list[int]]:
        """Pairs as above, with each of the others in as many parts as it takes; and how many parts each has."""
        if self._frame is None:
            return self.encode_pairs(first, seconds), [1] * len(seconds)
        room = self.max_tokens - self._frame.size
        # A question that leaves no room for a document is cut to half of the room.
        head = self._plain(self.cut([first], room))[0][: max(1, room // 2)]
        size = min(room - len(head), most_of_second or room)
        encoded: list[Encoded] = []
        counts = []
        for tail in self.ids_of(seconds):
            parts = [tail[at : at + size] for at in range(0, max(1, len(tail)), size)]
            encoded += [self._frame.around(head, part) for part in parts]
            counts.append(len(parts))
        return encoded, counts

    def refuse_long(self, place: int, tokens: int, is_cut: bool = False) -> None:
        """`is_cut`: not all of it was read, so it has more tokens than were counted."""
        if tokens > self.max_tokens or is_cut:
            raise errors.InputTooLong(
                f"Input {place} has {tokens} tokens{' or more' if is_cut else ''}, the model reads {self.max_tokens}; "
                "shorten it or allow truncation.",
                "input",
            )

    def ids_of(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Texts as they are, whole and with nothing around them."""
        refuse_endless(texts)
        return self._plain(texts)

    def cut(self, texts: Sequence[str], most_tokens: int, from_end: bool = False) -> list[str]:
        """Cuts long texts to as many characters as are sure to hold the first, or the last, so many tokens.

        A text that has hardly any tokens, such as 250,000 spaces, is cut at MOST_CHARACTERS nevertheless."""
        pieces = list(texts)
        size = most_tokens * CHARACTERS_PER_TOKEN + MARGIN * CHARACTERS_PER_TOKEN
        most = max(MOST_CHARACTERS, size)
        long = [index for index, text in enumerate(texts) if len(text) > size]
        while long:
            for index in long:
                text = texts[index]
                pieces[index] = text if len(text) <= size else text[-size:] if from_end else text[:size]
            counts = map(len, self._plain([pieces[index] for index in long]))
            needed = most_tokens + MARGIN
            short = [index for index, count in zip(long, counts, strict=True) if count < needed]
            long = [index for index in short if size < most and size < len(texts[index])]
            size = min(4 * size, most)
        return pieces

    def _within(self, items: Sequence[TextOrPair], from_end: bool) -> list[TextOrPair]:
        """Texts and pairs of them, cut."""
        cuts = iter(self.cut([text for item in items for text in _texts_of(item)], self.max_tokens, from_end))
        rows = [tuple(next(cuts) for _ in _texts_of(item)) for item in items]
        return [pieces[0] if isinstance(item, str) else pieces for item, pieces in zip(items, rows, strict=True)]

    def _plain(self, texts: Sequence[str]) -> list[Sequence[int]]:
        return [ids for ids, _ in _encoded(self._whole, texts, add_special_tokens=False)]

    def encode_ids(self, ids: Sequence[int], truncate: str, place: int = 0) -> Encoded:
        """The model's own ids, used as they are."""
        if not ids:
            raise errors.InvalidBody(f"Input {place} has no token ids; send at least one.", "input")
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary:
                raise errors.InvalidBody(
                    f"Token id {token!r} is not in the model's vocabulary of {self.vocabulary}; they are "
                    "said to be the model's own; OpenAI's are read with token_ids=cl100k_base.",
                    "input",
                )
        if truncate == "NONE":
            self.refuse_long(place, len(ids))
        elif len(ids) > self.max_tokens:
            ids = ids[-self.max_tokens :] if truncate == "START" else ids[: self.max_tokens]
        return Encoded(list(ids), [0] * len(ids))

    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        vocabulary = range(self.vocabulary)
        return [(self._whole.id_to_token(token) or "") if token in vocabulary else "" for token in map(int, ids)]

    def decode(self, lists: Sequence[Any], skip_special_tokens: bool) -> list[str]:
        for index, ids in enumerate(lists):
            for token in ids if isinstance(ids, list) else [ids]:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary:
                    raise errors.InvalidBody(
                        f"Input {index} has {token!r}, which is not one of the model's {self.vocabulary}.",
                        "ids",
                    )
        return list(self._whole.decode_batch(list(lists), skip_special_tokens=skip_special_tokens))

    def describe(self, texts: Sequence[str], add_special_tokens: bool) -> list[TokensOfText]:
        """The tokens of texts, whole, with their places in the text."""
        if (characters := sum(map(len, texts))) > MOST_TOLD:
            raise errors.InputTooLong(
                f"The texts have {characters} characters; the tokens of {MOST_TOLD} are returned in one request.",
                "input",
            )
        encodings = self._whole.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [
            {
                "ids": encoding.ids,
                "tokens": encoding.tokens,
                "special": [bool(flag) for flag in encoding.special_tokens_mask],
                "start": [start for start, _ in encoding.offsets],
                "stop": [stop for _, stop in encoding.offsets],
            }
            for encoding in encodings
        ]

    def features(self, batch: Sequence[Encoded], multiple: int = 1) -> Arrays:
        """One padded batch, as arrays under the names that the model takes; its length is a multiple of that."""
        longest = max(len(text) for text in batch)
        longest = max(longest, min(-(-longest // multiple) * multiple, self.max_tokens))
        ids = np.full((len(batch), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        types = np.full((len(batch), longest), self._pad_type_id, dtype=np.int64)
        for row, text in enumerate(batch):
            span = slice(longest - len(text), longest) if self._pads_left else slice(0, len(text))
            ids[row, span] = text.ids
            types[row, span] = text.type_ids
            mask[row, span] = 1
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: arrays[name] for name in arrays if name in self._names}

    def packed_features(self, batch: Sequence[Encoded], first_position: int = 0) -> Arrays:
        """The texts one behind the other in one row, without padding; positions begin anew with each."""
        ids = np.concatenate([np.asarray(text.ids, dtype=np.int64) for text in batch])
        arrays = {
            "input_ids": ids,
            "position_ids": np.concatenate([np.arange(len(text), dtype=np.int64) for text in batch]) + first_position,
        }
        if "token_type_ids" in self._names:
            arrays["token_type_ids"] = np.concatenate([np.asarray(text.type_ids, dtype=np.int64) for text in batch])
        return {name: values[None] for name, values in arrays.items()}


def _encoded(
    tokenizer: Tokenizer, items: Sequence[TextOrPair], add_special_tokens: bool = True
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Ids and type ids of texts or pairs; in groups, because the tokenizer's whole output takes much memory."""
    for group in groups_of(items):
        for encoding in tokenizer.encode_batch_fast(group, add_special_tokens=add_special_tokens):
            yield encoding.ids, encoding.type_ids


def _texts_of(item: TextOrPair) -> Sequence[str]:
    return (item,) if isinstance(item, str) else item


def _size_of(item: TextOrPair) -> int:
    return sum(map(len, _texts_of(item)))


def refuse_endless(texts: Sequence[str]) -> None:
    """For texts that are read whole, however long."""
    for index, text in enumerate(texts):
        if len(text) > MOST_WHOLE:
            raise errors.InputTooLong(
                f"Input {index} has {len(text)} characters, {MOST_WHOLE} of one text are read; send it in parts.",
                "input",
            )


def groups_of(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items in groups of about GROUP_CHARACTERS, which bounds the memory."""
    group: list[Item] = []
    characters = 0
    for item in items:
        if group and characters + _size_of(item) > GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
        group.append(item)
        characters += _size_of(item)
    if group:
        yield group


def truncation_of(params: Params) -> str:
    """START, END or NONE, from any of the spellings that clients use."""
    wanted = params.get("truncate", True)
    if isinstance(wanted, str) and wanted.upper() in ("START", "END", "NONE"):
        return wanted.upper()
    if isinstance(wanted, bool) or wanted is None:
        return "END" if wanted is not False else "NONE"
    raise errors.InvalidBody(f"truncate takes true, false, START, END or NONE, not {wanted!r}.", "truncate")
