"""Chats that show pages to a model that reads."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from cluster import errors
from tests.deployments.ocr.http.asking import assert_refused
from tests.live import LiveCluster
from tests.painted import as_uri
from tests.read_pages import picture, reading


def message(*files: bytes, text: str = "") -> list[dict[str, Any]]:
    shown = [{"type": "image_url", "image_url": {"url": as_uri(file)}} for file in files]
    return [{"role": "user", "content": [*([{"type": "text", "text": text}] if text else []), *shown]}]


def test_a_chat_reads_what_its_last_message_shows(live: LiveCluster, server: httpx.Client) -> None:
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)
    first = message(picture("not this"))
    answer = client.chat.completions.create(model="reader", messages=[*first, *message(picture("one"), text="what?")])  # type: ignore[list-item]
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("one\nprompt what?", "stop")
    assert answer.usage.completion_tokens == 3 and answer.model == "reader"
    more = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="reader", messages=message(picture("a"), picture("b")), **more))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "a\n\nb" and chunks[-1].usage.total_tokens == 4


def test_a_model_that_takes_no_prompt_reads_the_picture_of_a_chat(live: LiveCluster) -> None:
    with reading(live, "plain-reader", takes_prompt=False):
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
        asked: Any = message(picture("two words"), text="What is written there?")
        answer = client.chat.completions.create(model="plain-reader", messages=asked, max_tokens=100)
        assert answer.choices[0].message.content == "two words"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 2, 3)
        # On the route for text, whoever sends a prompt means it.
        with live.client() as ours, pytest.raises(errors.BadRequest, match="takes no prompt"):
            ours.get_model("plain-reader").ocr(picture("a"), prompt="What is written there?")


def test_a_chat_without_a_picture_is_refused(server: httpx.Client) -> None:
    for content in ("hello", [{"type": "text", "text": "hello"}], [{"type": "input_audio"}], None):
        body = {"model": "reader", "messages": [{"role": "user", "content": content}]}
        assert_refused(server.post("/v1/chat/completions", json=body), 422, "messages")
