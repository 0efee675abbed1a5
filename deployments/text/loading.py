"""The way from a launch to a running text encoder, the same for every family that has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.worker.family import AnyFamily, BatchHints, Setup, path_of
from deployments.device import library_arguments, torch_for
from deployments.text.facts import TextFacts
from deployments.text.sample import PASSAGES, QUESTIONS, TEXTS
from deployments.text.tokenizing import Encoded, EncoderOptions, TextEncoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from deployments.text.encoders.pipeline import Pipeline


#: Longer than any model reads.
LONG_TEXT = "The committee met on Tuesday and approved the budget. " * 4000


def start(
    family: type[AnyFamily],
    setup: Setup,
    kind: str,
    output: str,
    encoder_for: Callable[[SentenceTransformer], TextEncoder],
    *,
    sample: Callable[[TextEncoder], Sequence[Encoded]] | None = None,
    complete: Callable[[SentenceTransformer], None] = lambda model: None,
) -> tuple[Pipeline, BatchHints, TextFacts]:
    """The pipeline of a model of that `kind`, a class of sentence-transformers, which leaves its answers at `output`;
    how its queue forms batches; and what the model says about itself."""
    torch_for(setup)
    from deployments.text.encoders import engines

    setup.report(0.3)
    options: EncoderOptions = setup.options
    pipeline, engine, trials = engines.start(
        engines.Launch(
            path_of(family),
            setup,
            engines.Recipe(kind, library_arguments(setup), output, complete),
            encoder_for,
            sample or (lambda encoder: encoder.encode(TEXTS)),
            options.torch_dtype,
            options.attn_implementation,
            options.min_cosine,
            options.min_rank,
        )
    )
    setup.report(0.9)
    facts = TextFacts(
        max_tokens=pipeline.encoder.max_tokens,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        packed=pipeline.packs,
        engine=engine,
        engines=trials,
    )
    return pipeline, engines.pace_of(pipeline, setup), facts


def pair_sample(encoder: TextEncoder) -> list[Encoded]:
    """What engines that read two texts together are calibrated, compared and timed on."""
    return [pair for text in QUESTIONS for pair in encoder.encode_pairs(text, PASSAGES[::3])]
