from __future__ import annotations

from typing import Any

import orjson
import pytest

from cluster import errors
from deployments.ingress.error_shapes import anthropic_error
from deployments.llm.http.anthropic import messages_of

CALL = {"type": "tool_use", "id": "c1", "name": "time", "input": {"zone": "UTC"}}


@pytest.mark.parametrize(
    ("message", "roles", "contents"),
    [
        ({"role": "user", "content": "hi"}, ["user"], ["hi"]),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ["user"],
            ["a\nb"],
        ),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, CALL]}, ["assistant"], [""]),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "noon"}]},
            ["tool"],
            ["noon"],
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "and?"},
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "noon"}]},
                ],
            },
            ["tool", "user"],
            ["noon", "and?"],
        ),
    ],
)
def test_blocks_become_messages(message: dict[str, Any], roles: list[str], contents: list[str]) -> None:
    messages = messages_of(message)
    assert [each["role"] for each in messages] == roles
    assert [each["content"] for each in messages] == contents


def test_the_use_of_a_tool_is_a_call() -> None:
    (message,) = messages_of({"role": "assistant", "content": [CALL]})
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "time", "arguments": '{"zone": "UTC"}'}}
    ]


@pytest.mark.parametrize("kind", ["document", "search_result", "surprise"])
def test_a_block_that_is_neither_text_nor_picture_is_refused(kind: str) -> None:
    with pytest.raises(errors.BadRequest, match=kind):
        messages_of({"role": "user", "content": [{"type": kind}]})
    with pytest.raises(errors.BadRequest, match=kind):
        messages_of({"role": "user", "content": [{"type": "tool_result", "content": [{"type": kind}]}]})


@pytest.mark.parametrize("content", [["x"], 5, {"type": "text"}])
def test_what_a_tool_has_answered_is_a_text_or_blocks(content: Any) -> None:
    with pytest.raises(errors.InvalidBody, match="content must be a text or a list of blocks"):
        messages_of({"role": "user", "content": [{"type": "tool_result", "content": content}]})


def test_a_tool_may_answer_nothing() -> None:
    (message,) = messages_of({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1"}]})
    assert message["content"] == ""


def test_a_body_that_does_not_fit_is_a_bad_request_there() -> None:
    answer = anthropic_error(errors.InvalidBody("messages: too few."))
    assert answer.status_code == 400 and b"invalid_request_error" in answer.body


def test_who_has_no_key_is_told_so_as_everywhere() -> None:
    answer = anthropic_error(errors.NotAuthenticated("No key."))
    assert answer.status_code == 401
    assert orjson.loads(answer.body) == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "No key."},
        "detail": "No key.",
    }
