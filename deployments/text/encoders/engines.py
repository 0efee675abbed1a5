"""From a launch to a running pipeline: the engine that was asked for, or the one that this machine runs best."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from cluster.value import JsonObject
from cluster.worker.family import BatchHints, Setup
from deployments.conversions import fingerprint
from deployments.device import dtype_for
from deployments.text.encoders import choice, compiled, trials
from deployments.text.encoders.compiled import Compiled
from deployments.text.encoders.library import sentence_transformers
from deployments.text.encoders.linear import arrange
from deployments.text.encoders.packing import ATTENTION
from deployments.text.encoders.pipeline import Pipeline
from deployments.text.engine_limits import (
    CANDIDATES,
    CARD_PARALLEL,
    COMPILED_BATCH_TOKENS,
    EXACT,
    MOST_PARALLEL,
    MOST_TIMES,
    SHORT_MS,
    TORCH_BATCH_TOKENS,
    UNNOTICED_MS,
    named,
)
from deployments.text.sample import PASSAGES
from deployments.text.tokenizing import Encoded, TextEncoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


log = logging.getLogger("cluster.worker.worker")

#: Inputs that an exported body may have.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Recipe:
    """How a family loads its kind of model, in this process and in one that converts it."""

    #: A class of sentence-transformers.
    kind: str
    #: What that class is given, beside the number format.
    arguments: JsonObject
    #: Where the answer is found among the features.
    output: str
    #: Adds the family's own parts to the loaded model.
    complete: Callable[[SentenceTransformer], None] = lambda model: None

    def load(self, folder: Path, dtype: torch.dtype, attention: str | None) -> SentenceTransformer:
        kind = getattr(sentence_transformers(), self.kind)

        def loaded(attention: str | None) -> SentenceTransformer:
            model_kwargs = {**self.arguments.get("model_kwargs", {}), "dtype": dtype}
            if attention is not None:
                model_kwargs["attn_implementation"] = attention
            model = kind(str(folder), **{**self.arguments, "model_kwargs": model_kwargs})
            self.complete(model)
            return model.eval()

        if attention is not None:
            return loaded(attention)
        try:
            model = loaded(ATTENTION)
        except (ValueError, ImportError, TypeError) as error:
            log.info("the model's attention is its own: %s", error)
            return loaded(None)
        # A model with attention code of its own accepts any name, and would misread the mask that comes with ours.
        return model if all(getattr(module, "_supports_sdpa", True) for module in model.modules()) else loaded(None)


@dataclass(frozen=True)
class Launch:
    #: As `load_family` finds it.
    family: str
    setup: Setup
    recipe: Recipe
    encoder_for: Callable[[SentenceTransformer], TextEncoder]
    #: Encodes what engines are calibrated, compared and timed on.
    sample: Callable[[TextEncoder], Sequence[Encoded]]
    dtype: str
    attention: str | None
    min_cosine: float
    min_rank: float

    @property
    def place(self) -> Path:
        """Where this machine keeps what it made of the model."""
        return (
            self.setup.home / "engines" / fingerprint(self.setup.folder, self.recipe.kind, *INPUTS, choice.versions())
        )

    def pipeline(self, engine: str) -> Pipeline:
        if engine in compiled.ENGINES:
            return self._compiled(engine)
        model = self.recipe.load(self.setup.folder, self._torch_dtype(engine), self.attention)
        if self.setup.device != "cpu":
            return self._around(model, parallel=CARD_PARALLEL)
        arrange(model[0])
        pipeline = self._around(model, parallel=self._most_parallel)
        pipeline.parallel = self.setup.measure(f"parallel {engine}", lambda: _parallel(pipeline))
        return pipeline

    @property
    def _most_parallel(self) -> int:
        return min(MOST_PARALLEL, self.setup.threads)

    def _around(self, model: SentenceTransformer, parallel: int, compiled: Compiled | None = None) -> Pipeline:
        threads = self.setup.threads
        encoder, output = self.encoder_for(model), self.recipe.output
        return Pipeline(model, encoder, output, threads=threads, parallel=parallel, compiled=compiled)

    def _compiled(self, engine: str) -> Pipeline:
        model = self.recipe.load(self.setup.folder, torch.float32, None)
        encoder = self.encoder_for(model)
        body = model[0]
        loader = {
            "kind": self.recipe.kind,
            "arguments": self.recipe.arguments,
            "inputs": INPUTS,
            "output": "logits" if hasattr(body.model, "lm_head") else _output_of(body),
            "max_tokens": encoder.max_tokens,
        }
        threads = self.setup.threads
        is_trial = self.setup.engine == choice.TRY
        file = compiled.converted(
            engine, self.setup.folder, loader, self.sample(encoder), self.place, threads, here=is_trial
        )
        parallel = self._most_parallel
        while True:
            pipeline = self._around(model, compiled=compiled.start(engine, file, threads, parallel), parallel=parallel)
            if parallel == 1 or _short_ms(pipeline) <= SHORT_MS:
                # Its weights are in the engine; a second copy would only take memory.
                body.model = None
                return pipeline
            parallel //= 2
            # Before the next one starts: two engines at once would take twice the memory.
            del pipeline

    def _torch_dtype(self, engine: str) -> torch.dtype:
        return dtype_for("bfloat16" if engine == "torch_bf16" else self.dtype, self.setup)


class Started(NamedTuple):
    pipeline: Pipeline
    engine: str
    #: What trying all engines on this machine showed, where the engine was chosen so.
    trials: tuple[JsonObject, ...] | None = None


def _output_of(body: torch.nn.Module) -> str:
    named = body.modality_config["text"]["method_output_name"]
    return str(named if isinstance(named, str) else named[-1])


def _parallel(pipeline: Pipeline) -> int:
    """So many passes at once that a short one among them is still quick."""
    while pipeline.parallel > 1 and _short_ms(pipeline) > SHORT_MS:
        pipeline.parallel //= 2
    return pipeline.parallel


def _short_ms(pipeline: Pipeline) -> float:
    return _fastest_ms(pipeline, pipeline.encoder.encode(["how long does one short question take?"]))


def _fastest_ms(pipeline: Pipeline, batch: Sequence[Encoded]) -> float:
    """Of the fastest of some runs, because other work on the machine slows the others."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        pipeline.compute(batch)
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1000


def start(launch: Launch) -> Started:
    """The pipeline on the engine that the launch asked for."""
    if launch.setup.engine == choice.TRY:
        choice.remember(launch.place, _conditions(launch), _try_all(launch))
        raise choice.Tried
    engine = named(launch.setup.engine)
    if engine == "auto":
        return _best(launch) if launch.setup.device == "cpu" else Started(launch.pipeline("torch"), "torch")
    return Started(launch.pipeline(engine), _spelled(engine))


def _best(launch: Launch) -> Started:
    tried = choice.remembered(launch.place, _conditions(launch))
    if tried is None:
        reason = trials.elsewhere(launch.family, launch.setup)
        tried = choice.remembered(launch.place, _conditions(launch)) or _untried(reason)
    best = next(trial for trial in tried if trial.verdict == "chosen")
    log.info("%s runs on %s", launch.setup.entry.name, best.engine)
    table = tuple({**asdict(trial), "engine": _spelled(trial.engine)} for trial in tried)
    return Started(launch.pipeline(best.engine), _spelled(best.engine), table)


def _conditions(launch: Launch) -> JsonObject:
    return {**choice.machine(), "threads": launch.setup.threads, "asked": [launch.min_cosine, launch.min_rank]}


def _untried(reason: str) -> list[choice.Trial]:
    """For when the trials crashed: nothing is remembered, so the next launch tries again."""
    log.warning("engines could not be tried: %s", reason)
    others = [choice.Trial(name, verdict=f"not tried: {reason}") for name in CANDIDATES if name != EXACT]
    return [choice.Trial(EXACT, verdict="chosen"), *others]


def _try_all(launch: Launch) -> list[choice.Trial]:
    tried: list[choice.Trial] = []
    exact = None
    for number, engine in enumerate(CANDIDATES):
        launch.setup.report(0.3 + 0.6 * number / len(CANDIDATES), f"trying {_spelled(engine)}")
        try:
            pipeline = launch.pipeline(engine)
            sample = launch.sample(pipeline.encoder)
            trial, outputs = choice.trial_of(engine, pipeline.vectors, sample, exact, COMPILED_BATCH_TOKENS)
        # Whatever a candidate's library raises, that candidate is left out.
        except Exception as error:
            log.info("%s is no candidate: %s: %s", engine, type(error).__name__, error)
            tried.append(choice.Trial(engine, verdict=f"cannot run it: {str(error)[:200]}"))
            continue
        exact = outputs if exact is None else exact
        tried.append(trial)
        del pipeline
        gc.collect()
    choice.choose(tried, launch.min_cosine, launch.min_rank)
    return tried


def _spelled(engine: str) -> str:
    return engine.replace("_", "-")


def pace_of(pipeline: Pipeline, setup: Setup) -> BatchHints:
    """How the queue before this pipeline forms its batches."""
    tokens = setup.measure("batch tokens", lambda: _batch_tokens(pipeline)) if setup.device == "cpu" else None
    return BatchHints(batch_tokens=tokens, pads=pipeline.pads, parallel=pipeline.parallel)


def _batch_tokens(pipeline: Pipeline) -> int:
    """On torch, more for a model so fast that the next request would not notice."""
    if not pipeline.packs:
        return COMPILED_BATCH_TOKENS
    passages = pipeline.encoder.encode(list(PASSAGES))
    batch = list(islice(cycle(passages), TORCH_BATCH_TOKENS * len(passages) // sum(map(len, passages))))
    return int(TORCH_BATCH_TOKENS * min(max(1.0, UNNOTICED_MS / _fastest_ms(pipeline, batch)), MOST_TIMES))
