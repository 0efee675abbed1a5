"""Vectors that are looked up word by word and averaged: so cheap that no request waits for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cluster import errors
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import BatchHints, Params, Prepared, Prospect, Setup
from deployments.device import library_arguments, torch_for
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.encoders.library import sentence_transformers
from deployments.text.facts import EmbeddingFacts
from deployments.text.models import text_of
from deployments.text.needs import static_plan_of
from deployments.text.token_ids import openai_text, vocabulary_of
from deployments.text.tokenizing import groups_of, refuse_endless
from deployments.vectors import Floats


class StaticEmbeddings(SentenceTransformers):
    engines: ClassVar[tuple[str, ...]] = ("sentence_transformers", "torch", "auto", "static")
    abilities: ClassVar[tuple[str, ...]] = ("embed",)

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        """In main memory, also beside a card."""
        return static_plan_of(prospect)

    def load(self, setup: Setup) -> EmbeddingFacts:
        self._torch = torch_for(setup)
        arguments = {**library_arguments(setup), "device": "cpu"}
        self._model = sentence_transformers().SentenceTransformer(str(setup.folder), **arguments).eval()
        kind = type(self._model[0]).__name__
        if kind != "StaticEmbedding":
            raise errors.LoadFailed(f"{setup.entry.name} begins with a {kind}; launch it without the engine static.")
        self._options = setup.options
        own = {name: text for name, text in self._model.prompts.items() if text}
        self._prompts = {**setup.entry.facts.get("prompts", {}), **own}
        self._default_prompt = self._options.prompt_name or self._model.default_prompt_name
        self._dimensions = int(self._model.get_embedding_dimension() or 0)
        self.pace = BatchHints()
        dimensions = min(self._options.dimensions or self._dimensions, self._dimensions)
        return EmbeddingFacts(dimensions=dimensions, engine="static", prompts=tuple(sorted(self._prompts)))

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        self._check(params)
        if params.get("most_tokens") is not None:
            raise errors.BadRequest(
                "This model reads all tokens of a text, and cannot be told to read fewer: shorten the text.",
                "truncate_prompt_tokens",
            )
        prompt = self._prompt(params)
        texts = [prompt + self._text_of(item, params) for item in items]
        if not texts:
            return Prepared([], [0], answers=self.pack([], params))
        refuse_endless(texts)
        rows: list[Floats] = []
        tokens = 0
        with self._torch.inference_mode():
            for group in groups_of(texts):
                features = self._model.preprocess(group)
                tokens += len(features["input_ids"])
                rows += list(self._model(features)["sentence_embedding"].float().numpy())
        return Prepared([], [tokens], answers=self.pack(rows, params))

    def _text_of(self, item: object, params: Params) -> str:
        if not isinstance(item, list):
            return text_of(item)
        if vocabulary_of(params, self._options.token_ids) == "model":
            raise errors.BadRequest("This model takes no token ids of its own; send texts.", "input")
        return openai_text(item)

    def run(self, batch: Sequence[object]) -> Sequence[object]:
        return []

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)
