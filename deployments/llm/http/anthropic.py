"""Anthropic's messages: blocks instead of texts, and a stream of named events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from cluster import errors
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.error_shapes import anthropic_error_body
from deployments.ingress.events import Events
from deployments.ingress.openapi import EVENTS, described
from deployments.llm.http.talks import Talks, ended, kept_alive
from deployments.llm.pieces import Choice, Piece, TalkUsage
from deployments.llm.requests import Query

#: Where Xinference has these routes too; at its own /v1/models, models are listed in OpenAI's form.
PREFIX = "/anthropic"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class AnthropicErrorDetail(TypedDict):
    type: str
    message: str


class AnthropicError(TypedDict):
    type: Literal["error"]
    error: AnthropicErrorDetail


class AnthropicModel(TypedDict):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: str


class AnthropicModels(TypedDict):
    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class MessagesFields(BaseModel):
    """Fields that are not here mean nothing for the answer, and are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    messages: list[JsonObject] = Field(min_length=1)
    system: str | list[JsonObject] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[JsonObject] | None = None
    tool_choice: JsonObject | None = None
    thinking: JsonObject | None = None

    async def query(self, talks: Talks) -> Query:
        tools = [_tool(tool) for tool in self.tools or ()]
        fields: dict[str, Any] = {
            "messages": [*_system(self.system), *(each for m in self.messages for each in messages_of(m))],
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "tools": tools or None,
            "tool_choice": _choice_of(self.tool_choice) if tools else None,
        }
        if self.thinking is not None:
            fields["template"] = {"enable_thinking": self.thinking.get("type") == "enabled"}
        return await talks.chat(fields)


class AnthropicUsage(TypedDict):
    input_tokens: int
    output_tokens: int


class AnthropicMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[JsonObject]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class TokenCount(TypedDict):
    input_tokens: int


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["messages"])
    talks = services.shared(Talks)

    @routes.post("/v1/messages")
    @routes.post(f"{PREFIX}/v1/messages")
    @described(
        "Answer messages, as Anthropic does",
        AnthropicMessage,
        body=MessagesFields,
        media_types=(EVENTS,),
        error=AnthropicError,
    )
    async def messages(request: Request) -> Response:
        """Blocks of the type `image` with a source in base64 are pictures, for models that see."""
        fields: MessagesFields = checked(MessagesFields, await json_body(request))
        query = await fields.query(talks)
        uid = talks.serving.find(request, fields.model, "chat").uid
        message = {"id": f"msg_{request.state.request_id}", "type": "message", "role": "assistant", "model": uid}
        if fields.stream:
            source = _events(talks.pieces(request, fields.model, "chat", query), message)
            events = kept_alive(source, PING, talks.waits_for(request, uid))
            return await Events.of(ended(events, b"", _error_event))
        reply, served = await talks.whole(request, fields.model, "chat", query)
        (choice,) = reply.choices
        content = {
            **message,
            "content": _blocks(choice),
            "stop_reason": _reason(choice.finish, choice.stop),
            "stop_sequence": choice.stop,
            "usage": _usage(reply.usage),
        }
        return Json(content, headers=served.headers)

    @routes.post("/v1/messages/count_tokens")
    @routes.post(f"{PREFIX}/v1/messages/count_tokens")
    @described("Count the tokens of messages", TokenCount, body=MessagesFields, error=AnthropicError)
    async def count_tokens(request: Request) -> Json:
        fields: MessagesFields = checked(MessagesFields, await json_body(request))
        query = await fields.query(talks)
        ids = await talks.ids_of(request, fields.model, query)
        return Json({"input_tokens": len(ids)})

    @routes.get(f"{PREFIX}/v1/models")
    @described("The models that answer messages, as Anthropic lists them", AnthropicModels, error=AnthropicError)
    async def models(request: Request) -> Json:
        rows = [_row(model) for model in talks.serving.dispatcher.table.able(request.state.key, ["chat"])]
        ends = {"first_id": rows[0]["id"] if rows else None, "last_id": rows[-1]["id"] if rows else None}
        return Json({"data": rows, "has_more": False, **ends})

    @routes.get(f"{PREFIX}/v1/models/{{uid:path}}")
    @described("A model that answers messages, as Anthropic describes it", AnthropicModel, error=AnthropicError)
    async def model_of(uid: str, request: Request) -> Json:
        return Json(_row(talks.serving.find(request, uid, "chat")))

    return routes


def _row(model: ModelRoutes) -> AnthropicModel:
    created = datetime.fromtimestamp(model.launched.created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": model.uid, "display_name": model.launched.name, "created_at": created}


# --------------------------------------------------------------------------------------------------- what is asked


def _system(system: str | list[JsonObject] | None) -> list[JsonObject]:
    if not system:
        return []
    return [{"role": "system", "content": system if isinstance(system, str) else _text_in(system)}]


def _text_in(blocks: list[JsonObject]) -> str:
    return "\n".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")


def messages_of(message: JsonObject) -> list[JsonObject]:
    """One of Anthropic's as one or more of OpenAI's: results of tools are messages of their own there."""
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str) or content is None:
        return [{"role": role, "content": content}]
    blocks = _blocks_in(content)
    parts: list[JsonObject] = []
    calls: list[JsonObject] = []
    results: list[JsonObject] = []
    for block in blocks:
        kind = block.get("type")
        if kind in ("text", "image"):
            parts.append(_part(block))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            result = _result(block.get("content"))
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result})
        elif kind in ("thinking", "redacted_thinking"):
            continue
        else:
            raise _refusal_of(kind, "A block is a text, an image, a tool_use or a tool_result")
    own: JsonObject = {"role": role, "content": _content(parts)}
    if calls:
        own["tool_calls"] = calls
    return [*results, *([own] if parts or calls or not results else [])]


def _blocks_in(content: object) -> list[JsonObject]:
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise errors.InvalidBody("content must be a text or a list of blocks.", "messages")
    return content


def _result(content: object) -> str | list[JsonObject]:
    """What a tool has answered, if anything."""
    if isinstance(content, str):
        return content
    blocks = _blocks_in(content or [])
    for block in blocks:
        if block.get("type") not in ("text", "image"):
            raise _refusal_of(block.get("type"), "A block of a tool_result is a text or an image")
    return _content([_part(block) for block in blocks])


def _refusal_of(kind: object, rule: str) -> errors.ClusterError:
    if kind in ("document", "search_result"):
        return errors.BadRequest(f"Models read texts and pictures, and a message has a block of {kind}.", "messages")
    return errors.InvalidBody(f"{rule}, not {kind!r:.50}.", "messages")


def _part(block: JsonObject) -> JsonObject:
    return block if block.get("type") == "image" else {"type": "text", "text": str(block.get("text", ""))}


def _content(parts: list[JsonObject]) -> str | list[JsonObject]:
    """One text where there is no picture."""
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def _tool(tool: JsonObject) -> JsonObject:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description", ""),
        "parameters": tool.get("input_schema", {}),
    }
    return {"type": "function", "function": function}


def _choice_of(choice: JsonObject | None) -> str | JsonObject | None:
    kind = (choice or {}).get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": (choice or {}).get("name")}}
    return {"auto": "auto", "any": "required", "none": "none"}.get(str(kind))


# ------------------------------------------------------------------------------------------------- what is answered


def _reason(finish: str | None, stop: str | None) -> str:
    if finish == "length":
        return "max_tokens"
    if finish == "tool_calls":
        return "tool_use"
    return "stop_sequence" if stop is not None else "end_turn"


def _usage(usage: TalkUsage) -> JsonObject:
    return {"input_tokens": usage.prompt, "output_tokens": usage.completion, "cache_read_input_tokens": usage.cached}


def _blocks(choice: Choice) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    if choice.reasoning:
        blocks.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
    if choice.text or not choice.calls:
        blocks.append({"type": "text", "text": choice.text})
    for call in choice.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input_of(call.arguments)})
    return blocks


def _input_of(arguments: str) -> JsonObject:
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}


def _event(kind: str, content: JsonObject) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **content}))


def _error_event(error: errors.ClusterError) -> bytes:
    return b"event: error\ndata: %s\n\n" % orjson.dumps(anthropic_error_body(error))


class _Blocks:
    """The blocks of a stream: one after another, each begun and ended."""

    def __init__(self) -> None:
        self._index = -1
        self._open: object = None

    def add(self, kind: object, start: JsonObject, delta: JsonObject) -> list[bytes]:
        events = []
        if self._open != kind:
            events += self.end()
            self._index, self._open = self._index + 1, kind
            events.append(_event("content_block_start", {"index": self._index, "content_block": start}))
        if delta:
            events.append(_event("content_block_delta", {"index": self._index, "delta": delta}))
        return events

    def end(self) -> list[bytes]:
        was_open, self._open = self._open, None
        return [_event("content_block_stop", {"index": self._index})] if was_open is not None else []

    def add_piece(self, piece: Piece) -> list[bytes]:
        events = []
        if piece.reasoning:
            thinking = {"type": "thinking", "thinking": "", "signature": ""}
            events += self.add("thinking", thinking, {"type": "thinking_delta", "thinking": piece.reasoning})
        if piece.text:
            events += self.add("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": piece.text})
        for call in piece.calls:
            start: JsonObject = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": call.arguments} if call.arguments else {}
            events += self.add(("call", call.place), start, delta)
        return events


async def _events(source: AsyncGenerator[list[Piece]], message: JsonObject) -> AsyncGenerator[bytes]:
    blocks, usage = _Blocks(), TalkUsage(0, 0)
    finish: str | None = None
    stop: str | None = None
    is_begun = False
    async with contextlib.aclosing(source):
        async for pieces in source:
            events = []
            if not is_begun:
                is_begun = True
                empty: JsonObject = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(usage)}
                events.append(_event("message_start", {"message": {**message, **empty}}))
            for piece in pieces:
                events += blocks.add_piece(piece)
                usage, finish, stop = piece.usage or usage, piece.finish or finish, piece.stop or stop
            if events:
                yield b"".join(events)
    ending = {"delta": {"stop_reason": _reason(finish, stop), "stop_sequence": stop}, "usage": _usage(usage)}
    yield b"".join([*blocks.end(), _event("message_delta", ending), _event("message_stop", {})])
