"""Compiles the grammars that answers are held to, before the engine meets them.

To compile one may take seconds, and the engine would do it between two steps of everybody's answers. What is compiled
is kept with the tokenizer: so another pipeline with the same tokenizer, whose model is next to nothing, compiles it
first, in a thread that gives way. A grammar that cannot be compiled would also end the engine; this pipeline is made
again.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cluster import errors
from deployments.llm.heap import heap_bytes

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, LLMPipeline, Tokenizer

log = logging.getLogger("cluster.worker.worker")

#: Grammars that wait to be compiled, at most. Each takes up to seconds.
MOST_WAITING = 32
#: So many stay with one tokenizer, which forgets none of them.
MOST_KNOWN = 128
#: What a grammar may take of the room for all of them. Others are compiled as long as one of that size still fits.
MOST_SHARE = 0.25
#: Blanks of an indent, at most, and the rule of a gap in our grammars, which says the same.
MOST_INDENT = 16
GAP = r'gap ::= [ ]{0,1} | "\n" [ \t]{0,16}'
#: What may stand behind a gap.
BEHIND = r'(= ["{}\[\]:,0-9tfn\-])'
#: How often a grammar that seems too large is measured again, and how long after each other.
MEASURED_AGAIN, MEASURED_EVERY_S = 10, 0.1
#: Of the threads that compile: those that write answers go first.
NICENESS = 15


class PipelineFull(Exception):
    """The grammar was not compiled, since there is no room for more."""


#: Called in the thread that compiles, with what was wrong with the grammar.
Ready = Callable[["errors.ClusterError | PipelineFull | None"], None]
Compile = Callable[["GenerationConfig"], None]
#: Makes what compiles, where that is not made yet.
Compiler = Callable[[], Compile]


def engine_words(error: Exception) -> str:
    """What an engine says, without the places in its sources where it says so."""
    return re.sub(r"(failed )?(at )?/\S+", "", str(error)).strip()[-300:]


def with_gaps_that_end(grammar: str) -> str:
    """The same answers. Where it is not said what stands behind a gap, the engine keeps a list of all tokens that begin
    with a blank for each blank of an indent: two megabytes for each schema."""
    indents = (f'i{n} ::= ("" | [ \\t] i{n - 1}) {BEHIND}\n' for n in range(MOST_INDENT, 0, -1))
    gap = f'gap ::= ("" | " " | "\\n" i{MOST_INDENT}) {BEHIND}\n{"".join(indents)}i0 ::= ""'
    return grammar.replace(GAP, gap)


class Grammars:
    """Used by the engine's thread; grammars are compiled one after another."""

    def __init__(self, compiler: Compiler, room_bytes: float = math.inf) -> None:
        """`room_bytes`: for all that are kept."""
        self._compiler = compiler
        self._room_bytes = room_bytes
        #: What they take. Of what others allocate meanwhile most is given back while another is compiled.
        self._bytes = 0
        self._lock = threading.Lock()
        self._known: set[str] = set()
        #: Why those that are too large are refused. What is compiled of them is kept: a second time it takes nothing.
        self._too_large: dict[str, str] = {}
        self._waiting: dict[str, list[Ready]] = {}
        #: None when no other comes.
        self._orders: SimpleQueue[tuple[str, GenerationConfig] | None] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="grammars").start()

    def knows(self, name: str) -> bool:
        """Nothing is compiled for it any more."""
        return name in self._known or name in self._too_large

    def prepare(self, name: str, config: GenerationConfig, ready: Ready) -> bool:
        """True for what is compiled already. Otherwise calls `ready` when the grammar of that name is."""
        with self._lock:
            if name in self._known:
                return True
            if name in self._too_large:
                raise errors.BadRequest(self._too_large[name], "response_format")
            if name in self._waiting:
                self._waiting[name].append(ready)
                return False
            if len(self._waiting) >= MOST_WAITING:
                raise errors.Overloaded(
                    f"{MOST_WAITING} other forms of answers are being prepared; try again in a moment.",
                    "response_format",
                    retry_after_s=5.0,
                )
            self._waiting[name] = [ready]
        self._orders.put((name, config))
        return False

    @property
    def is_full(self) -> bool:
        """Another tokenizer has to take over."""
        return len(self._known) >= MOST_KNOWN or self._bytes > (1 - MOST_SHARE) * self._room_bytes

    @property
    def is_over(self) -> bool:
        """They take more than there is room for."""
        return self._bytes > self._room_bytes

    def close(self) -> None:
        self._orders.put(None)

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the priority of another process
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
        while order := self._orders.get():
            name, config = order
            refusal = PipelineFull() if self.is_full else self._refusal(name, config)
            with self._lock:
                if refusal is None:
                    self._known.add(name)
                waiting = self._waiting.pop(name)
            for ready in waiting:
                ready(refusal)

    def _refusal(self, name: str, config: GenerationConfig) -> errors.ClusterError | None:
        """Compiles a grammar. What is too large stays in memory until the next pipeline, too."""
        try:
            # What it takes itself is no grammar's.
            compile = self._compiler()
            before = heap_bytes()
            try:
                compile(config)
            finally:
                taken = self._taken_since(before)
                self._bytes = max(0, self._bytes + taken)
        # It may raise anything; only those who sent this grammar are to blame.
        except Exception as error:
            return errors.BadRequest(f"Answers cannot be held to this form: {engine_words(error)}", "response_format")
        if taken <= self._most_bytes:
            return None
        self._too_large[name] = (
            f"The form of this answer takes {taken / 1e6:.0f} MB of memory, and one may take "
            f"{self._most_bytes / 1e6:.0f} MB: repeat classes that have a blank less often."
        )
        return errors.BadRequest(self._too_large[name], "response_format")

    @property
    def _most_bytes(self) -> float:
        """Of one grammar."""
        return MOST_SHARE * self._room_bytes

    def _taken_since(self, before: int) -> int:
        """Others allocate meanwhile, and most of them for a step or an answer: the least counts that is measured."""
        taken = heap_bytes() - before
        for _ in range(MEASURED_AGAIN):
            if taken <= self._most_bytes:
                break
            time.sleep(MEASURED_EVERY_S)
            taken = min(taken, heap_bytes() - before)
        return taken


class TinyPipeline:
    """A model that computes nothing, with the tokenizer of another. It is made when it is first needed."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        """`folder`: of the model whose tokenizer it is."""
        self._folder = folder
        self._tokenizer = tokenizer
        self._pipeline: LLMPipeline | None = None

    def compiler(self) -> Compile:
        self._pipeline = self._pipeline or self._made()
        return partial(self._compile, self._pipeline)

    def _compile(self, pipeline: LLMPipeline, config: GenerationConfig) -> None:
        import numpy
        import openvino

        # Nothing is known of a pipeline that failed.
        self._pipeline = None
        pipeline.generate(openvino.Tensor(numpy.zeros((1, 1), numpy.int64)), config)
        self._pipeline = pipeline

    def _made(self) -> LLMPipeline:
        import openvino
        import openvino_genai

        model = openvino.Core().read_model(self._folder / "openvino_model.xml")
        width = model.output("logits").get_partial_shape()[-1].get_length()
        with TemporaryDirectory() as folder:
            openvino.save_model(_model_of_nothing(width), f"{folder}/openvino_model.xml")
            (Path(folder) / "config.json").write_text('{"model_type": "llama"}')
            return openvino_genai.LLMPipeline(
                folder, self._tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1
            )


def _model_of_nothing(width: int) -> Any:
    """It finds every token equally likely."""
    import numpy
    import openvino
    from openvino import opset13

    shapes = {"input_ids": [-1, -1], "attention_mask": [-1, -1], "position_ids": [-1, -1], "beam_idx": [-1]}
    inputs = {
        name: opset13.parameter(shape, numpy.int32 if name == "beam_idx" else numpy.int64, name=name)
        for name, shape in shapes.items()
    }
    for name, each in inputs.items():
        each.output(0).set_names({name})
    ids = opset13.convert(opset13.unsqueeze(inputs["input_ids"], opset13.constant(2)), numpy.float32)
    logits = opset13.matmul(ids, opset13.constant(numpy.zeros((1, width), numpy.float32)), False, False)
    logits.output(0).set_names({"logits"})
    return openvino.Model([opset13.result(logits)], list(inputs.values()), "nothing")
