"""Text in, token ids out, and back again piece by piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.value import JsonObject
from deployments.llm.calls import CALL_MARKS
from deployments.llm.habits import SAMPLING, UNKNOWN, Habits
from deployments.llm.templates import ChatTemplate

#: Tokens that end an answer in models that do not say which of theirs does.
ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "</s>",
    "<|end|>",
    "<end_of_turn>",
)


class Vocabulary:
    """A model's tokens and its chat template, read from a folder as transformers writes it."""

    def __init__(self, folder: Path, habits: Habits = UNKNOWN) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _json_in(folder / "tokenizer_config.json")
        self._ids: dict[str, int] = self._tokenizer.get_vocab()
        tokens = {name: _token(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        source = _template_in(folder, config)
        self.template = ChatTemplate(source, tokens) if source else None
        generation = _json_in(folder / "generation_config.json")
        named = (tokens["eos_token"], *ENDS, *habits.stop)
        ends = [generation.get("eos_token_id"), *(self._ids.get(token) for token in named)]
        self.size = self._tokenizer.get_vocab_size()
        ends += [id for id in habits.stop_ids if 0 <= id < self.size]
        #: Tokens that end an answer.
        self.ends = frozenset(
            id for each in ends for id in (each if isinstance(each, list) else [each]) if id is not None
        )
        #: Tokens that say where calls of tools are: they are read, even where they are special.
        self.call_marks = {self._ids[mark]: mark for mark in CALL_MARKS if mark in self._ids}
        #: How the model's makers sample from it, where they say so.
        own = {name: generation[name] for name in SAMPLING if generation.get(name)}
        self.sampling = {**habits.sampling, **own}

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token: so many characters at least make one token."""
        return max(map(len, self._ids), default=1)

    def ids_of(self, text: str, is_written: bool) -> list[int]:
        """`is_written`: by a template, which has put special tokens where they belong."""
        # Alone, `encode` would hold Python's lock: nothing else would go on while a long prompt is read.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=not is_written)
        return list(encoding.ids)

    def text_of(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def row_of(self, text: str, is_written: bool) -> JsonObject:
        """The tokens of a text, and where each stands in it."""
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=not is_written)
        return {
            "ids": list(encoding.ids),
            "tokens": list(encoding.tokens),
            "special": [bool(flag) for flag in encoding.special_tokens_mask],
            "start": [start for start, _ in encoding.offsets],
            "stop": [stop for _, stop in encoding.offsets],
        }

    def token(self, id: int) -> str:
        """The text of one token; of a part of a letter, as that is shown."""
        return self.text_of([id], False)

    def decoder(self) -> Decoder:
        return Decoder(self._tokenizer)

    def refuse_strange(self, ids: Sequence[int]) -> None:
        if any(id >= self.size for id in ids):
            raise errors.BadRequest(
                f"The prompt has token ids that the model does not have; it has {self.size}.", "prompt"
            )


class Decoder:
    """The text of ids that come one after another; a letter of several tokens comes with the last of them."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def text_of(self, id: int) -> str:
        return self._stream.step(self._tokenizer, id) or ""


def _json_in(path: Path) -> JsonObject:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _token(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _template_in(folder: Path, config: JsonObject) -> str:
    """A file of its own goes first. Of several templates the one that is called default is meant."""
    try:
        return (folder / "chat_template.jinja").read_text("utf-8")
    except OSError:
        named = config.get("chat_template") or ""
    if isinstance(named, list):
        named = next((each.get("template") for each in named if each.get("name") == "default"), "")
    return str(named)
