"""Ollama's chat and generate: lines of JSON, a stream unless asked otherwise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.events import Lines
from deployments.ingress.keep_alive import KeepAlive, read_keep_alive, unloads
from deployments.ingress.ollama import TAG, described_for_ollama
from deployments.llm.http.talks import Talks, ended
from deployments.llm.pieces import Piece, Reply, TalkUsage, ToolCall, whole
from deployments.llm.requests import Query

NDJSON = "application/x-ndjson"
#: Its names of what the inner request has under others.
OPTIONS = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
SAME = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")


class OllamaFields(BaseModel):
    """Fields that are not here mean nothing for the answer, and are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    stream: bool | None = None
    format: str | JsonObject | None = None
    options: JsonObject | None = None
    think: bool | str | None = None
    keep_alive: str | float | None = Field(
        default=None,
        description="How long the model stays after this request: 5m, 300, 0 to go at once, -1 for ever.",
    )

    @property
    def name(self) -> str | None:
        return self.model.removesuffix(TAG) if self.model else None

    def sampling(self) -> dict[str, Any]:
        options = self.options or {}
        fields = {name: options.get(name) for name in SAME}
        fields |= {ours: options.get(theirs) for theirs, ours in OPTIONS.items()}
        if isinstance(fields["max_tokens"], int) and fields["max_tokens"] < 1:
            fields["max_tokens"] = None  # as many as there is room for
        stop = options.get("stop")
        fields["stop"] = [stop] if isinstance(stop, str) else stop
        if self.format:
            is_schema = isinstance(self.format, dict)
            fields["format"] = {"type": "json_schema", "schema": self.format} if is_schema else {"type": "json_object"}
        if self.think is not None:
            fields["template"] = {"enable_thinking": bool(self.think)}
        return fields


class OllamaChat(OllamaFields):
    messages: list[JsonObject] = Field(default=[])
    tools: list[JsonObject] | None = None

    async def query(self, talks: Talks) -> Query:
        messages = [_message(message) for message in self.messages]
        return await talks.chat({**self.sampling(), "messages": messages, "tools": self.tools or None})


class OllamaGenerate(OllamaFields):
    prompt: str | None = None
    system: str | None = None
    #: The prompt goes to the model as it is.
    raw: bool | None = None
    suffix: str | None = None
    images: list[str] | None = Field(default=None, description="Pictures for models that see, as base64.")

    async def query(self, talks: Talks) -> Query:
        if self.suffix:
            raise errors.BadRequest("The model goes on with a prompt, and fills nothing in before a suffix.", "suffix")
        if self.raw and self.images:
            raise errors.BadRequest("A prompt that goes to the model as it is has no place for pictures.", "images")
        if self.raw:
            return talks.query({**self.sampling(), "prompt": self.prompt or ""})
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, _message({"role": "user", "content": self.prompt or "", "images": self.images})]
        return await talks.chat({**self.sampling(), "messages": messages})


def _message(message: JsonObject) -> JsonObject:
    """As OpenAI has it. Ollama puts pictures before the text."""
    images = message.get("images")
    message = {name: value for name, value in message.items() if name != "images"}
    if not images:
        return message
    if not isinstance(images, list):
        raise errors.InvalidBody("images must be a list of pictures, as base64.", "messages")
    pictures = [{"type": "image_url", "image_url": image} for image in images]
    return {**message, "content": [*pictures, {"type": "text", "text": message.get("content") or ""}]}


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ollama-llm"])
    talks = services.shared(Talks)

    @routes.post("/api/chat")
    @described_for_ollama("Answer a chat, as Ollama does", JsonObject, body=OllamaChat, media_types=(NDJSON,))
    async def chat(request: Request) -> Response:
        """`images` of a message are pictures as base64, for models that see."""
        fields: OllamaChat = checked(OllamaChat, await json_body(request))
        # Clients send this to have a model in memory before they need it.
        query = await fields.query(talks) if fields.messages else None
        return await _answered(talks, request, fields, "chat", query, _chat_part)

    @routes.post("/api/generate")
    @described_for_ollama("Go on with a prompt, as Ollama does", JsonObject, body=OllamaGenerate, media_types=(NDJSON,))
    async def generate(request: Request) -> Response:
        fields: OllamaGenerate = checked(OllamaGenerate, await json_body(request))
        query = await fields.query(talks) if fields.prompt or fields.images else None
        ability = "generate" if fields.raw else "chat"
        return await _answered(talks, request, fields, ability, query, _generate_part)

    return routes


def _chat_part(text: str, reasoning: str, calls: tuple[ToolCall, ...]) -> JsonObject:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["thinking"] = reasoning
    if calls:
        message["tool_calls"] = [{"function": {"name": call.name, "arguments": _object_in(call)}} for call in calls]
    return {"message": message}


def _generate_part(text: str, reasoning: str, calls: tuple[ToolCall, ...]) -> JsonObject:
    return {"response": text, **({"thinking": reasoning} if reasoning else {})}


def _object_in(call: ToolCall) -> JsonObject:
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = {}
    return arguments if isinstance(arguments, dict) else {}


async def _answered(
    talks: Talks, request: Request, fields: OllamaFields, ability: str, query: Query | None, part: Any
) -> Response:
    keep_alive = talks.serving.dispatcher.keep_alive
    kept_s = read_keep_alive(fields.keep_alive, request.state.key)
    if query is None:
        return await _loaded(talks, request, fields, part)
    uid = talks.serving.find(request, fields.name, ability).uid
    started = time.perf_counter_ns()
    if fields.stream is not False:
        pieces = talks.pieces(request, fields.name, ability, query)
        lines = _lines(pieces, uid, part, started)
        return await Lines.of(_kept(ended(lines, b"", _error_line), keep_alive, uid, kept_s))
    with keep_alive.after(uid, kept_s):
        reply, _ = await talks.whole(request, fields.name, ability, query)
    choice = reply.choices[0]
    parts = part(choice.text, choice.reasoning, choice.calls)
    return Json({"model": uid, "created_at": _now(), **parts, **_last(reply, started, started)})


async def _loaded(talks: Talks, request: Request, fields: OllamaFields, part: Any) -> Response:
    """Clients ask nothing to have a model in memory before they need it, or to have it go, whatever its type."""
    dispatcher, key = talks.serving.dispatcher, request.state.key
    model = talks.serving.find(request, fields.name)
    goes = unloads(read_keep_alive(fields.keep_alive, None))
    if goes:
        await dispatcher.keep_alive.unload(model, key)
    else:
        with dispatcher.keep_alive.after(model.uid, read_keep_alive(fields.keep_alive, key)):
            await dispatcher.woken(model, talks.serving.timeout_of(request))
    reason = "unload" if goes else "load"
    return Json({"model": model.uid, "created_at": _now(), **part("", "", ()), "done": True, "done_reason": reason})


async def _kept(source: AsyncGenerator[bytes], keep_alive: KeepAlive, uid: str, kept_s: float | None) -> Any:
    with keep_alive.after(uid, kept_s):
        async with contextlib.aclosing(source):
            async for line in source:
                yield line


async def _lines(source: AsyncGenerator[list[Piece]], uid: str, part: Any, started: int) -> AsyncGenerator[bytes]:
    """Calls of tools come whole, behind the text."""
    every: list[Piece] = []
    first = started
    async with contextlib.aclosing(source):
        async for pieces in source:
            first = time.perf_counter_ns() if not every else first
            every += pieces
            lines = [
                _line({"model": uid, "created_at": _now(), **part(piece.text, piece.reasoning, ()), "done": False})
                for piece in pieces
                if piece.text or piece.reasoning
            ]
            if lines:
                yield b"".join(lines)
    reply = whole(every, 1)
    if calls := reply.choices[0].calls:
        yield _line({"model": uid, "created_at": _now(), **part("", "", calls), "done": False})
    yield _line({"model": uid, "created_at": _now(), **part("", "", ()), **_last(reply, started, first)})


def _last(reply: Reply, started: int, first: int) -> JsonObject:
    now = time.perf_counter_ns()
    usage: TalkUsage = reply.usage
    finish = reply.choices[0].finish
    return {
        "done": True,
        "done_reason": "length" if finish == "length" else "stop",
        "total_duration": now - started,
        "load_duration": 0,
        "prompt_eval_count": usage.prompt,
        "prompt_eval_duration": first - started,
        "eval_count": usage.completion,
        "eval_duration": now - first,
    }


def _line(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content) + b"\n"


def _error_line(error: errors.ClusterError) -> bytes:
    return _line({"error": error.message})


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
