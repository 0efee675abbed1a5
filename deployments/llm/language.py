"""What the families of language models share: prompts in, pieces of answers out, whatever engine writes them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject
from cluster.worker.family import BatchHints, Example, Finished, Prepared, Stop, Talking, Tell
from deployments.llm.facts import LanguageFacts
from deployments.llm.habits import UNKNOWN, Habits
from deployments.llm.parsing import END_OF_THINK, THINK, Read, Reader
from deployments.llm.picture_tokens import MARKS, PictureGrid
from deployments.llm.pictures import pictures_in, pixels_of, sizes_of, texts_of_each
from deployments.llm.pieces import Piece, TalkUsage, whole
from deployments.llm.requests import Query, characters_of, query_of
from deployments.llm.templates import plain
from deployments.llm.tool_choice import callable_tools, held_to_call, must_call
from deployments.llm.vocabulary import Vocabulary
from deployments.llm.writing import AnswerWriter, TokenOdds

#: The temperature of a request that names none, of a model that names none either.
TEMPERATURE = 1.0
#: Below this only the likeliest token is left, and some engines divide by zero.
LEAST_TEMPERATURE = 0.001
EXAMPLE_TOKENS = 8
#: Of each prompt that memory is measured at, of which there are as many at once as there can be.
LARGEST_TOKENS = 256
GB = 10**9


class LanguageOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    context_length: int | None = Field(
        default=None, ge=16, description="Tokens of a prompt and its answer together; the model's own by default."
    )
    slots: int = Field(default=16, ge=1, le=256, description="Answers that are written at once.")
    cache_gb: float = Field(
        default=1.0, gt=0, description="Memory for the tokens of all answers that are written at once, in gigabytes."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of an answer whose request does not say; up to the context by default."
    )
    temperature: float | None = Field(default=None, ge=0, le=2, description="Of requests that do not say.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Of requests that do not say.")
    top_k: int | None = Field(default=None, ge=1, description="Of requests that do not say.")


class CallReadingOptions(LanguageOptions):
    """Of families that read the calls of tools themselves."""

    tool_parser: Literal["auto", "hermes", "llama3", "mistral"] = Field(
        default="auto",
        description="How the model writes calls of tools; hermes is Qwen's way too. By default its template tells.",
    )


class Order(NamedTuple):
    """One request as the engine gets it."""

    ids: list[int]
    query: Query
    #: Of each answer, at most.
    max_tokens: int
    #: What its text may say besides the answer, as `Reader` takes it.
    marks: dict[str, Any] = {}
    #: Tokens of its pictures, which are not among the ids; the engine counts them when it gets them.
    picture_tokens: int = 0
    #: As many tokens as there is room for, of which the engine knows better where there are pictures.
    takes_all: bool = False
    #: Of its pictures, as they are seen.
    pixels: int = 0


class TokenSampling(NamedTuple):
    """How the tokens of an answer are chosen; everything is decided."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None


class Hear(Protocol):
    """What an engine says of one answer at a step: new tokens, how likely they were where that was asked for, and why
    it ends; an exception ends it as well. With the end, how many tokens of the prompt it had kept, if it knows, and how
    many it has, if it has counted."""

    def __call__(
        self,
        ids: Sequence[int],
        odds: Sequence[TokenOdds],
        end: str | Exception | None,
        cached: int = 0,
        prompt: int = 0,
        /,
    ) -> None: ...


class Engine(Protocol):
    """It steps in a thread of its own."""

    def write(self, order: Order, sampling: TokenSampling, hear: Hear) -> Stop:
        """Begins one answer. `hear` is called with "cancelled" once a stopped one has left the engine."""


def refuse_echo(query: Query) -> None:
    """For engines that begin with what follows the prompt."""
    if query.echo:
        raise errors.BadRequest("The engine does not repeat the prompt: send no echo.", "echo")


def refuse_adapter(query: Query, adapters: Collection[str] = ()) -> None:
    """Raises for an adapter that the model does not have."""
    if query.adapter is not None and query.adapter not in adapters:
        names = ", ".join(sorted(adapters)) or "none"
        raise errors.BadRequest(
            f"The model has no adapter {cut(query.adapter)}, it has {names}: launch it with lora_modules and "
            "model_engine=vllm.",
            "lora_name",
        )


class LanguageFamily(Talking):
    abilities: ClassVar[tuple[str, ...]] = ("chat", "generate", "tokenize_prompt", "detokenize")
    Options: ClassVar[type[BaseModel]] = LanguageOptions
    example: Example = Example(
        [{"prompt": "The capital of France is", "max_tokens": EXAMPLE_TOKENS, "temperature": 0}], {}, "generate"
    )

    #: Folders of adapters that requests may name.
    adapters: Mapping[str, str] = {}
    #: Whether the engine can hold answers to a format.
    has_grammars: ClassVar[bool] = False

    vocabulary: Vocabulary
    engine: Engine
    #: What it makes of pictures; None for a model that reads texts only.
    sees: PictureGrid | None = None
    #: Tokens that stand for pictures and other files. An engine that finds no file for one of them may end.
    stand_ins: frozenset[int] = frozenset()
    #: What stands around its thoughts; empty for a model that shows none.
    _thinks: tuple[str, str] | tuple[()] = ()

    def begins(
        self,
        vocabulary: Vocabulary,
        engine: Engine,
        context: int,
        kept_tokens: int,
        options: Any,
        calls: str = "auto",
        habits: Habits = UNKNOWN,
    ) -> None:
        """Called at the end of `load`. `kept_tokens`: of all answers at once. `calls`: the format of calls of tools."""
        self._calls = habits.calls or "auto" if calls == "auto" else calls
        template = vocabulary.template
        self._thinks = habits.thinks or ((THINK, END_OF_THINK) if template is not None and template.reasons else ())
        self.vocabulary, self.engine = vocabulary, engine
        self._options: LanguageOptions = options
        self._context = min(context, kept_tokens)
        self.pace = BatchHints(parallel=options.slots, room=kept_tokens)
        ids = vocabulary.ids_of("one", False)[-1:] * min(LARGEST_TOKENS, self._context // 2)
        self.largest = Example([{"prompt": ids, "max_tokens": 2, "temperature": 0}], {}, "generate")

    def facts_of(self, engine: str, dtype: str) -> LanguageFacts:
        """Once it has begun."""
        template = self.vocabulary.template
        return LanguageFacts(
            engine=engine,
            dtype=dtype,
            max_tokens=self._context,
            context_length=self._context,
            slots=self.pace.parallel,
            kept_tokens=self.pace.room or 0,
            takes_tools=template is not None and template.takes_tools,
            reasons=bool(self._thinks),
            sees=self.sees is not None,
        )

    # ------------------------------------------------------------------------------------------- before the engine

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        if ability == "tokenize_prompt":
            rows = [self._tokens_of(item, params.get("add_special_tokens", True)) for item in items]
            return Prepared([], [len(row["ids"]) for row in rows], answers=rows)
        if ability == "detokenize":
            skips = params.get("skip_special_tokens", True)
            return Prepared([], [0], answers=[self.vocabulary.text_of(self._own(ids), skips) for ids in items])
        orders = [self._order(query_of(item)) for item in items]
        return Prepared(
            orders,
            [len(order.ids) + order.picture_tokens for order in orders],
            costs=[
                float((len(order.ids) + order.picture_tokens + order.max_tokens) * order.query.n) for order in orders
            ],
        )

    def _tokens_of(self, item: Any, adds_special_tokens: bool) -> JsonObject:
        if isinstance(item, str):
            if len(item) > self._context * self.vocabulary.longest:
                raise self._too_long(-(-len(item) // self.vocabulary.longest), "tokens at least")
            return self.vocabulary.row_of(item, not adds_special_tokens)
        query = query_of(item)
        if pictures_in(query.messages or []):
            raise errors.BadRequest("Tokens are listed of texts, and a message has a picture.", "messages")
        ids = self._ids_of(query)
        return {"ids": ids, "tokens": [self.vocabulary.token(id) for id in ids]}

    def _own(self, ids: Sequence[int]) -> Sequence[int]:
        self.vocabulary.refuse_strange(ids)
        return ids

    def _order(self, query: Query) -> Order:
        self.refuse(query)
        refuse_adapter(query, self.adapters)
        ids = self._ids_of(query)
        if query.messages is not None and must_call(query):
            query = held_to_call(query)
        sizes = sizes_of(query.messages) if self.sees is not None and query.messages is not None else []
        picture_tokens = sum(self.sees.tokens(*size) + MARKS for size in sizes) if self.sees is not None else 0
        # Its engine writes the prompt of these, and may put the texts of a message together with nothing between them.
        self._refuse_stand_ins(ids, texts_of_each(query.messages or []) if picture_tokens else ())
        tokens = len(ids) + picture_tokens
        room = self._context - tokens
        if room < 1:
            raise self._too_long(tokens, "tokens")
        wanted = query.max_tokens or self._options.max_tokens
        # As much as the answers of one request may keep together.
        most = max(1, min(wanted or room, room, (self.pace.room or room) // query.n - tokens))
        marks = self._marks(query, ids) if query.messages is not None else {}
        return Order(ids, query, most, marks, picture_tokens, wanted is None, pixels_of(sizes))

    def _refuse_stand_ins(self, ids: Sequence[int], texts: Iterable[str]) -> None:
        """Those of pictures are not among the ids."""
        written = (id for text in texts for id in self.vocabulary.ids_of(text, True))
        if (stand_in := next((id for id in chain(ids, written) if id in self.stand_ins), None)) is not None:
            raise errors.BadRequest(
                f"The prompt has the token {cut(self.vocabulary.token(stand_in))}, which stands for a picture or "
                "another file, and there is none for it: leave it out, and send pictures as parts of messages.",
                "prompt",
            )

    def _marks(self, query: Query, ids: Sequence[int]) -> dict[str, Any]:
        if must_call(query):
            return {"calls": "forced"}
        template = self.vocabulary.template
        if template is None or not (self._thinks or query.tools):
            return {}
        calls = template.calls if self._calls == "auto" else self._calls
        end = self.vocabulary.text_of(ids[-8:], False).rstrip()
        marks: dict[str, Any] = {"reasons": bool(self._thinks), "calls": calls if query.tools else None}
        if self._thinks:
            marks |= {"marks": self._thinks, "thinks_first": end.endswith(self._thinks[0].rstrip())}
        return marks

    def refuse(self, query: Query) -> None:
        """Raises for what the engine cannot do."""

    def _ids_of(self, query: Query) -> list[int]:
        if isinstance(query.prompt, list):
            self.vocabulary.refuse_strange(query.prompt)
            return query.prompt
        if characters_of(query) > self._context * self.vocabulary.longest:
            raise self._too_long(-(-characters_of(query) // self.vocabulary.longest), "tokens at least")
        if query.prompt is not None:
            return self.vocabulary.ids_of(query.prompt, False)
        return self.vocabulary.ids_of(self.written(query), True)

    def written(self, query: Query) -> str:
        """The messages as the prompt of the model."""
        template = self.vocabulary.template
        if template is None:
            raise errors.BadRequest("The model has no chat template; ask it to go on with a prompt.", "messages")
        tools = query.tools if query.tool_choice != "none" else []
        if must_call(query):
            if not self.has_grammars:
                raise errors.BadRequest(
                    "The engine can hold no answer to being a call: tool_choice takes auto or none.", "tool_choice"
                )
            tools = callable_tools(query)
        if query.tools and not template.takes_tools:
            raise errors.BadRequest("The model's chat template knows no tools: it can call none.", "tools")
        text = template.written(
            plain(query.messages or [], self.sees is not None), tools, query.template, not query.continues
        )
        if not query.continues:
            return text
        last = (query.messages or [{}])[-1].get("content")
        # What templates write behind an answer would end it.
        return text[: text.rindex(last) + len(last)] if isinstance(last, str) and last and last in text else text

    def _too_long(self, tokens: int, unit: str) -> errors.ContextLengthExceeded:
        return errors.ContextLengthExceeded(
            f"The prompt has {tokens} {unit}, and the model's context has room for {self._context} with the answer.",
            "messages",
        )

    # ------------------------------------------------------------------------------------------------ the answers

    def begin(self, value: Order, tell: Tell) -> Stop:
        return Conversation(value, self.vocabulary, tell).begin(self.engine, self._sampling(value.query))

    def _sampling(self, query: Query) -> TokenSampling:
        options = self._options
        named = query.temperature, options.temperature, self.vocabulary.sampling.get("temperature")
        temperature = _first(*named, TEMPERATURE)
        return TokenSampling(
            temperature if temperature >= LEAST_TEMPERATURE else 0.0,
            _first(query.top_p, options.top_p, self.vocabulary.sampling.get("top_p"), 1.0),
            int(_first(query.top_k, options.top_k, self.vocabulary.sampling.get("top_k"), 0)),
            query.min_p or 0.0,
            query.seed,
        )

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


class Conversation:
    """The answers to one request: several where several were asked for, each of which the engine writes by itself.

    It is heard in the engine's thread, and stopped from any.
    """

    def __init__(self, order: Order, vocabulary: Vocabulary, tell: Tell) -> None:
        query = order.query
        self._order = order
        self._tell = tell
        self._writers = [
            AnswerWriter(vocabulary, query.stop, query.logprobs, bool(order.marks.get("calls"))) for _ in range(query.n)
        ]
        self._readers = [Reader(**order.marks) for _ in range(query.n)]
        #: Answers that have called a tool.
        self._have_called = [False] * query.n
        self._pieces: list[Piece] = []
        self._stops: list[Stop | None] = [None] * query.n
        #: Answers that have been ended for the caller, and those that the engine is done with.
        self._ended = [False] * query.n
        self._left = query.n
        #: Tokens of the prompt that the engine had kept.
        self._cached = 0
        #: Of the prompt, as the engine has counted.
        self._prompt = 0
        self._error: Exception | None = None
        self._is_stopped = False
        self._lock = threading.Lock()

    def begin(self, engine: Engine, sampling: TokenSampling) -> Stop:
        for choice in range(len(self._writers)):
            seed = None if sampling.seed is None else sampling.seed + choice
            stop = engine.write(self._order, sampling._replace(seed=seed), self._hears(choice))
            with self._lock:
                self._stops[choice] = stop
            # The engine may have met a stop string already.
            if self._ended[choice] or self._is_stopped:
                stop()
        return self.stop

    def stop(self) -> None:
        self._is_stopped = True
        for stop in self._stops:
            if stop is not None:
                stop()

    def _hears(self, choice: int) -> Hear:
        def hear(
            ids: Sequence[int],
            odds: Sequence[TokenOdds],
            end: str | Exception | None,
            cached: int = 0,
            prompt: int = 0,
            /,
        ) -> None:
            self._prompt = max(self._prompt, prompt)
            self._cached = max(self._cached, cached)
            if not self._ended[choice]:
                self._write(choice, ids, odds, end)
            if end is not None:
                self._leave(end)

        return hear

    def _write(self, choice: int, ids: Sequence[int], odds: Sequence[TokenOdds], end: str | Exception | None) -> None:
        writer = self._writers[choice]
        written = writer.add(ids, odds)
        text, finish = written.text, end if isinstance(end, str) else None
        if written.stop is not None:
            finish = "stop"
            with self._lock:
                stop = self._stops[choice]
            if end is None and stop is not None:
                stop()
        elif finish is not None:
            text += writer.end()
        if finish == "cancelled" or isinstance(end, Exception):
            return
        read = self._read(choice, text, finish is not None)
        if not (read.text or read.reasoning or read.calls or written.chances or finish):
            return
        self._ended[choice] = finish is not None
        if finish == "stop" and self._have_called[choice]:
            finish = "tool_calls"
        usage = self._usage() if all(self._ended) else None
        piece = Piece(choice, read.text, read.reasoning, read.calls, written.chances, finish, usage, written.stop)
        self._pieces.append(piece)
        self._tell(piece)

    def _read(self, choice: int, text: str, is_last: bool) -> Read:
        read = self._readers[choice].add(text)
        if is_last:
            last = self._readers[choice].end()
            read = Read(read.text + last.text, read.reasoning + last.reasoning, read.calls + last.calls)
        self._have_called[choice] |= bool(read.calls)
        return read

    def _usage(self) -> TalkUsage:
        # Where a stop string ends the answer, the engine has not counted yet.
        prompt = self._prompt or len(self._order.ids) + self._order.picture_tokens
        return TalkUsage(prompt, sum(writer.tokens for writer in self._writers), self._cached)

    def _leave(self, end: str | Exception) -> None:
        """The engine is done with one of the answers."""
        if isinstance(end, Exception):
            self._error = self._error or end
        self._left -= 1
        if self._left:
            if self._error is not None:
                self.stop()
            return
        if self._error is not None:
            outcome: object = self._error
        elif self._is_stopped and not all(self._ended):
            outcome = errors.RequestCancelled("It was stopped.")
        else:
            outcome = whole(self._pieces, len(self._writers))
        self._tell(Finished(outcome))
