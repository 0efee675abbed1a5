"""OpenAI's responses, without a memory: each request holds the whole conversation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.events import Events
from deployments.ingress.openapi import EVENTS, described
from deployments.llm.http.fields import format_of
from deployments.llm.http.talks import Talks, ended, kept_alive, now
from deployments.llm.pieces import Piece, Reply, TalkUsage, ToolCall, whole
from deployments.llm.requests import Query


class ResponsesFields(BaseModel):
    """Fields that are not here mean nothing for the answer, and are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    input: str | list[JsonObject]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    text: JsonObject | None = None
    reasoning: JsonObject | None = None
    previous_response_id: str | None = None
    background: bool | None = None

    async def query(self, talks: Talks) -> Query:
        for name in ("previous_response_id", "background"):
            if getattr(self, name):
                raise errors.BadRequest(f"{name} is not available: nothing is kept of earlier responses.", name)
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        tools = [_tool(tool) for tool in self.tools or ()]
        fields: dict[str, Any] = {
            "messages": [*system, *(message_of(item) for item in items if item.get("type") != "reasoning")],
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": tools or None,
            "tool_choice": self.tool_choice if tools else None,
            "format": format_of((self.text or {}).get("format")),
        }
        return await talks.chat(fields)


def message_of(item: JsonObject) -> JsonObject:
    """An item of the input as a message of a chat."""
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else orjson.dumps(output).decode()
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
    raise errors.InvalidBody(f"An item is a message or the call of a function, not {kind!r:.50}.", "input")


def _tool(tool: JsonObject) -> JsonObject:
    if tool.get("type") != "function":
        raise errors.BadRequest(f"A tool is a function here, not {tool.get('type')!r:.50}.", "tools")
    names = ("name", "description", "parameters")
    return {"type": "function", "function": {name: tool[name] for name in names if name in tool}}


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["responses"])
    talks = services.shared(Talks)

    @routes.post("/v1/responses")
    @described("Answer a conversation, as OpenAI's responses", JsonObject, body=ResponsesFields, media_types=(EVENTS,))
    async def respond(request: Request) -> Response:
        """Parts of the type `input_image` are pictures, as data URIs, for models that see."""
        fields: ResponsesFields = checked(ResponsesFields, await json_body(request))
        query = await fields.query(talks)
        uid = talks.serving.find(request, fields.model, "chat").uid
        answer = OpenResponse(str(request.state.request_id), uid, fields)
        if fields.stream:
            pieces = talks.pieces(request, fields.model, "chat", query)
            events = kept_alive(answer.events(pieces), waits_for=talks.waits_for(request, uid))
            return await Events.of(ended(events, b"", answer.error))
        reply, served = await talks.whole(request, fields.model, "chat", query)
        return Json(answer.finished(reply), headers=served.headers)

    return routes


class OpenResponse:
    """One response, and the events that tell of it."""

    def __init__(self, id: str, uid: str, fields: ResponsesFields) -> None:
        self._id = id
        self._common: JsonObject = {
            "id": f"resp_{id}",
            "object": "response",
            "created_at": now(),
            "model": uid,
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "temperature": fields.temperature,
            "top_p": fields.top_p,
            "tools": fields.tools or [],
            "tool_choice": fields.tool_choice or "auto",
            "parallel_tool_calls": True,
            "metadata": {},
            "previous_response_id": None,
            "error": None,
            "incomplete_details": None,
        }
        self._events = 0

    def finished(self, reply: Reply) -> JsonObject:
        (choice,) = reply.choices
        output: list[JsonObject] = []
        if choice.reasoning:
            summary = [{"type": "summary_text", "text": choice.reasoning}]
            output.append({"id": f"rs_{self._id}", "type": "reasoning", "summary": summary})
        if choice.text or not choice.calls:
            output.append(self._message(choice.text, "completed"))
        output += [_call_item(call) for call in choice.calls]
        is_cut = choice.finish == "length"
        return {
            **self._common,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output,
            "usage": _usage(reply.usage),
        }

    def _message(self, text: str, status: str) -> JsonObject:
        content = [_part(text)] if status == "completed" else []
        return {"id": f"msg_{self._id}", "type": "message", "role": "assistant", "status": status, "content": content}

    def _event(self, kind: str, **content: Any) -> bytes:
        number, self._events = self._events, self._events + 1
        return b"event: %s\ndata: %s\n\n" % (
            kind.encode(),
            orjson.dumps({"type": kind, "sequence_number": number, **content}),
        )

    def error(self, error: errors.ClusterError) -> bytes:
        return self._event("error", code=error.code(), message=error.message, param=error.param)

    async def events(self, source: AsyncGenerator[list[Piece]]) -> AsyncGenerator[bytes]:
        """What it thinks and the calls of tools come whole, behind the text."""
        every: list[Piece] = []
        at = {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": 0}
        has_text = False
        async with contextlib.aclosing(source):
            async for pieces in source:
                events = []
                if not every:
                    empty = {**self._common, "status": "in_progress", "output": [], "usage": None}
                    events += [self._event(f"response.{kind}", response=empty) for kind in ("created", "in_progress")]
                every += pieces
                if text := "".join(piece.text for piece in pieces):
                    if not has_text:
                        has_text = True
                        events += self._beginning(at)
                    events.append(self._event("response.output_text.delta", **at, delta=text, logprobs=[]))
                if events:
                    yield b"".join(events)
        reply = whole(every, 1)
        yield b"".join(self._ending(reply, at, has_text))

    def _beginning(self, at: JsonObject) -> list[bytes]:
        return [
            self._event("response.output_item.added", output_index=0, item=self._message("", "in_progress")),
            self._event("response.content_part.added", **at, part=_part("")),
        ]

    def _ending(self, reply: Reply, at: JsonObject, has_text: bool) -> list[bytes]:
        (choice,) = reply.choices
        events: list[bytes] = []
        if has_text:
            item = self._message(choice.text, "completed")
            events += [
                self._event("response.output_text.done", **at, text=choice.text, logprobs=[]),
                self._event("response.content_part.done", **at, part=_part(choice.text)),
                self._event("response.output_item.done", output_index=0, item=item),
            ]
        for number, call in enumerate(choice.calls, int(has_text)):
            item = _call_item(call)
            done = {"item_id": item["id"], "output_index": number, "name": call.name, "arguments": call.arguments}
            events += [
                self._event("response.output_item.added", output_index=number, item={**item, "arguments": ""}),
                self._event("response.function_call_arguments.done", **done),
                self._event("response.output_item.done", output_index=number, item=item),
            ]
        kind = "response.incomplete" if choice.finish == "length" else "response.completed"
        return [*events, self._event(kind, response=self.finished(reply))]


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: ToolCall) -> JsonObject:
    return {
        "id": call.id.replace("call_", "fc_"),
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def _usage(usage: TalkUsage) -> JsonObject:
    return {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
