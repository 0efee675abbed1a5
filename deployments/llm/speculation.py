"""Guesses at the next tokens, which the model then checks in one step.

Every token stays the model's own choice. llama.cpp's sums depend a little on how many tokens are computed together,
with guesses as without: of two tokens that are all but equally likely, an answer beside others may take the other one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from cluster import errors
from cluster.catalog.entry import Source
from cluster.paths import local_path
from cluster.weights.inventory import Inventory
from cluster.weights.memory import MemoryPlan, PlannedPart, gguf_header
from cluster.worker.family import Prospect
from deployments import allowed
from deployments.llm.language import LanguageOptions
from deployments.llm.needs import ggufs_of, kept_of, shape_in

#: Tokens that are guessed at once, unless a launch says.
DRAFT_TOKENS = 3
#: Tokens that have to have stood there before, for what followed them to be the guess, and how many follow.
LOOKUP_TOKENS, LOOKED_UP = 4, 8
OPTIONS = ("draft_model", "draft_tokens", "prompt_lookup")
#: Why OpenVINO has none of these options: 2 of 3 prompts were answered otherwise, and no sooner, though its answers are
#: the same alone and beside others.
NOT_HERE = "its greedy answers would be others with guesses, so it makes none: launch with model_engine=llamacpp"


class SpeculatingOptions(LanguageOptions):
    draft_model: str | None = Field(
        default=None,
        description="A small model of the same vocabulary that guesses the next tokens, which the model then checks.",
    )
    draft_tokens: int | None = Field(
        default=None, ge=1, le=16, description=f"Tokens that are guessed at once; {DRAFT_TOKENS} by default."
    )
    prompt_lookup: bool = Field(
        default=False, description="Guesses what followed the same words before: for answers that repeat their prompt."
    )

    @model_validator(mode="after")
    def _one_way(self) -> SpeculatingOptions:
        if self.draft_model is not None and self.prompt_lookup:
            raise ValueError("draft_model and prompt_lookup are two ways to guess: give one of them")
        return self

    @property
    def guessed(self) -> int:
        return self.draft_tokens or (LOOKED_UP if self.prompt_lookup else DRAFT_TOKENS)


def draft_in(prospect: Prospect) -> Inventory | None:
    """The draft model's files, if they are on this machine. Raises for a place that may not be used."""
    source = _source(prospect)
    return prospect.weights(source, allow_pickle=False) if source is not None else None


def _source(prospect: Prospect) -> Source | None:
    options: Any = prospect.options
    if options.draft_model is None:
        return None
    place = allowed(local_path(options.draft_model, "draft_model"), prospect.settings, "draft_model")
    return Source(hub="local", id=str(place))


def refuse_missing_draft(prospect: Prospect, kind: str) -> None:
    """Where the model's own files are, the draft's have to be as well, and not only as pickles. `kind`: what the engine
    reads."""
    source = _source(prospect)
    if source is None or draft_in(prospect) is not None:
        return
    if prospect.weights(allow_pickle=False) is not None or prospect.weights(source) is not None:
        raise errors.BadOption(f"draft_model takes {kind}, and there is none at {source.id}.", "draft_model")


def refuse_other_draft(prospect: Prospect) -> None:
    refuse_missing_draft(prospect, "one GGUF file")
    draft = draft_in(prospect)
    if draft is not None and (count := len(ggufs_of(draft))) != 1:
        raise errors.BadOption(
            f"draft_model takes one GGUF file, and {draft.place} has {count or 'none'}: name a file.", "draft_model"
        )


def with_draft(plan: MemoryPlan, prospect: Prospect, precision: str) -> MemoryPlan:
    """Its weights, and as many of its tokens as of the model's."""
    draft = draft_in(prospect)
    if draft is None:
        return plan
    model = prospect.weights(allow_pickle=False)
    kept = kept_of(shape_in(model), prospect.options, precision) if model is not None else 0
    weights = int(gguf_header(draft)["bytes"])
    cache = kept * shape_in(draft).bytes_per_token(precision) if kept else int(prospect.options.cache_gb * 10**9)
    home = plan.parts[0].lives_on
    parts = (
        PlannedPart("draft model", prospect.entry.family, "as stored", "none", weights, home),
        PlannedPart(f"{kept or 'its'} tokens of the draft", "cache", precision, "none", cache, home),
    )
    return replace(plan, parts=(*plan.parts, *parts), peak_bytes=plan.peak_bytes + weights + cache)
