"""Models that put labels on a text or on a pair of texts: sentiment, language, entailment, moderation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel

from cluster import errors
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Batched, Example, Params, Prepared, Prospect, Setup
from deployments.text import loading
from deployments.text.facts import ClassifyFacts
from deployments.text.needs import encoder_plan_of
from deployments.text.tokenizing import ENGINES, Encoded, EncoderOptions, TextEncoder, TextOrPair, truncation_of
from deployments.vectors import Floats, refused_unless_finite, sigmoid

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class SequenceClassifiers(Batched):
    engines: ClassVar[tuple[str, ...]] = ENGINES
    abilities: ClassVar[tuple[str, ...]] = ("classify",)
    Options: ClassVar[type[BaseModel]] = EncoderOptions
    example: Example = Example(["I like it.", ["It rains.", "The street is wet."]], {}, "classify")

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return super().plan(prospect) if prospect.on_card else encoder_plan_of(prospect, cls.number_format(prospect))

    def load(self, setup: Setup) -> ClassifyFacts:
        options: EncoderOptions = setup.options

        def encoder_for(model: CrossEncoder) -> TextEncoder:
            config = model.config
            self._labels = [str(config.id2label.get(label, label)) for label in range(model.num_labels)]
            # Labels that exclude each other share a probability; others have one each.
            self._is_exclusive = len(self._labels) > 1 and config.problem_type != "multi_label_classification"
            limit = min(model.max_seq_length or 512, setup.entry.max_tokens or 10**9)
            return TextEncoder(model.tokenizer, min(limit, options.max_tokens or limit))

        self._pipeline, self.pace, facts = loading.start(type(self), setup, "CrossEncoder", "scores", encoder_for)
        self._encoder: TextEncoder = self._pipeline.encoder
        self.largest = Example([loading.LONG_TEXT], {}, "classify")
        return facts.extended(ClassifyFacts, labels=tuple(self._labels), exclusive=self._is_exclusive)

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        values = self._encoder.encode([_text_or_pair(item) for item in items], truncation_of(params))
        return Prepared(values, [len(value) for value in values], identities=[value.identity for value in values])

    def run(self, batch: Sequence[Encoded]) -> Sequence[object]:
        return refused_unless_finite(self._pipeline.vectors(batch))

    def pack(self, outputs: list[Floats], params: Params) -> object:
        logits = np.asarray(outputs, dtype=np.float32).reshape(len(outputs), len(self._labels))
        scores = logits if params.get("raw_scores") else probabilities(logits, self._is_exclusive)
        return {"scores": scores, "labels": [self._labels] * len(outputs)}

    def set_threads(self, threads: int) -> None:
        self._pipeline.set_threads(threads)


def probabilities(logits: Floats, is_exclusive: bool) -> Floats:
    if not is_exclusive:
        return sigmoid(logits)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    shares: Floats = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _text_or_pair(item: object) -> TextOrPair:
    if isinstance(item, dict):
        item = [item["text"], item["text_pair"]] if "text_pair" in item else item.get("text")
    if isinstance(item, str):
        return item
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return tuple(item)
    raise errors.InvalidBody("An input is a text or a list of two texts.", "input")
