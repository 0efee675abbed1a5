"""OpenAI's responses, read by the types of its package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from cluster import errors
from deployments.llm.http.responses import OpenResponse, ResponsesFields, message_of
from deployments.llm.pieces import CallPiece, Piece, TalkUsage, whole

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CALL = CallPiece(0, "call_1", "time", '{"zone":"UTC"}')
ANSWERS = {
    "text": [Piece(0, "Par"), Piece(0, "is", finish="stop", usage=TalkUsage(5, 2))],
    "a call": [Piece(0, calls=(CALL,)), Piece(0, finish="tool_calls", usage=TalkUsage(5, 9))],
    "text and a call": [Piece(0, "Well."), Piece(0, calls=(CALL,), finish="tool_calls", usage=TalkUsage(5, 9))],
    "cut": [Piece(0, "Par", finish="length", usage=TalkUsage(5, 1))],
    "nothing": [Piece(0, finish="stop", usage=TalkUsage(5, 1))],
}


def begun() -> OpenResponse:
    return OpenResponse("r1", "m", ResponsesFields(model="m", input="hi"))


def events_of(pieces: list[Piece]) -> list[Any]:
    async def source() -> AsyncGenerator[list[Piece]]:
        for piece in pieces:
            yield [piece]

    async def read() -> bytes:
        return b"".join([part async for part in begun().events(source())])

    lines = asyncio.run(read()).decode().splitlines()
    return [orjson.loads(line[6:]) for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_response_is_one_to_openais_package(name: str) -> None:
    content = begun().finished(whole(ANSWERS[name], 1))
    response = Response.model_validate(content)
    assert response.status == ("incomplete" if name == "cut" else "completed")
    kinds = {"text": ["message"], "a call": ["function_call"], "text and a call": ["message", "function_call"]}
    assert [item.type for item in response.output] == kinds.get(name, ["message"])


@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_tells_the_same_step_by_step(name: str) -> None:
    events = events_of(ANSWERS[name])
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    *_, last = events
    assert last["response"]["output"] == begun().finished(whole(ANSWERS[name], 1))["output"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "".join(piece.text for piece in ANSWERS[name])


def test_items_become_messages() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "time", "arguments": "{}"}
    assert message_of(call)["tool_calls"][0]["function"] == {"name": "time", "arguments": "{}"}
    result = message_of({"type": "function_call_output", "call_id": "c1", "output": "noon"})
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "noon"}
    with pytest.raises(errors.InvalidBody, match="web_search_call"):
        message_of({"type": "web_search_call"})
