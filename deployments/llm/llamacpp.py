"""Language models through llama.cpp: any GGUF file, exactly as it is, with llama.cpp's own templates and parsers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.facts import ModelFacts
from cluster.names import cut
from cluster.paths import local_path
from cluster.value import JsonObject
from cluster.weights.inventory import read
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import BatchHints, Example, Finished, Prepared, Prospect, Setup, Stop, Talking, Tell
from deployments.llm.facts import LanguageFacts
from deployments.llm.habits import SAMPLING, UNKNOWN, Habits
from deployments.llm.language import EXAMPLE_TOKENS, refuse_adapter
from deployments.llm.needs import kept_of, plan_of, refuse_other, shape_in, smaller
from deployments.llm.pictures import pixels_of, sizes_of, with_pixels
from deployments.llm.pieces import CallPiece, Piece, TalkUsage, TokenChance, whole
from deployments.llm.projector import PIXELS_AT_ONCE, Projector, projector_in, projector_of, with_projector
from deployments.llm.requests import Query, characters_of, query_of
from deployments.llm.schemas import grammar_of, refuse_format
from deployments.llm.speculation import LOOKUP_TOKENS, SpeculatingOptions, refuse_other_draft, with_draft
from deployments.llm.templates import refuse_pictures
from deployments.llm.tool_choice import callable_tools, must_call
from deployments.llm.weights import gguf_in

if TYPE_CHECKING:
    from xllamacpp import Server

#: What to do about a picture for a model that was loaded without eyes.
BLIND = "launch a model that sees, with the mmproj file that belongs to it beside its GGUF file or named as mmproj"
#: Characters of a token in most texts, to weigh a request before anybody has counted.
TOKEN_CHARACTERS = 4
#: Tokens that it computes in one step at most. More at once need no more memory: what it keeps is taken when it loads.
STEP_TOKENS = 512
#: What a request says under the same name here and there.
SAME = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed", "n", "ignore_eos")


class LlamaCppOptions(SpeculatingOptions):
    mmproj: str | None = Field(
        default=None,
        description="The GGUF file that the model sees with; by default the only *mmproj*.gguf of its folder. A name "
        "without a folder is of a file beside the model, and none of a model that is to read texts only.",
    )
    image_max_tokens: int | None = Field(
        default=None,
        ge=16,
        le=16384,
        description="Tokens of one picture at most, of models that make more of them the larger it is.",
    )


class LlamaCpp(Talking):
    engines: ClassVar[tuple[str, ...]] = ("llamacpp", "llama.cpp", "llama_cpp", "xllamacpp")
    abilities: ClassVar[tuple[str, ...]] = ("chat", "generate")
    _habits = UNKNOWN
    formats = ("ggufv2",)
    Options: ClassVar[type[LlamaCppOptions]] = LlamaCppOptions
    example: Example = Example(
        [{"prompt": "The capital of France is", "max_tokens": EXAMPLE_TOKENS, "temperature": 0}], {}, "generate"
    )

    #: What it sees with.
    _projector: Projector | None = None

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        refuse_other(prospect, None, "llama.cpp", takes_parts=True)
        refuse_other_draft(prospect)
        projector_of(prospect, prospect.weights(allow_pickle=False))
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return with_projector(with_draft(plan_of(prospect, None, "f16"), prospect, "f16"), prospect)

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        return smaller(prospect)

    def load(self, setup: Setup) -> ModelFacts:
        options: LlamaCppOptions = setup.options
        file = gguf_in(setup.folder)
        shape = shape_in(read(file))
        kept = kept_of(shape, options, "f16")
        self._options = options
        self._habits = Habits.of(setup.entry)
        self._context = min(options.context_length or shape.context, shape.context, kept)
        setup.report(0.3)
        self._projector = projector_in(setup.folder, options.mmproj, options.image_max_tokens)
        self._server = _server(str(file), kept, options, setup.threads, self._projector)
        if options.draft_model is not None:
            _refuse_idle_draft(self._server, file, gguf_in(local_path(options.draft_model, "draft_model")))
        # A call keeps its thread until its answer is whole.
        self._threads = ThreadPoolExecutor(options.slots + 1, "llamacpp")
        self.pace = BatchHints(parallel=options.slots, room=kept, luggage=PIXELS_AT_ONCE)
        words = min(-(-STEP_TOKENS // options.slots), self._context // 4)
        self.largest = Example([{"prompt": "one " * words, "max_tokens": 2}], {}, "generate")
        return LanguageFacts(
            engine="llamacpp",
            max_tokens=self._context,
            context_length=self._context,
            slots=options.slots,
            kept_tokens=kept,
            takes_tools=_can(setup.entry, "tools"),
            reasons=_can(setup.entry, "reasoning"),
            sees=self._projector is not None,
        )

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        requests = [query_of(item) for item in items]
        for query in requests:
            refuse_format(query.format)
            refuse_adapter(query)
            if self._projector is not None and isinstance(query.prompt, list):
                raise errors.BadRequest(
                    "llama.cpp reads the prompts of a model that sees as texts: send the text of these tokens.",
                    "prompt",
                )
            if must_call(query):
                callable_tools(query)
        sizes = [self._sizes(query.messages or []) for query in requests]
        tokens = [self._tokens(query, seen) for query, seen in zip(requests, sizes, strict=True)]
        most = [self._most(query) for query in requests]
        costs = [float((count + more) * query.n) for count, more, query in zip(tokens, most, requests, strict=True)]
        return Prepared(requests, tokens, costs=costs, luggage=[float(pixels_of(seen)) for seen in sizes])

    def _sizes(self, messages: Sequence[JsonObject]) -> list[tuple[int, int]]:
        """Refuses pictures that cannot be seen, before anything is computed."""
        if self._projector is None:
            refuse_pictures(messages, BLIND)
            return []
        return sizes_of(messages)

    def _tokens(self, query: Query, sizes: Sequence[tuple[int, int]]) -> int:
        if isinstance(query.prompt, list):
            return len(query.prompt)
        return characters_of(query) // TOKEN_CHARACTERS + self._picture_tokens(sizes)

    def _picture_tokens(self, sizes: Sequence[tuple[int, int]]) -> int:
        tokens = sum(self._projector.tokens(*size) for size in sizes) if self._projector is not None else 0
        if tokens >= self._context:
            raise errors.ContextLengthExceeded(
                f"The pictures have {tokens} tokens, and the model's context has room for {self._context} with the "
                "texts and the answer.",
                "messages",
            )
        return tokens

    def _most(self, query: Query) -> int:
        return min(query.max_tokens or self._options.max_tokens or self._context, self._context)

    def begin(self, value: Query, tell: Tell) -> Stop:
        hearing = Chunks(value.n, tell, must_call(value))
        call = self._server.handle_completions if value.messages is None else self._server.handle_chat_completions
        # What is unpacked takes time: it is done there.
        self._threads.submit(hearing.of, call, partial(self._body, value, hearing.check))
        return hearing.stop

    def _body(self, query: Query, check: Callable[[], None]) -> JsonObject:
        body: dict[str, Any] = {name: getattr(query, name) for name in SAME if name in query.model_fields_set}
        for name in SAMPLING:
            if body.get(name) is None:
                usual = getattr(self._options, name)
                body[name] = self._habits.sampling.get(name) if usual is None else usual
        body |= {"stream": True, "max_tokens": self._most(query), "stream_options": {"include_usage": True}}
        if query.repetition_penalty is not None:
            body["repeat_penalty"] = query.repetition_penalty
        if stop := [*query.stop, *(() if query.ignore_eos else self._habits.stop)]:
            body["stop"] = stop
        if query.messages is not None:
            body["messages"] = with_pixels(query.messages, check)
            if query.tools:
                # It knows no names there: the tool that has to be called is the only one that it gets.
                tools, choice = (
                    (callable_tools(query), "required") if must_call(query) else (query.tools, query.tool_choice)
                )
                body |= {"tools": tools, "tool_choice": choice}
            if query.template:
                body["chat_template_kwargs"] = query.template
        else:
            body["prompt"] = query.prompt
        if query.logprobs:
            body |= (
                {"logprobs": True, "top_logprobs": query.top_logprobs}
                if query.messages
                else {"n_probs": max(1, query.top_logprobs)}
            )
        if query.format is not None and query.format.get("type") != "text":
            grammar = grammar_of(query.format)
            body |= {"grammar": grammar} if grammar else {"json_schema": query.format.get("schema", {"type": "object"})}
        return {name: value for name, value in body.items() if value is not None}

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs


def _can(entry: Entry, ability: str) -> bool:
    """What nobody denies is tried: llama.cpp finds it in the chat template."""
    said = entry.facts.get("model_ability")
    return not isinstance(said, list) or ability in said


def _server(file: str, kept: int, options: LlamaCppOptions, threads: int, projector: Projector | None) -> Server:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.kv_unified = file, kept, options.slots, True
    if projector is not None:
        params.mmproj.path = str(projector.path)
        if options.image_max_tokens is not None:
            params.image_max_tokens = options.image_max_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.use_jinja, params.ui, params.verbosity = True, False, -1
    kinds, speculative = xllamacpp.common_speculative_type, params.speculative
    if options.draft_model is not None:
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        draft = speculative.draft
        draft.mparams.path, draft.n_max = str(gguf_in(local_path(options.draft_model, "draft_model"))), options.guessed
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = threads
    elif options.prompt_lookup:
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        speculative.ngram_simple.size_n, speculative.ngram_simple.size_m = LOOKUP_TOKENS, options.guessed
    # It also listens on a port of this machine, which nobody is to use.
    params.api_keys = [secrets.token_urlsafe(32)]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        if projector is None:
            raise
        # It writes why to its log only.
        raise errors.LoadFailed(
            f"llama.cpp cannot load {file} together with {projector.path}: the mmproj file has to be that of this very "
            f"model; with mmproj=none it reads texts only. ({error})"
        ) from None


def _refuse_idle_draft(server: Server, model: Path, draft: Path) -> None:
    """llama.cpp goes on without a draft model of another vocabulary, and says nothing."""
    guessed: list[int] = []
    refusals: list[errors.ClusterError] = []

    def take(chunks: Any) -> bool:
        for chunk in chunks if isinstance(chunks, list) else [chunks]:
            if is_refusal(chunk):
                refusals.append(refusal_in(chunk.get("error", chunk)))
            guessed.append(int((chunk.get("timings") or {}).get("draft_n", 0)))
        return bool(refusals)

    server.handle_completions(
        {"prompt": "The capital of France is", "max_tokens": 8, "ignore_eos": True, "stream": True}, take
    )
    if refusals:
        raise errors.LoadFailed(f"The model does not write with draft_model {draft}: {refusals[0].message}")
    if not any(guessed):
        own, other = (shape_in(read(file)).vocabulary for file in (model, draft))
        sizes = f" ({other} tokens, and the model {own})" if own and other else ""
        raise errors.LoadFailed(
            f"draft_model {draft} has another vocabulary than the model{sizes}: take one of its kind."
        )


class Chunks:
    """llama.cpp's answer to one request: it comes as chunks in OpenAI's form, to a function that runs in the thread of
    the call. What that raises is lost without a word, so it raises nothing."""

    def __init__(self, choices: int, tell: Tell, must_call: bool = False) -> None:
        self._must_call = must_call
        self._choices = choices
        self._tell = tell
        self._pieces: list[Piece] = []
        self._held: dict[int, Piece] = {}
        self._usage: TalkUsage | None = None
        self._error: Exception | None = None
        self._is_stopped = False

    def stop(self) -> None:
        self._is_stopped = True

    def check(self) -> None:
        if self._is_stopped:
            raise errors.RequestCancelled("It was stopped.")

    def of(self, call: Callable[[JsonObject, Callable[[Any], bool]], Any], body: Callable[[], JsonObject]) -> None:
        try:
            call(self._made(body), self._take)
        # Whatever it raises ends this answer.
        except Exception as error:
            self._error = self._error or error
        self._tell(Finished(self._outcome()))

    def _made(self, body: Callable[[], JsonObject]) -> JsonObject:
        self.check()
        request = body()
        self.check()
        return request

    def _outcome(self) -> object:
        if self._error is not None:
            return self._error
        if self._must_call and self._held and not any(piece.calls for piece in (*self._pieces, *self._held.values())):
            if all(piece.finish != "length" for piece in self._held.values()):
                return errors.BadRequest(
                    "The model was to call a tool and called none: its chat template may know none.", "tool_choice"
                )
        for piece in self._held.values():
            self._say(piece._replace(usage=self._usage))
        if self._is_stopped and len(self._held) < self._choices:
            return errors.RequestCancelled("It was stopped.")
        return whole(self._pieces, self._choices)

    def _take(self, chunks: Any) -> bool:
        try:
            for chunk in chunks if isinstance(chunks, list) else [chunks]:
                self._read(chunk)
        # As above.
        except Exception as error:
            self._error = error
        return self._is_stopped or self._error is not None

    def _read(self, chunk: JsonObject) -> None:
        if is_refusal(chunk):
            raise refusal_in(chunk.get("error", chunk))
        if (usage := chunk.get("usage")) is not None:
            details = usage.get("prompt_tokens_details") or {}
            self._usage = TalkUsage(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens", 0))
        if (timings := chunk.get("timings")) is not None and self._usage is not None and timings.get("draft_n"):
            self._usage = self._usage._replace(guessed=timings["draft_n"], right=timings.get("draft_n_accepted", 0))
        for choice in chunk.get("choices", ()):
            piece = piece_of(choice)
            if piece.finish is not None:
                # The usage comes behind the last piece, and belongs to it.
                self._held[piece.choice] = piece
            elif piece.text or piece.reasoning or piece.calls or piece.chances:
                self._say(piece)

    def _say(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._tell(piece)


def piece_of(choice: JsonObject) -> Piece:
    delta = choice.get("delta") or {}
    logprobs = (choice.get("logprobs") or {}).get("content") or ()
    return Piece(
        int(choice.get("index", 0)),
        str(choice.get("text") or delta.get("content") or ""),
        str(delta.get("reasoning_content") or ""),
        tuple(_call_of(call) for call in delta.get("tool_calls") or ()),
        tuple(_chance_of(each) for each in logprobs),
        choice.get("finish_reason"),
    )


def _call_of(call: JsonObject) -> CallPiece:
    function = call.get("function") or {}
    return CallPiece(
        int(call.get("index", 0)),
        str(call.get("id") or ""),
        str(function.get("name") or ""),
        str(function.get("arguments") or ""),
    )


def _chance_of(told: JsonObject) -> TokenChance:
    top = tuple((each["token"], each["logprob"], tuple(each["bytes"])) for each in told.get("top_logprobs") or ())
    return TokenChance(told["token"], told["logprob"], tuple(told["bytes"]), top)


def is_refusal(chunk: JsonObject) -> bool:
    return "error" in chunk or "code" in chunk


def refusal_in(error: JsonObject) -> errors.ClusterError:
    """A refusal, which comes as a chunk."""
    message, code = cut(str(error.get("message", json.dumps(error)))), error.get("code", 500)
    if error.get("type") == "exceed_context_size_error":
        return errors.ContextLengthExceeded(
            f"The prompt has {error.get('n_prompt_tokens')} tokens, and the model's context has room for "
            f"{error.get('n_ctx')} with the answer.",
            "messages",
        )
    if isinstance(code, int) and 400 <= code < 500:
        return errors.BadRequest(f"llama.cpp refuses this: {message}")
    return errors.InferenceFailed(f"llama.cpp failed: {message}")
