"""A vocabulary of single letters, and an engine that writes what a test tells it to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.facts import ModelFacts
from cluster.worker.family import Finished, Setup, Stop
from deployments.llm.habits import UNKNOWN, Habits
from deployments.llm.language import Hear, LanguageFamily, LanguageOptions, Order, TokenSampling
from deployments.llm.pieces import Piece, Reply
from deployments.llm.token_masks import TokenForm
from deployments.llm.vocabulary import Vocabulary
from deployments.llm.writing import TokenOdds

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: Not all letters of these are tokens: some take several.
LETTERS = [chr(code) for code in range(32, 127)]
END = "</s>"


def save_vocabulary(folder: Path, template: str | None = TEMPLATE, special: Sequence[str] = ()) -> Path:
    """Every letter of ASCII is a token, and every byte of others."""
    from tokenizers import Tokenizer, decoders, models

    tokens = [END, *LETTERS, *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END, *special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": {"content": END}}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


class Script:
    """An engine that is stepped by the test."""

    def __init__(self) -> None:
        self.orders: list[tuple[Order, TokenSampling]] = []
        self.hears: list[Hear] = []
        self.stopped: list[int] = []

    def write(self, order: Order, sampling: TokenSampling, hear: Hear, form: TokenForm | None = None) -> Stop:
        number = len(self.hears)
        self.orders.append((order, sampling))
        self.hears.append(hear)
        return lambda: self.stopped.append(number)


class Scripted(LanguageFamily):
    engines = ("scripted",)
    has_grammars = True

    def load(self, setup: Setup) -> ModelFacts:
        raise AssertionError("tests begin it themselves")


def scripted(
    folder: Path,
    template: str | None = TEMPLATE,
    context: int = 64,
    special: Sequence[str] = (),
    habits: Habits = UNKNOWN,
    **options: Any,
) -> tuple[Scripted, Script]:
    family, engine = Scripted(), Script()
    query = LanguageOptions(**options)
    vocabulary = Vocabulary(save_vocabulary(folder, template, special), habits)
    family.begins(vocabulary, engine, context, 4 * context, query, habits=habits)
    return family, engine


class Told:
    """What a family has told of one request."""

    def __init__(self, family: LanguageFamily, item: Any) -> None:
        self.pieces: list[Piece] = []
        self.outcome: Any = None
        prepared = family.prepare("chat", [item], {})
        self.stop = family.begin(prepared.values[0], self.take)

    def take(self, piece: object) -> None:
        assert self.outcome is None, "nothing comes after the end"
        if isinstance(piece, Finished):
            self.outcome = piece.outcome
        else:
            assert isinstance(piece, Piece)
            self.pieces.append(piece)

    @property
    def reply(self) -> Reply:
        assert isinstance(self.outcome, Reply), self.outcome
        return self.outcome

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def say(hear: Hear, text: str, end: str | Exception | None = None) -> None:
    """A step for each token."""
    ids = ids_of(text)
    for place, id in enumerate(ids):
        hear([id], [TokenOdds(-0.5)], end if place == len(ids) - 1 else None)
    if not ids:
        hear([], [], end)


def ids_of(text: str) -> list[int]:
    ids: list[int] = []
    for letter in text:
        if letter in LETTERS:
            ids.append(1 + LETTERS.index(letter))
        else:
            ids += [1 + len(LETTERS) + byte for byte in letter.encode()]
    return ids
