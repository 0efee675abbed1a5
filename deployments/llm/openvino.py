"""Language models through OpenVINO GenAI's continuous batching, with int8 weights that this machine makes itself."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from cluster import errors
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Prospect, Setup, Stop
from cluster.worker.loading import give_memory_back
from deployments.conversions import fingerprint, run, version_of
from deployments.llm.engine_thread import EngineThread
from deployments.llm.grammars import (
    MOST_KNOWN,
    Compiler,
    Grammars,
    PipelineFull,
    TinyPipeline,
    engine_words,
    with_gaps_that_end,
)
from deployments.llm.habits import Habits
from deployments.llm.json_grammars import json_grammar
from deployments.llm.language import CallReadingOptions, Hear, LanguageFamily, Order, TokenSampling, refuse_echo
from deployments.llm.needs import kept_of, plan_of, refuse_other, smaller
from deployments.llm.requests import Query
from deployments.llm.schemas import grammar_of, refuse_format
from deployments.llm.shape import ARCHITECTURES, Shape
from deployments.llm.speculation import NOT_HERE, OPTIONS
from deployments.llm.vocabulary import Vocabulary
from deployments.llm.weights import gguf_in, let_go_of_pages
from deployments.llm.writing import TokenOdds

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, GenerationConfig

#: Tokens of one block of the cache.
BLOCK = 32
#: How much worse than the weights that were given the converted ones may be, by the mean loss on an example.
MOST_LOSS = 0.08
#: int8, with the scale of each row.
INT8_BYTES = 1.02
#: What it keeps of the lengths of steps that it has computed. It levels off: 1,400 prompts of all lengths added 285 MB
#: to the kept tokens. With CPU_RUNTIME_CACHE_CAPACITY=0 it grows less and begins higher, and every answer takes 6 % to
#: 10 % more of the processor.
SHAPES_BYTES = 300_000_000
#: A step keeps Python's lock, which whoever sends the pieces needs several times: without a pause each of those would
#: wait for a whole step. The first piece of a stream comes after 37 ms instead of 52; a pause of 0.3 ms costs a single
#: stream 4 %, and does not send sooner.
HAND_OVER_S = 0.00005
#: How long answers with further grammars let others go first, when the pipeline has met too many.
PATIENCE_S = 10.0
#: Of each token of the vocabulary the engine keeps so many numbers for a grammar: 0.04 to 0.63 MB were measured of
#: schemas and patterns with 49,152 tokens. A pattern that repeats blanks takes more, 17 MB for [ \t]{0,130}: then fewer
#: are kept.
GRAMMAR_NUMBERS = 4
#: Of models that are converted without being asked to: it takes four bytes of memory for each weight for a while.
MOST_BILLIONS = 2
#: Of the conversion; a change makes what is kept from before worthless.
CONVERSION = 1


class OpenvinoOptions(CallReadingOptions):
    kv_precision: Literal["auto", "u8", "f16", "bf16", "f32"] = Field(
        default="auto", description="Of the tokens that are kept; u8 takes half the memory of the others."
    )


class OpenvinoLanguage(LanguageFamily):
    engines: ClassVar[tuple[str, ...]] = ("openvino", "auto")
    Options: ClassVar[type[OpenvinoOptions]] = OpenvinoOptions
    formats = ("ggufv2",)
    has_grammars = True
    lacks = dict.fromkeys(OPTIONS, NOT_HERE)

    @classmethod
    def reads(cls, source: Source) -> bool:
        return super().reads(source) and source.architecture in ("", *ARCHITECTURES)

    @classmethod
    def suits(cls, source: Source) -> bool:
        return cls.reads(source) and (source.weight_billions or 0) <= MOST_BILLIONS

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        refuse_other(prospect, ARCHITECTURES, "OpenVINO")
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return plan_of(prospect, INT8_BYTES, prospect.options.kv_precision, _engine_bytes)

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        return smaller(prospect)

    def load(self, setup: Setup) -> ModelFacts:
        options: OpenvinoOptions = setup.options
        folder = converted(setup)
        made = json.loads((folder / "made.json").read_text())
        shape = Shape(**made["shape"])
        habits = Habits.of(setup.entry)
        vocabulary = Vocabulary(folder, habits)
        setup.report(0.7)
        context = min(options.context_length or shape.context, shape.context)
        kept = kept_of(shape, options, options.kv_precision)
        make = partial(_made, folder, kept, options, setup.threads)
        engine = self._running = OpenvinoEngine(vocabulary.ends, make, room_bytes=_grammar_bytes(shape.vocabulary))
        setup.report(0.95)
        self.begins(vocabulary, engine, context, kept, options, options.tool_parser, habits)
        # What it takes grows with the tokens that it keeps, and with the shapes and the grammars that it meets: nothing
        # of that is there when it is loaded, so nothing that is measured then counts for more than the plan.
        self.largest = None
        return replace(self.facts_of("openvino", "int8"), loss=made["loss"], reference_loss=made["reference_loss"])

    def unload(self) -> None:
        self._running.close()

    def refuse(self, query: Query) -> None:
        if query.top_logprobs:
            raise errors.BadRequest(
                "The engine tells how likely the token is that it took, and not the others: ask for logprobs without "
                "top_logprobs, or launch the model with model_engine=llamacpp.",
                "top_logprobs",
            )
        refuse_echo(query)
        # A grammar that the engine cannot read ends it, with all that others have asked for.
        refuse_format(query.format)


def _engine_bytes(shape: Shape | None) -> int:
    """What the engine keeps of all that it has met, and the pages of the table of words, which it reads in the file."""
    vocabulary, hidden = (shape.vocabulary, shape.hidden) if shape is not None else (0, 0)
    return SHAPES_BYTES + _grammar_bytes(vocabulary) + vocabulary * hidden


def _grammar_bytes(vocabulary: int) -> int:
    """Room for all grammars that a pipeline has met."""
    return MOST_KNOWN * GRAMMAR_NUMBERS * 4 * vocabulary


def converted(setup: Setup) -> Path:
    """The folder of the model as OpenVINO reads it, made now if it is not there yet."""
    versions = {name: version_of(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers", "nncf")}
    folder = setup.home / "engines" / fingerprint(setup.folder, "llm", CONVERSION, versions)
    if not (folder / "made.json").exists():
        gguf = gguf_in(setup.folder)
        setup.report(0.15, "converting")
        job = {
            "gguf": str(gguf),
            "place": str(folder),
            "reference_loss": setup.entry.facts.get("loss"),
            "most_loss": MOST_LOSS,
        }
        run("deployments.llm.conversion", job, f"{setup.entry.name} could not be converted for OpenVINO", setup.threads)
    return folder


def _made(
    folder: Path, kept: int, options: OpenvinoOptions, threads: int
) -> tuple[ContinuousBatchingPipeline, Compiler]:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-kept // BLOCK)
    scheduler.max_num_seqs = options.slots
    scheduler.enable_prefix_caching = True
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if options.kv_precision != "auto":
        properties["KV_CACHE_PRECISION"] = options.kv_precision
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
    config = openvino_genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
    config.apply_chat_template = False
    # The first step packs the weights, and few of those in the file are read again.
    handle = pipeline.add_request(2**62, _tensor([0]), config)
    while not handle.can_read():
        pipeline.step()
    let_go_of_pages(folder / "openvino_model.bin")
    return pipeline, TinyPipeline(folder, pipeline.get_tokenizer()).compiler


#: A pipeline, and what makes the compiler of its grammars.
Make = Callable[[], tuple["ContinuousBatchingPipeline", Compiler]]


class OpenvinoEngine(EngineThread):
    """Its pipeline is made anew when it has met too many or too large grammars, which would stay with it for ever.

    That takes until nothing is written: at first only answers with further grammars wait for it, in the end all."""

    def __init__(
        self, ends: frozenset[int], make: Make, patience_s: float = PATIENCE_S, room_bytes: float = math.inf
    ) -> None:
        """`patience_s`: how long answers with further grammars let others go first; `room_bytes`: for all grammars."""
        self._room_bytes = room_bytes
        self._ends = ends
        self._make = make
        self._patience_s = patience_s
        #: When the first of them began to wait.
        self._held_since = 0.0
        self._open()
        #: The pipeline's handle of each answer. Without it an answer would end silently.
        self._handles: dict[int, Any] = {}
        #: Answers whose grammars are being compiled, and those that wait for the next pipeline.
        self._preparing: dict[int, tuple[Order, TokenSampling]] = {}
        self._held: dict[int, tuple[Order, TokenSampling]] = {}
        super().__init__("openvino")

    def write(self, order: Order, sampling: TokenSampling, hear: Hear) -> Stop:
        return self._take(hear, partial(self._begin, order=order, sampling=sampling))

    def close(self) -> None:
        super().close()
        self._grammars.close()

    def _open(self) -> None:
        self._pipeline, compiler = self._make()
        self._grammars = Grammars(compiler, self._room_bytes)

    @property
    def _is_writing(self) -> bool:
        return bool(self._handles)

    def _begin(self, number: int, order: Order, sampling: TokenSampling) -> None:
        if self._grammars.is_full and self._has_to_wait(order):
            self._hold(number, order, sampling)
            self._renew()
            return
        try:
            if order.query.format is None or self._has_grammar(number, order):
                self._add(number, order, sampling)
            else:
                self._preparing[number] = order, sampling
        except errors.ClusterError as refusal:
            self._tell(number, end=refusal)

    def _hold(self, number: int, order: Order, sampling: TokenSampling) -> None:
        if not self._held:
            self._held_since = time.monotonic()
        self._held[number] = order, sampling

    def _has_to_wait(self, order: Order) -> bool:
        is_over = bool(self._held) and time.monotonic() - self._held_since >= self._patience_s
        return is_over or (order.query.format is not None and not self._grammars.knows(json.dumps(order.query.format)))

    def _add(self, number: int, order: Order, sampling: TokenSampling) -> None:
        try:
            config = _config(order, sampling, self._ends)
            self._handles[number] = self._pipeline.add_request(number, _tensor(order.ids), config)
        # Whatever the engine finds wrong with it is wrong with this one alone.
        except Exception as refusal:
            self._tell(number, end=errors.BadRequest(f"The engine refuses this: {engine_words(refusal)}"))

    def _has_grammar(self, number: int, order: Order) -> bool:
        """Otherwise it is compiled, and this engine is told."""
        name = json.dumps(order.query.format)
        return self._grammars.prepare(
            name, _only_grammar(order), lambda refusal: self._orders.put(partial(self._prepared, number, refusal))
        )

    def _prepared(self, number: int, refusal: errors.ClusterError | PipelineFull | None) -> None:
        work = self._preparing.pop(number, None)
        # It may have been stopped, or the engine has failed.
        if work is None or number not in self._hears:
            return
        if refusal is None:
            self._add(number, *work)
        elif isinstance(refusal, PipelineFull):
            self._hold(number, *work)
        else:
            self._tell(number, end=refusal)
        self._renew()

    def _cancel(self, number: int) -> None:
        if number in self._handles:
            self._handles[number].cancel()
            return
        self._preparing.pop(number, None)
        self._held.pop(number, None)
        self._tell(number, end="cancelled")
        self._renew()

    def _renew(self) -> None:
        """Begins anew once nothing is in the pipeline. Whoever waits for that has waited for the longest answer."""
        if not (self._held or self._grammars.is_over) or self._handles or self._preparing:
            return
        self._grammars.close()
        # Two would not fit beside each other.
        del self._pipeline
        give_memory_back()
        self._open()
        held, self._held = self._held, {}
        for number, work in held.items():
            self._begin(number, *work)

    def _step(self) -> None:
        self._pipeline.step()
        for number in list(self._handles):
            self._read(number, self._handles[number])
        time.sleep(HAND_OVER_S)
        self._renew()

    def _read(self, number: int, handle: Any) -> None:
        ids: list[int] = []
        odds: list[TokenOdds] = []
        while handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                odds += map(TokenOdds, output.generated_log_probs)
        status = handle.get_status().name
        if status == "RUNNING":
            if ids:
                self._tell(number, ids, odds)
            return
        del self._handles[number]
        finished = "stop" if ids and ids[-1] in self._ends else "length"
        self._tell(number, ids, odds, finished if status == "FINISHED" else "cancelled")


def _tensor(ids: Sequence[int]) -> Any:
    import numpy
    import openvino

    return openvino.Tensor(numpy.array([ids], numpy.int64))


def _config(order: Order, sampling: TokenSampling, ends: frozenset[int]) -> GenerationConfig:
    import openvino_genai

    query = order.query
    config = openvino_genai.GenerationConfig(max_new_tokens=order.max_tokens)
    config.apply_chat_template = False
    config.stop_token_ids = set() if query.ignore_eos else set(ends)
    config.ignore_eos = query.ignore_eos
    config.logprobs = int(query.logprobs)
    config.presence_penalty, config.frequency_penalty = query.presence_penalty, query.frequency_penalty
    config.repetition_penalty = query.repetition_penalty or 1.0
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature, config.top_p = sampling.temperature, sampling.top_p
        if sampling.top_k > 0:
            config.top_k = sampling.top_k
        config.min_p = sampling.min_p
        # Without a seed of its own every answer would begin at the same one.
        seed = sampling.seed if sampling.seed is not None else int.from_bytes(os.urandom(7))
        config.rng_seed = seed % 2**63
    if query.format is not None:
        config.structured_output_config = _structure(query.format)
    return config


def _only_grammar(order: Order) -> GenerationConfig:
    """For whoever compiles its grammar."""
    import openvino_genai

    config = openvino_genai.GenerationConfig(max_new_tokens=1)
    config.apply_chat_template = False
    assert order.query.format is not None
    config.structured_output_config = _structure(order.query.format)
    return config


def _structure(format: JsonObject) -> Any:
    import openvino_genai

    schema = format["schema"] if format.get("type") == "json_schema" else {"type": "object"}
    if (grammar := grammar_of(format) or json_grammar(schema)) is not None:
        return openvino_genai.StructuredOutputConfig(grammar=with_gaps_that_end(grammar))
    return openvino_genai.StructuredOutputConfig(json_schema=json.dumps(schema))
