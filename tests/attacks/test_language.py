"""Whoever asks a language model for something outrageous gets an answer or a refusal, and disturbs nobody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.live import LiveCluster, until

LONG = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 90}}, "required": ["a"]}


class Reader:
    """Somebody else, who reads a long answer."""

    def __init__(self) -> None:
        self.pieces = 0
        self.is_over = threading.Event()
        self.error = ""

    def read(self, url: str, model: str) -> None:
        body = {"model": model, "prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if self.is_over.is_set():
                    return
                self.pieces += line.startswith("data: {")
                self.error = self.error or (line if '"error"' in line else "")


@contextmanager
def reading(url: str, model: str) -> Iterator[Reader]:
    reader = Reader()
    thread = threading.Thread(target=reader.read, args=(url, model))
    thread.start()
    try:
        until(lambda: reader.pieces > 2, within=30)
        yield reader
    finally:
        reader.is_over.set()
        thread.join(30)


def hostile(model: str) -> list[tuple[str, str]]:
    def body(**more: Any) -> str:
        return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **more})

    def formed(schema: Any) -> str:
        return body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})

    return [
        ("5 MB", body(messages=[{"role": "user", "content": "word " * 1_000_000}])),
        ("too many tokens", body(messages=[{"role": "user", "content": "ab" * 60_000}])),
        ("half a letter", body().replace('"hi"', '"\\ud800"')),
        ("a million stops", body(stop=["x"] * 1_000_000)),
        ("answers", body(n=10**9)),
        ("biases", body(logit_bias={str(token): 1 for token in range(100_000)})),
        ("no number", body().replace('"max_tokens": 2', '"temperature": NaN')),
        ("tools", body(tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(10_000)])),
        ("deep", formed(0).replace('"schema": 0', '"schema": ' + '{"items":' * 10_000 + "{}" + "}" * 10_000)),
        ("properties", formed({"properties": {f"p{n}": {"type": "integer"} for n in range(1500)}})),
        ("number", formed({"type": "integer", "maximum": 10**30})),
        ("regex", body(guided_regex="((a{200}){200}){200}")),
        ("tokens that are none", json.dumps({"model": model, "prompt": [10**9]})),
    ]


def test_what_is_outrageous_is_refused_and_nobody_is_disturbed(live: LiveCluster, talker: str) -> None:
    with reading(live.url, talker) as reader, httpx.Client(timeout=30) as client:
        for what, body in hostile(talker):
            path = "/v1/completions" if '"prompt"' in body else "/v1/chat/completions"
            answer = client.post(live.url + path, content=body, headers={"Content-Type": "application/json"})
            assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text[:300])
            assert answer.json()["error"]["message"], what
        before = reader.pieces
        until(lambda: reader.pieces > before + 2, within=10)
    assert not reader.error


@pytest.mark.parametrize("variables", [{"messages": [], "tools": 1, "self": 1, "add_generation_prompt": 0}])
def test_variables_of_a_template_can_be_any(live: LiveCluster, talker: str, variables: dict[str, Any]) -> None:
    body = {"model": talker, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert live.post("/v1/chat/completions", {**body, "chat_template_kwargs": variables}).status_code == 200


def test_answers_go_on_while_a_grammar_is_compiled(live: LiveCluster, talker: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": LONG}}
    body = {"model": talker, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "response_format": form}
    with reading(live.url, talker) as reader:
        started, before = time.monotonic(), reader.pieces
        assert live.post("/v1/chat/completions", body).status_code == 200
        seconds, pieces = time.monotonic() - started, reader.pieces - before
    # Compiled within a step, it would keep the others waiting for all of a core-second.
    assert pieces > 5, f"{pieces} pieces in {seconds:.2f} s"
