"""Answers on their way out in every dialect: what begins them, keeps them alive and ends them. A worker is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cluster import errors
from cluster.calls import Answer, Call
from deployments.llm.http import talks
from deployments.llm.pieces import Piece, TalkUsage, whole
from tests.attacks.standing_in import Method, StandIn, asked, settings
from tests.deployments.ingress.dispatch_scene import Remote

PARIS = [Piece(0, "Par"), Piece(0, "is"), Piece(0, finish="stop", usage=TalkUsage(5, 3))]
HELLO = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "m", "messages": HELLO, "stream": True}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "m", "prompt": "hi", "stream": True},
    "/v1/responses": {"model": "m", "input": "hi", "stream": True},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/api/chat": {"model": "m", "messages": HELLO},
    "/api/generate": {"model": "m", "prompt": "hi"},
}


class Speaker:
    """Stands in for a worker: says each piece, waits where there is a number, and raises where there is an error."""

    def __init__(self, *script: Piece | float | errors.ClusterError) -> None:
        self.script = script
        self.talk_in_frames = Remote(self._talk)
        self.infer, self.cancel = Method(self._infer), Method(self._cancel)
        self.cancelled: list[str] = []

    async def _talk(self, call: Call) -> AsyncIterator[Awaitable[list[object]]]:
        for step in self.script:
            yield self._step(step)
        yield self._said([Answer(None, 1)])

    async def _step(self, step: Piece | float | errors.ClusterError) -> list[object]:
        if isinstance(step, errors.ClusterError):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
            return []
        return [step]

    async def _said(self, pieces: list[object]) -> list[object]:
        return pieces

    async def _infer(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        pieces = [step for step in self.script if isinstance(step, Piece)]
        return [Answer([whole(pieces, 1)], 1) for _ in calls], 0

    async def _cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        self.cancelled += owners
        return True


def play(
    folder: Path,
    speaker: Speaker,
    scene: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
    waking: tuple[str, ...] = (),
) -> None:
    async def run() -> None:
        supervisor = StandIn({"m": speaker}, abilities=("chat", "generate"))
        supervisor.waking.update(waking)
        async with asked(settings(folder), supervisor) as client:
            await scene(client)

    asyncio.run(asyncio.wait_for(run(), 20))


def stream_of(folder: Path, path: str, *script: Piece | float | errors.ClusterError) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def scene(client: httpx.AsyncClient) -> None:
        answers.append(await client.post(path, json=BODIES[path]))

    play(folder, Speaker(*script), scene)
    return answers[0]


def contents(answer: httpx.Response) -> list[Any]:
    """The JSON of each event or line."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("data: ", "{"))]
    return [orjson.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_comes_whole_in_every_dialect(path: str, tmp_path: Path) -> None:
    answer = stream_of(tmp_path, path, *PARIS)
    assert answer.status_code == 200
    is_lines = path.startswith("/api/")
    assert answer.headers["content-type"] == (
        "application/x-ndjson" if is_lines else "text/event-stream; charset=utf-8"
    )
    assert "Par" in answer.text and "error" not in answer.text.replace('"error":null', "")
    assert answer.text.rstrip().endswith("[DONE]") == path.startswith(("/v1/chat", "/v1/completions"))


@pytest.mark.parametrize("path", BODIES)
def test_an_error_before_the_first_piece_has_a_status_of_its_own(path: str, tmp_path: Path) -> None:
    answer = stream_of(
        tmp_path, path, errors.ContextLengthExceeded("The prompt has 9 tokens, and there is room for 5.")
    )
    assert answer.status_code == 400 and "room for 5" in answer.text


@pytest.mark.parametrize("path", BODIES)
def test_an_error_after_the_first_piece_is_an_event(path: str, tmp_path: Path) -> None:
    answer = stream_of(tmp_path, path, PARIS[0], errors.WorkerLost("The process is gone."))
    assert answer.status_code == 200 and "Par" in answer.text
    *_, last = contents(answer)
    assert "The process is gone." in orjson.dumps(last.get("error", last)).decode()
    if path in ("/v1/chat/completions", "/v1/completions"):
        assert answer.text.endswith("data: [DONE]\n\n"), "clients would wait for it"


def test_every_delta_of_a_chat_has_a_text(tmp_path: Path) -> None:
    events = contents(stream_of(tmp_path, "/v1/chat/completions", *PARIS))
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert [delta["content"] for delta in deltas] == ["", "Par", "is", ""]
    assert all(event["choices"] for event in events), "nobody has asked for the usage"


def test_a_stream_that_is_silent_says_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talks, "KEEP_ALIVE_S", 0.05)
    answer = stream_of(tmp_path, "/v1/chat/completions", PARIS[0], 0.2, *PARIS[1:])
    assert 1 <= answer.text.count(": ping\n\n") <= 5
    assert [event["choices"][0]["delta"]["content"] for event in contents(answer)] == ["", "Par", "is", ""]
    assert "event: ping" in stream_of(tmp_path, "/v1/messages", PARIS[0], 0.2, *PARIS[1:]).text


@pytest.mark.parametrize("path", [path for path in BODIES if path.startswith("/v1")])
def test_a_stream_of_a_model_that_wakes_up_says_so(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talks, "WAITING_S", 0.05)
    note = ": the model wakes up, which takes about 3 s\n\n"

    async def scene(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=BODIES[path])
        assert answer.status_code == 200 and answer.text.startswith(note) and "Par" in answer.text
        # Its status is known by then, so it may not be given away before.
        hurried = await client.post(path, json=BODIES[path], headers={"Prefer": "wait=2"})
        assert note not in hurried.text and "Par" in hurried.text

    play(tmp_path, Speaker(0.3, *PARIS), scene, waking=("m",))

    async def failing(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=BODIES[path])
        assert answer.status_code == 200 and answer.text.startswith(note) and "The process is gone." in answer.text

    play(tmp_path, Speaker(0.3, errors.WorkerLost("The process is gone.")), failing, waking=("m",))


@pytest.mark.parametrize("path", BODIES)
def test_a_whole_answer_is_one_body(path: str, tmp_path: Path) -> None:
    async def scene(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json={**BODIES[path], "stream": False})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert "Paris" in answer.text

    play(tmp_path, Speaker(*PARIS), scene)
