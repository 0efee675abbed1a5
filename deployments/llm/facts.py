"""What loaded language models say about themselves."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class LanguageFacts(ModelFacts):
    #: Tokens of a prompt and its answer together.
    context_length: int
    #: Answers that are written at once, and the tokens that are kept for all of them.
    slots: int
    kept_tokens: int
    #: What else it can do.
    takes_tools: bool = False
    reasons: bool = False
    sees: bool = False
    #: How far its weights are from those that were given, as the mean loss on an example says.
    loss: float | None = None
    reference_loss: float | None = None
