"""Language models through OpenVINO GenAI's continuous batching, with int8 weights that this machine makes itself."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from cluster import errors
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Prospect, Setup, Stop
from deployments.conversions import fingerprint, run, version_of
from deployments.llm.facts import LanguageFacts
from deployments.llm.grammars import Grammars, TinyPipeline, engine_words
from deployments.llm.json_grammars import json_grammar
from deployments.llm.language import CallReadingOptions, Hear, LanguageFamily, Order, TokenSampling, refuse_echo
from deployments.llm.needs import kept_of, plan_of, refuse_other, smaller
from deployments.llm.requests import Query
from deployments.llm.schemas import grammar_of, refuse_format
from deployments.llm.shape import ARCHITECTURES, Shape
from deployments.llm.vocabulary import Vocabulary
from deployments.llm.weights import gguf_in
from deployments.llm.writing import TokenOdds

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, GenerationConfig

log = logging.getLogger("cluster.worker.worker")

#: Tokens of one block of the cache.
BLOCK = 32
#: How much worse than the weights that were given the converted ones may be, by the mean loss on an example.
MOST_LOSS = 0.08
#: int8, with the scale of each row.
INT8_BYTES = 1.02
#: Of the conversion; a change makes what is kept from before worthless.
CONVERSION = 1


class OpenvinoOptions(CallReadingOptions):
    kv_precision: Literal["auto", "u8", "f16", "bf16", "f32"] = Field(
        default="auto", description="Of the tokens that are kept; u8 takes half the memory of the others."
    )


class OpenvinoLanguage(LanguageFamily):
    engines: ClassVar[tuple[str, ...]] = ("openvino", "auto")
    Options: ClassVar[type[OpenvinoOptions]] = OpenvinoOptions
    has_grammars = True

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        refuse_other(prospect, ARCHITECTURES, "OpenVINO")
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return plan_of(prospect, INT8_BYTES, prospect.options.kv_precision)

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        return smaller(prospect)

    def load(self, setup: Setup) -> ModelFacts:
        options: OpenvinoOptions = setup.options
        folder = converted(setup)
        made = json.loads((folder / "made.json").read_text())
        shape = Shape(**made["shape"])
        vocabulary = Vocabulary(folder)
        setup.report(0.7)
        context = min(options.context_length or shape.context, shape.context)
        kept = kept_of(shape, options, options.kv_precision)
        pipeline = _pipeline(folder, kept, options, setup.threads)
        grammars = Grammars(TinyPipeline(folder, pipeline.get_tokenizer()).compile)
        engine = self._running = OpenvinoEngine(pipeline, vocabulary.ends, grammars)
        setup.report(0.95)
        self.begins(vocabulary, engine, context, kept, options, options.tool_parser)
        return LanguageFacts(
            engine="openvino",
            dtype="int8",
            max_tokens=self._context,
            context_length=self._context,
            slots=options.slots,
            kept_tokens=kept,
            takes_tools=vocabulary.template is not None and vocabulary.template.takes_tools,
            reasons=vocabulary.template is not None and vocabulary.template.reasons,
            loss=made["loss"],
            reference_loss=made["reference_loss"],
        )

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


def _pipeline(folder: Path, kept: int, options: OpenvinoOptions, threads: int) -> ContinuousBatchingPipeline:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-kept // BLOCK)
    scheduler.max_num_seqs = options.slots
    scheduler.enable_prefix_caching = True
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if options.kv_precision != "auto":
        properties["KV_CACHE_PRECISION"] = options.kv_precision
    return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)


#: One answer to write.
Work = tuple[Order, TokenSampling, Hear]


class GrammarReady(NamedTuple):
    """The grammar of an answer is compiled, or what is wrong with it."""

    refusal: errors.ClusterError | None


class OpenvinoEngine:
    """One thread steps, and is the only one that touches the pipeline: others leave their orders in a queue."""

    def __init__(self, pipeline: ContinuousBatchingPipeline, ends: frozenset[int], grammars: Grammars) -> None:
        self._pipeline = pipeline
        self._ends = ends
        self._grammars = grammars
        #: By the number of an answer: it begins, goes on now that its grammar is compiled, or ends (None).
        self._orders: SimpleQueue[tuple[int, Work | GrammarReady | None]] = SimpleQueue()
        #: Answers whose grammars are being compiled.
        self._preparing: dict[int, Work] = {}
        #: By number: the pipeline's handle, and who hears of it. Without its handle an answer would end silently.
        self._writing: dict[int, tuple[Any, Hear]] = {}
        self._numbers = iter(range(2**62))
        self._broken: errors.InferenceFailed | None = None
        self._is_closed = False
        threading.Thread(target=self._run, daemon=True, name="openvino").start()

    def write(self, order: Order, sampling: TokenSampling, hear: Hear) -> Stop:
        if self._broken is not None:
            raise errors.InferenceFailed(*self._broken.args)
        number = next(self._numbers)
        self._orders.put((number, (order, sampling, hear)))
        return lambda: self._orders.put((number, None))

    def close(self) -> None:
        """Ends its threads; it writes nothing any more."""
        self._is_closed = True
        self._orders.put((next(self._numbers), None))
        self._grammars.close()

    def _run(self) -> None:
        while not self._is_closed:
            if not self._writing:
                self._take(*self._orders.get())
            while not self._orders.empty():
                self._take(*self._orders.get())
            if self._writing and self._broken is None:
                self._step()

    def _step(self) -> None:
        try:
            self._pipeline.step()
        # Nothing of the pipeline is known to be whole: it refuses to step again. A new process has to.
        except Exception as error:
            log.critical("the engine failed: %s", error)
            self._broken = errors.InferenceFailed(f"The engine failed: {type(error).__name__}: {engine_words(error)}")
            for number in list(self._writing):
                self._writing.pop(number)[1]((), (), self._broken)
            for number in list(self._preparing):
                self._preparing.pop(number)[2]((), (), self._broken)
            return
        for number, (handle, hear) in list(self._writing.items()):
            self._read(number, handle, hear)

    def _read(self, number: int, handle: Any, hear: Hear) -> None:
        ids: list[int] = []
        odds: list[TokenOdds] = []
        while handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                odds += map(TokenOdds, output.generated_log_probs)
        status = handle.get_status().name
        if status == "RUNNING":
            if ids:
                hear(ids, odds, None)
            return
        del self._writing[number]
        if status == "FINISHED":
            hear(ids, odds, "stop" if ids and ids[-1] in self._ends else "length")
        else:
            hear(ids, odds, "cancelled")

    def _take(self, number: int, news: Work | GrammarReady | None) -> None:
        if news is None:
            self._stop(number)
        elif isinstance(news, GrammarReady):
            work = self._preparing.pop(number, None)
            if work is not None:
                self._begin(number, work, news)
        else:
            self._begin(number, news, None)

    def _stop(self, number: int) -> None:
        if number in self._writing:
            self._writing[number][0].cancel()
        elif number in self._preparing:
            self._preparing.pop(number)[2]((), (), "cancelled")

    def _begin(self, number: int, work: Work, prepared: GrammarReady | None) -> None:
        order, sampling, hear = work
        error = self._broken or (prepared and prepared.refusal)
        if error is not None:
            hear((), (), error)
            return
        try:
            config = _config(order, sampling, self._ends)
            if prepared is None and order.query.format is not None and not self._has_grammar(number, order):
                self._preparing[number] = work
                return
            handle = self._pipeline.add_request(number, _tensor(order.ids), config)
        except errors.ClusterError as refusal:
            hear((), (), refusal)
        # Whatever the engine finds wrong with it is wrong with this one alone.
        except Exception as refusal:
            hear((), (), errors.BadRequest(f"The engine refuses this: {engine_words(refusal)}"))
        else:
            self._writing[number] = handle, hear

    def _has_grammar(self, number: int, order: Order) -> bool:
        """Otherwise it is compiled, and this engine is told."""
        name = json.dumps(order.query.format)
        return self._grammars.prepare(
            name, _only_grammar(order), lambda refusal: self._orders.put((number, GrammarReady(refusal)))
        )


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
        return openvino_genai.StructuredOutputConfig(grammar=grammar)
    return openvino_genai.StructuredOutputConfig(json_schema=json.dumps(schema))
