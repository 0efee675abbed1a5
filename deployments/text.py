"""Text in, token ids out: tokenising that any thread may do at any time, and padding for one forward pass.

Knows nothing of models beyond their tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster import errors

#: Tokens in one padded forward pass. On CPU larger passes gain nothing and padding costs; see benchmarks/LOG.md.
PASS_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: Sequence[int]
    type_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


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
                self._refuse_long(place, len(one.ids))
        else:
            found = self._cut["left" if truncate == "START" else "right"].encode_batch_fast(list(texts))
        return [Encoded(one.ids, one.type_ids) for one in found]

    def _refuse_long(self, place: int, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise errors.InputTooLong(
                f"Input {place} has {tokens} tokens, the model reads {self.max_tokens}; "
                "shorten it or allow truncation.",
                None,
                "input",
            )

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
            self._refuse_long(place, len(ids))
        elif len(ids) > self.max_tokens:
            ids = ids[-self.max_tokens :] if truncate == "START" else ids[: self.max_tokens]
        return Encoded(list(ids), [0] * len(ids))

    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        known = range(self.vocabulary)
        return [(self._whole.id_to_token(token) or "") if token in known else "" for token in map(int, ids)]

    def features(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """One padded batch, as arrays under the names that the model takes."""
        longest = max(len(one) for one in batch)
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


def passes(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of the inputs for each forward pass: of like length, and within the padded budget."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    grouped: list[list[int]] = []
    for position in order:
        if grouped and (len(grouped[-1]) + 1) * lengths[position] <= PASS_TOKENS:
            grouped[-1].append(position)
        else:
            grouped.append([position])
    return grouped


def truncation_of(params: Mapping[str, Any]) -> str:
    """START, END or NONE, from any of the spellings that clients use."""
    asked = params.get("truncate", True)
    if isinstance(asked, str) and asked.upper() in ("START", "END", "NONE"):
        return asked.upper()
    if isinstance(asked, bool) or asked is None:
        return "END" if asked is not False else "NONE"
    raise errors.InvalidBody(f"truncate takes true, false, START, END or NONE, not {asked!r}.", None, "truncate")
