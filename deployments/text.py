"""Text in, token ids out: tokenising that any thread may do at any time, and the arrays of one forward pass.

Knows nothing of models beyond their tokenizer.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors

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
)


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
    #: What is to be made of it, by models that can make several things.
    want: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def identity(self) -> bytes:
        """Equal for what a model cannot tell apart."""
        return blake2b(array("q", [*self.ids, *self.type_ids]).tobytes(), digest_size=16).digest()


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
        before, one, between, two, after = self.types
        return Encoded(
            [*self.before, *first, *self.between, *second, *self.after],
            [*before, *one * len(first), *between, *two * len(second), *after],
        )

    @classmethod
    def of(cls, tokenizer: Any) -> Frame | None:
        """Found by encoding a pair; None when a pair is more than its two texts with something around them."""
        found = tokenizer.encode("a b", "c d")
        parts: list[list[int]] = [[], [], [], [], []]
        part = 0
        for place, sequence in enumerate(found.sequence_ids):
            if sequence is not None:
                part = max(part, 1 + 2 * sequence)
            elif part % 2:
                part += 1
            parts[part].append(place)
        ids = [[found.ids[place] for place in places] for places in parts]
        texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("a b", "c d")]
        types = [[found.type_ids[place] for place in places] for places in parts]
        if [ids[1], ids[3]] != texts or any(len(set(types[place])) > 1 for place in (1, 3)):
            return None
        return cls(ids[0], ids[2], ids[4], [types[0], types[1][:1], types[2], types[3][:1], types[4]])


def fitting(first: int, second: int, most: int) -> tuple[int, int]:
    """How much of two texts is kept: of the longer one less, until both are of a length."""
    if first + second <= most:
        return first, second
    short, long = sorted((first, second))
    kept_short = min(short, most // 2)
    kept_long = min(long, most - kept_short)
    return (kept_short, kept_long) if first <= second else (kept_long, kept_short)


def _end_of(ids: Sequence[int], count: int) -> Sequence[int]:
    return ids[len(ids) - count :]


class TextEncoder:
    """A private copy of a fast tokenizer for each way of cutting, so that no call changes what another one sees."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        text = tokenizer.backend_tokenizer.to_str()
        self.max_tokens = max_tokens
        self.vocabulary = len(tokenizer)
        self._names = tuple(tokenizer.model_input_names)
        self._pad_id = tokenizer.pad_token_id or 0
        self._pad_type_id = tokenizer.pad_token_type_id
        self._pads_left = tokenizer.padding_side == "left"
        self._whole = Tokenizer.from_str(text)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._frame = Frame.of(self._whole)
        self._cut = {}
        for side in ("left", "right"):
            self._cut[side] = Tokenizer.from_str(text)
            self._cut[side].no_padding()
            self._cut[side].enable_truncation(max_tokens, direction=side)

    def encode(self, texts: Sequence[Any], truncate: str = "END", places: Sequence[int] | None = None) -> list[Encoded]:
        """Texts, or pairs of them. `truncate` is START, END, or NONE: then a text that is too long is an error, which
        names its place among the caller's inputs."""
        if truncate == "NONE":
            found = self._whole.encode_batch_fast(list(texts))
            for place, one in zip(places or range(len(texts)), found, strict=True):
                self.refuse_long(place, len(one.ids))
        else:
            found = self._cut["left" if truncate == "START" else "right"].encode_batch_fast(list(texts))
        return [Encoded(one.ids, one.type_ids) for one in found]

    def encode_pairs(
        self, first: str, seconds: Sequence[str], truncate: str = "END", most_of_second: int | None = None
    ) -> list[Encoded]:
        """One text beside each of the others; the first is read once and not once per pair."""
        if self._frame is None:
            return self.encode([(first, second) for second in seconds], truncate)
        head = self._whole.encode(first, add_special_tokens=False).ids
        tails = [one.ids for one in self._whole.encode_batch_fast(list(seconds), add_special_tokens=False)]
        encoded = []
        for place, tail in enumerate(tails):
            if most_of_second is not None:
                tail = tail[:most_of_second]
            if truncate == "NONE":
                self.refuse_long(place, len(head) + len(tail) + self._frame.size)
            kept = fitting(len(head), len(tail), self.max_tokens - self._frame.size)
            start, end = (
                (_end_of(head, kept[0]), _end_of(tail, kept[1]))
                if truncate == "START"
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
        """Pairs as above, with as many for each of the others as it takes to read it whole; and how many that was."""
        if self._frame is None:
            return self.encode_pairs(first, seconds), [1] * len(seconds)
        room = self.max_tokens - self._frame.size
        # A question that leaves no room for an answer is cut to half.
        head = self._whole.encode(first, add_special_tokens=False).ids[: max(1, room // 2)]
        tails = self._whole.encode_batch_fast(list(seconds), add_special_tokens=False)
        size = min(room - len(head), most_of_second or room)
        encoded: list[Encoded] = []
        counts = []
        for tail in tails:
            parts = [tail.ids[at : at + size] for at in range(0, max(1, len(tail.ids)), size)]
            encoded += [self._frame.around(head, part) for part in parts]
            counts.append(len(parts))
        return encoded, counts

    def refuse_long(self, place: int, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise errors.InputTooLong(
                f"Input {place} has {tokens} tokens, the model reads {self.max_tokens}; "
                "shorten it or allow truncation.",
                None,
                "input",
            )

    def ids_of(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Texts as they are, whole and with nothing around them."""
        return [one.ids for one in self._whole.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_ids(self, ids: Sequence[int], truncate: str, place: int = 0) -> Encoded:
        """The model's own ids, used as they are."""
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary:
                raise errors.InvalidBody(
                    f"Token id {token!r} is not in the model's vocabulary of {self.vocabulary}; token ids must be the "
                    "model's own, or launch it with token_ids=cl100k to have OpenAI's decoded.",
                    None,
                    "input",
                )
        if truncate == "NONE":
            self.refuse_long(place, len(ids))
        elif len(ids) > self.max_tokens:
            ids = ids[-self.max_tokens :] if truncate == "START" else ids[: self.max_tokens]
        return Encoded(list(ids), [0] * len(ids))

    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        known = range(self.vocabulary)
        return [(self._whole.id_to_token(token) or "") if token in known else "" for token in map(int, ids)]

    def decode(self, lists: Sequence[Any], skip_special_tokens: bool) -> list[str]:
        for place, ids in enumerate(lists):
            for token in ids if isinstance(ids, list) else [ids]:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary:
                    raise errors.InvalidBody(
                        f"Input {place} has {token!r}, which is no token id of the model's {self.vocabulary}.",
                        None,
                        "ids",
                    )
        return list(self._whole.decode_batch(list(lists), skip_special_tokens=skip_special_tokens))

    def describe(self, texts: Sequence[str], add_special_tokens: bool) -> list[dict[str, Any]]:
        """The tokens of texts, whole, with their places in the text."""
        found = self._whole.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [
            {
                "ids": one.ids,
                "tokens": one.tokens,
                "special": [bool(flag) for flag in one.special_tokens_mask],
                "start": [start for start, _ in one.offsets],
                "stop": [stop for _, stop in one.offsets],
            }
            for one in found
        ]

    def features(self, batch: Sequence[Encoded], multiple: int = 1) -> dict[str, Any]:
        """One padded batch, as arrays under the names that the model takes; its length is a multiple of that."""
        longest = max(len(one) for one in batch)
        longest = max(longest, min(-(-longest // multiple) * multiple, self.max_tokens))
        ids = np.full((len(batch), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        types = np.full((len(batch), longest), self._pad_type_id, dtype=np.int64)
        for row, one in enumerate(batch):
            span = slice(longest - len(one), longest) if self._pads_left else slice(0, len(one))
            ids[row, span] = one.ids
            types[row, span] = one.type_ids
            mask[row, span] = 1
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: arrays[name] for name in arrays if name in self._names}

    def packed_features(self, batch: Sequence[Encoded], first_position: int = 0) -> dict[str, Any]:
        """The texts one behind the other in one row, without padding; positions begin anew with each."""
        ids = np.concatenate([np.asarray(one.ids, dtype=np.int64) for one in batch])
        arrays = {
            "input_ids": ids,
            "position_ids": np.concatenate([np.arange(len(one), dtype=np.int64) for one in batch]) + first_position,
        }
        if "token_type_ids" in self._names:
            arrays["token_type_ids"] = np.concatenate([np.asarray(one.type_ids, dtype=np.int64) for one in batch])
        return {name: values[None] for name, values in arrays.items()}


def truncation_of(params: Mapping[str, Any]) -> str:
    """START, END or NONE, from any of the spellings that clients use."""
    asked = params.get("truncate", True)
    if isinstance(asked, str) and asked.upper() in ("START", "END", "NONE"):
        return asked.upper()
    if isinstance(asked, bool) or asked is None:
        return "END" if asked is not False else "NONE"
    raise errors.InvalidBody(f"truncate takes true, false, START, END or NONE, not {asked!r}.", None, "truncate")
