"""OpenAI's chat completions, whole or in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Request, Response
from pydantic import Field

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked
from deployments.ingress.dialects import ChatAnswer, Services
from deployments.ingress.events import Events
from deployments.llm.http.fields import OpenAiFields
from deployments.llm.http.talks import Talks, ended, event, kept_alive, now, usage_body
from deployments.llm.pieces import CallPiece, Choice, Piece, TalkUsage, TokenChance
from deployments.llm.requests import Query


class ChatFields(OpenAiFields):
    messages: list[JsonObject] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    #: vLLM's and Xinference's: variables of the chat template.
    chat_template_kwargs: JsonObject | None = None
    continue_final_message: bool | None = None

    async def query(self, talks: Talks) -> Query:
        if self.logit_bias:
            raise errors.BadRequest("logit_bias is not available.", "logit_bias")
        if self.top_logprobs and not self.logprobs:
            raise errors.InvalidBody("top_logprobs needs logprobs to be true.", "top_logprobs")
        return await talks.chat(
            {
                **self.sampling(),
                "messages": self.messages,
                "max_tokens": self.max_completion_tokens or self.max_tokens,
                "logprobs": self.logprobs,
                "top_logprobs": self.top_logprobs,
                "tools": self.tools or None,
                "tool_choice": self.tool_choice if self.tools else None,
                "template": self.chat_template_kwargs,
                "continues": self.continue_final_message,
            }
        )


def answerer(services: Services) -> ChatAnswer:
    talks = services.shared(Talks)

    async def answer(request: Request, body: JsonObject) -> Response:
        fields: ChatFields = checked(ChatFields, body)
        query = await fields.query(talks)
        uid = talks.serving.find(request, fields.model, "chat").uid
        common = {"id": f"chatcmpl-{request.state.request_id}", "created": now(), "model": uid}
        if fields.stream:
            pieces = talks.pieces(request, fields.model, "chat", query)
            chunks = _chunks(pieces, query.n, {**common, "object": "chat.completion.chunk"}, fields.tells_usage)
            return await Events.of(ended(kept_alive(chunks, waits_for=talks.waits_for(request, uid))))
        reply, served = await talks.whole(request, fields.model, "chat", query)
        choices = [_choice(index, choice, query.logprobs) for index, choice in enumerate(reply.choices)]
        content = {**common, "object": "chat.completion", "choices": choices, "usage": usage_body(reply.usage)}
        return Json(content, headers=served.headers)

    return answer


def _choice(index: int, choice: Choice, tells_chances: bool) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return {
        "index": index,
        "message": message,
        "finish_reason": choice.finish,
        "logprobs": chances_body(choice.chances) if tells_chances else None,
    }


async def _chunks(
    source: AsyncGenerator[list[Piece]], choices: int, common: JsonObject, tells_usage: bool
) -> AsyncGenerator[bytes]:
    """A delta always has a text as content, the last one too: clients add it to what they have."""
    usage: TalkUsage | None = None
    is_begun = False
    async with contextlib.aclosing(source):
        async for pieces in source:
            chunks = []
            if not is_begun:
                is_begun = True
                chunks = [_chunk(common, index, {"role": "assistant", "content": ""}) for index in range(choices)]
            for piece in pieces:
                usage = piece.usage or usage
                chunks.append(_chunk(common, piece.choice, _delta(piece), piece.finish, piece.chances))
            yield b"".join(chunks)
    if tells_usage and usage is not None:
        yield event({**common, "choices": [], "usage": usage_body(usage)})


def _chunk(
    common: JsonObject,
    index: int,
    delta: JsonObject,
    finish: str | None = None,
    chances: Sequence[TokenChance] = (),
) -> bytes:
    logprobs = chances_body(chances) if chances else None
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return event({**common, "choices": [choice]})


def _delta(piece: Piece) -> JsonObject:
    delta: dict[str, Any] = {"content": piece.text}
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.calls:
        delta["tool_calls"] = [_call_delta(call) for call in piece.calls]
    return delta


def _call_delta(call: CallPiece) -> JsonObject:
    if not call.name:
        return {"index": call.place, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.place, "id": call.id, "type": "function", "function": function}


def chances_body(chances: Sequence[TokenChance]) -> JsonObject:
    return {
        "content": [
            {
                "token": chance.text,
                "logprob": chance.logprob,
                "bytes": list(chance.bytes),
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": list(raw)} for text, logprob, raw in chance.top
                ],
            }
            for chance in chances
        ],
        "refusal": None,
    }
