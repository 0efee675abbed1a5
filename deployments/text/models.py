"""What all families that turn texts into vectors share: options, prompts, the way from a request to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from cluster import errors
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Batched, Example, Params, Prepared, Prospect, Setup
from deployments.text import loading
from deployments.text.facts import TextFacts
from deployments.text.needs import encoder_plan_of
from deployments.text.token_ids import Vocabulary, openai_text, vocabulary_of
from deployments.text.tokenizing import ENGINES, Encoded, EncoderOptions, TextEncoder, truncation_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = ("The weather is lovely today.", "It is raining.")


class TextOptions(EncoderOptions):
    prompt_name: str | None = Field(default=None, description="Prompt to use when a request names none.")
    token_ids: Vocabulary | None = Field(
        default=None, description="Whose ids lists of numbers are: the model's own, or OpenAI's cl100k_base."
    )


class EmbeddingOptions(TextOptions):
    normalize: bool | None = Field(default=None, description="Vectors of length 1; by default as the model has it.")
    dimensions: int | None = Field(default=None, gt=0, description="Keep the first dimensions only (Matryoshka).")


class Texts(Batched):
    """Loads a model of texts and prepares requests for it. Subclasses say what is computed."""

    engines: ClassVar[tuple[str, ...]] = ENGINES
    abilities: ClassVar[tuple[str, ...]] = ("embed", "tokenize", "decode", "tokens")
    Options: ClassVar[type[BaseModel]] = TextOptions
    example: Example = Example(TEXTS, {}, "embed")
    #: A class of sentence-transformers, and the feature in which its models leave their answers.
    kind: ClassVar[str] = "SentenceTransformer"
    output: ClassVar[str] = "sentence_embedding"
    #: Whether each token becomes a row over the whole vocabulary.
    answers_in_words: ClassVar[bool] = False

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        if prospect.on_card:
            return super().plan(prospect)
        return encoder_plan_of(prospect, cls.number_format(prospect), answers_in_words=cls.answers_in_words)

    def load(self, setup: Setup) -> TextFacts:
        options = setup.options
        self._options = options
        self._prompts: dict[str, str] = {}

        def encoder_for(model: SentenceTransformer) -> TextEncoder:
            limit = model.max_seq_length or setup.entry.max_tokens or 512
            own = {name: text for name, text in model.prompts.items() if text}
            self._prompts = {**setup.entry.facts.get("prompts", {}), **own}
            self._default_prompt = options.prompt_name or model.default_prompt_name
            return TextEncoder(model.tokenizer, min(limit, options.max_tokens or limit))

        self._pipeline, self.pace, facts = loading.start(
            type(self), setup, self.kind, self.output, encoder_for, complete=lambda model: self._complete(setup, model)
        )
        self.largest = Example([loading.LONG_TEXT], self.example.params, self.example.ability)
        if self._default_prompt is not None and self._default_prompt not in self._prompts:
            raise errors.BadOption(_no_prompt(self._default_prompt, self._prompts), "prompt_name")
        self._encoder: TextEncoder = self._pipeline.encoder
        return replace(facts, prompts=tuple(sorted(self._prompts)))

    def prepare(self, ability: str, items: Sequence[Any], params: Params) -> Prepared:
        if ability == "tokens":
            return Prepared([], [0], answers=self._encoder.tokens_of([int(token) for token in items]))
        if ability == "decode":
            skips = bool(params.get("skip_special_tokens", True))
            return Prepared([], [0], answers=self._encoder.decode(items, skips))
        if ability == "tokenize":
            texts = [self._prompt(params) + text_of(item) for item in items]
            described = self._encoder.describe(texts, bool(params.get("add_special_tokens", True)))
            return Prepared([], [sum(len(row["ids"]) for row in described)], answers=described)
        self._check(params)
        values = self._encoded(items, params)
        if ability != "embed":
            values = [replace(value, want=ability) for value in values]
        return Prepared(values, [len(value) for value in values], identities=[value.identity for value in values])

    def set_threads(self, threads: int) -> None:
        self._pipeline.set_threads(threads)

    def _complete(self, setup: Setup, model: SentenceTransformer) -> None:
        """What a family does with the loaded model before anything runs."""

    def _check(self, params: Params) -> None:
        """Refuses parameters that the family cannot honour."""

    def _encoded(self, items: Sequence[object], params: Params, encoder: TextEncoder | None = None) -> list[Encoded]:
        encoder = encoder or self._encoder
        truncate, most = truncation_of(params), params.get("most_tokens")
        prompt = self._prompt(params)
        encoded: list[Encoded | None] = [None] * len(items)
        texts: list[tuple[int, str]] = []
        for position, item in enumerate(items):
            if not isinstance(item, list):
                texts.append((position, prompt + text_of(item)))
            elif vocabulary_of(params, self._options.token_ids) == "model":
                kept = item if most is None else item[-most:] if truncate == "START" else item[:most]
                encoded[position] = encoder.encode_ids(kept, truncate, position)
            else:
                texts.append((position, prompt + openai_text(item)))
        places = [position for position, _ in texts]
        tokenised = encoder.encode([text for _, text in texts], truncate, places, most)
        for position, value in zip(places, tokenised, strict=True):
            encoded[position] = value
        return [value for value in encoded if value is not None]

    def _prompt(self, params: Params) -> str:
        """What goes before each text. A role, such as Cohere's search_query, is ignored by a model that has no prompt
        for it; any other name must be one of the model's prompts."""
        if params.get("prompt") is not None:
            return str(params["prompt"])
        name: str | None = params.get("prompt_name")
        if name is None:
            return self._prompts.get(self._default_prompt, "") if self._default_prompt else ""
        for spelled in (name, ROLES.get(name), *SYNONYMS.get(ROLES.get(name, name), ())):
            if spelled in self._prompts:
                return str(self._prompts[spelled])
        if name in ROLES:
            return ""
        raise errors.BadRequest(_no_prompt(name, self._prompts), "prompt_name")


#: What Cohere, Jina and Voyage call the role of a text.
ROLES = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "classification": "classification",
    "clustering": "clustering",
}
SYNONYMS = {"document": ("passage", "corpus"), "query": ("s2p_query", "web_search_query")}


def _no_prompt(name: str, prompts: Mapping[str, str]) -> str:
    return f"The model has no prompt {name!r}; it has {', '.join(sorted(prompts)) or 'none'}."


def text_of(item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    raise errors.InvalidBody(f"An input is a text or a list of token ids, not {type(item).__name__}.", "input")
