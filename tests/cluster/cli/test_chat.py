"""`cluster chat`: what it says to the model, what it shows, and how an answer is stopped."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import FakeServer, Running, Seen

MODEL = {"id": "m", "model_type": "LLM", "cluster_type": "llm", "model_ability": ["chat", "generate"]}
CHAT = "POST /v1/chat/completions"


class ChatServer(FakeServer):
    """Answers each chat word by word; `for ever` never ends."""

    left = False

    async def answer(self, request: Request) -> Response:
        if request.url.path != "/v1/chat/completions":
            return await super().answer(request)
        body = json.loads(await request.body())
        self.seen.append(Seen("POST", request.url.path, {}, body, None))
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[0]["text"]
        return StreamingResponse(self._words(question), media_type="text/event-stream")

    async def _words(self, question: str) -> AsyncIterator[str]:
        try:
            for word in ["You", " said", f" {question}."]:
                yield _chunk({"choices": [{"index": 0, "delta": {"content": word}}]})
            while question == "for ever":
                await asyncio.sleep(0.02)
                yield _chunk({"choices": [{"index": 0, "delta": {"content": "!"}}]})
            yield _chunk({"choices": [], "usage": {"completion_tokens": 3}})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left = True
            raise


def _chunk(content: dict[str, Any]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **content})}\n\n"


@pytest.fixture
def server(running: Running) -> Iterator[ChatServer]:
    running.fake = ChatServer(running.fake.url)
    running.fake.on("GET /v1/models", {"data": [MODEL]})
    running.fake.on("GET /v1/models/m", MODEL)
    yield running.fake
    assert running.fake.unexpected == []


def said(server: ChatServer, number: int) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in server.of(CHAT)[number].body["messages"]]


def test_each_line_is_a_question_with_all_before_it(cluster: Callable[..., Result], server: ChatServer) -> None:
    done = cluster("chat", "--max-tokens", "9", "--temperature", "0", input="one\n\ntwo\n")
    assert (done.exit_code, done.stdout) == (0, "You said one.\nYou said two.\n")
    assert said(server, 1) == [("user", "one"), ("assistant", "You said one."), ("user", "two")]
    body = server.of(CHAT)[0].body
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("m", 9, 0, True)


def test_words_with_a_slash_are_orders(cluster: Callable[..., Result], server: ChatServer) -> None:
    lines = ["/system Be short.", "one", "/clear", "/help", "/odd", "two", "/exit", "three"]
    done = cluster("chat", "m", "--system", "Be long.", input="\n".join(lines))
    assert done.stdout == "You said one.\nYou said two.\n"
    assert said(server, 1) == [("system", "Be short."), ("user", "two")]
    assert "There is no /odd" in done.stderr and "/clear forgets all" in done.stderr


def test_pictures_are_shown_with_the_next_question(
    cluster: Callable[..., Result], server: ChatServer, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    lines = [f"/image {tmp_path}/gone.png", "one", f"/image {tmp_path}/b.png", "two", "three"]
    done = cluster("chat", "m", "--image", str(tmp_path / "a.png"), input="\n".join(lines))
    assert done.exit_code == 0 and "gone.png cannot be read: No such file or directory." in done.stderr
    questions = [call.body["messages"][-1]["content"] for call in server.of(CHAT)]
    for question, text, data in zip(questions, ("one", "two"), (b"a.png", b"b.png"), strict=False):
        url = f"data:image/*;base64,{base64.b64encode(data).decode()}"
        assert question == [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    assert questions[2] == "three"
    refused = cluster("chat", "m", "--image", str(tmp_path / "gone.png"), input="one\n")
    assert refused.exit_code != 0 and "gone.png cannot be read" in refused.stderr


def test_nobody_to_talk_with_is_said(cluster: Callable[..., Result], server: ChatServer) -> None:
    server.on("GET /v1/models", {"data": []})
    done = cluster("chat", input="hi\n")
    assert done.exit_code == 3 and "No language model is serving" in done.stderr


def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    at_terminal: Callable[..., Terminal], server: ChatServer
) -> None:
    terminal = at_terminal("chat", "m")
    terminal.read_until("listens")
    terminal.answer("for ever\n")
    stdout = terminal.process.stdout
    assert stdout is not None and stdout.read(40).startswith("You said for ever.!")
    terminal.interrupt()
    terminal.read_until("tokens/s")
    terminal.answer("two\n/exit\n")
    code, text = terminal.end()
    assert code == 0 and "[stopped]" in text and text.endswith("You said two.\n")
    assert server.left, "closing the stream makes the model stop"
    assert [role for role, _ in said(server, 1)] == ["user", "assistant", "user"]
