"""Image requests while they run: streams, progress, abort, and clients that leave."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from cluster.calls import View
from deployments.ingress.progress import views
from tests.deployments.image.http.asking import EDITS, GENERATIONS, STEP_S, assert_refused, drawn
from tests.live import LiveCluster, until
from tests.painted import Journal, filled, opened, painting


def events_of(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in response.read().decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


SLOW = {"model": "c-slow", "prompt": "sea", "steps": 4, "stream": True}


@pytest.mark.parametrize("previews", [0, 1, 2, 3])
def test_a_stream_shows_as_many_previews_as_were_asked_for(server: httpx.Client, previews: int) -> None:
    with server.stream("POST", GENERATIONS, json={**SLOW, "partial_images": previews}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
    assert [name for name, _ in events] == ["image_generation.partial_image"] * previews + [
        "image_generation.completed"
    ]
    assert [told["type"] for _, told in events] == [name for name, _ in events]
    assert [told["partial_image_index"] for _, told in events[:-1]] == list(range(previews))
    for _, told in events[:-1]:
        assert opened(told["b64_json"]).format == told["output_format"].upper() == "JPEG"
        assert told.keys() >= {"created_at", "size", "quality", "background"}
    whole = drawn(server, json={**SLOW, "stream": False})["data"][0]
    assert opened(events[-1][1]["b64_json"]).tobytes() == opened(whole["b64_json"]).tobytes()
    assert events[-1][1]["usage"]["total_tokens"] == 1 + 16 and events[-1][1]["size"] == "64x64"


def test_a_stream_of_an_edit_has_the_names_of_edits(server: httpx.Client) -> None:
    form = {"model": "a-painter", "prompt": "sea", "stream": "true", "n": "2"}
    with server.stream("POST", EDITS, data=form, files={"image": filled()}) as response:
        events = events_of(response)
    assert [name for name, _ in events] == ["image_edit.completed"] * 2
    assert [told["seed"] for _, told in events] == [7, 8]
    assert [told["usage"]["input_tokens"] for _, told in events] == [1 + 12, 0]


def test_what_fails_before_anything_was_shown_is_an_error_like_any_other(server: httpx.Client) -> None:
    failing = {"model": "c-slow", "prompt": "told to fail", "stream": True}
    answer = server.post(GENERATIONS, json=failing)
    assert answer.status_code == 500 and "told to fail" in answer.json()["detail"]
    assert_refused(server.post(GENERATIONS, json={**failing, "size": "4096x4096"}), 400, "size")


def test_what_fails_later_is_an_event(server: httpx.Client) -> None:
    failing = {"model": "c-slow", "prompt": "told to fail", "stream": True, "steps": 4, "partial_images": 3}
    with server.stream("POST", GENERATIONS, json=failing) as response:
        assert response.status_code == 200
        events = events_of(response)
    assert [name for name, _ in events] == ["image_generation.partial_image", "error"]
    assert events[-1][1]["type"] == "error" and "told to fail" in events[-1][1]["error"]["message"]
    assert events[-1][1]["error"]["code"] == "inference_failed"


def test_a_silent_stream_is_kept_alive(live: LiveCluster, server: httpx.Client) -> None:
    with (
        painting(live, "d-silent", step_seconds=4.0, steps=1),
        server.stream("POST", GENERATIONS, json={"model": "d-silent", "prompt": "a", "stream": True}) as response,
    ):
        assert response.read().startswith(b": still at work\n\nevent: image_generation.completed\n")


def test_views_are_told_when_they_change_and_at_every_beat() -> None:
    async def told() -> list[int | None]:
        asking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answers = [None, View(1, "running", 0.1), View(1, "running", 0.1), View(2, "running", 0.2)]

        async def watch(seen: int, wait_s: float) -> View | None:
            if not answers:
                await asyncio.sleep(wait_s / 2)
                asking.set_result(None)
                return None
            return answers.pop(0)

        return [view and view.version async for view in views(asking, watch, 0.05)]

    assert asyncio.run(told()) == [None, 1, None, 2]


def test_a_request_is_followed_and_stopped_by_the_id_it_was_given(server: httpx.Client, slow_journal: Journal) -> None:
    asked = {"model": "c-slow", "prompt": "abort me", "steps": 50, "kwargs": json.dumps({"request_id": "mine-1"})}
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(server.post, GENERATIONS, json=asked)
        ran = slow_journal.wait_for("abort me", 2)
        seen = server.get("/v1/requests/mine-1/progress").json()
        assert seen["state"] == "running" and seen["stage"] == "denoising" and seen["steps"] == 50
        assert seen["progress"] == pytest.approx(seen["step"] / 50) and seen["step"] in (ran, ran + 1)
        twice = assert_refused(server.post(GENERATIONS, json=asked), 409, "request_id")
        assert twice == "Duplicate request id: mine-1"
        ran = slow_journal.wait_for("abort me", ran)
        stopped = server.post("/v1/models/c-slow/requests/mine-1/abort", json={"block_duration": 30})
        assert stopped.json() == {"msg": "DONE"}
        assert assert_refused(answer.result(), 409) == "The request has been cancelled: mine-1"
    assert slow_journal.after("abort me", 3 * STEP_S) <= ran + 1
    assert server.get("/v1/requests/mine-1/progress").json()["state"] == "cancelled"
    # Its id is refused for a while.
    assert_refused(server.post(GENERATIONS, json=asked), 409)
    assert slow_journal.steps("abort me") <= ran + 1


def test_the_progress_of_what_nobody_asked_for_is_a_404(server: httpx.Client) -> None:
    told = assert_refused(server.get("/v1/requests/never/progress"), 404)
    assert told == "No request 'never' is known."


def test_what_is_done_is_wholly_done(server: httpx.Client) -> None:
    drawn(server, json={"prompt": "a", "request_id": "mine-2"})
    seen = server.get("/v1/requests/mine-2/progress").json()
    assert seen["progress"] == 1.0 and seen["state"] == "done"


@pytest.mark.parametrize("stream", [False, True])
def test_at_most_one_step_is_taken_after_the_client_has_left(
    live: LiveCluster, server: httpx.Client, slow_journal: Journal, stream: bool
) -> None:
    prompt = f"leaves {stream}"
    asked = {"model": "c-slow", "prompt": prompt, "steps": 8}
    asked |= {"stream": True, "partial_images": 3} if stream else {}
    leaver = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    leaver.request("POST", GENERATIONS, json.dumps(asked), {"content-type": "application/json"})
    if stream:
        answer = leaver.getresponse()
        assert answer.readline() == b"event: image_generation.partial_image\n"
    ran = slow_journal.wait_for(prompt, 2)
    assert leaver.sock is not None
    leaver.sock.shutdown(socket.SHUT_RDWR)
    assert ran < 6 and slow_journal.after(prompt, 3 * STEP_S) <= ran + 1
    until(lambda: drawn(server, json={"model": "c-slow", "prompt": "next", "steps": 1}), within=5)


@pytest.mark.slow
def test_two_hundred_that_leave_at_random_leave_nothing_behind(live: LiveCluster, server: httpx.Client) -> None:
    """Every picture that a caller waits for is right as well."""
    seeds = random.Random(0)
    wanted = {
        seed: opened(drawn(server, json={"prompt": "sea", "seed": seed})["data"][0]["b64_json"]) for seed in range(4)
    }
    with painting(live, "d-many", step_seconds=0.01, steps=8):

        def one(number: int) -> bool:
            asked = {"model": "d-many", "prompt": "sea", "seed": number % 4, "stream": number % 3 == 0}
            if number % 2:
                with httpx.Client(base_url=live.url, timeout=60) as stayer:
                    rows = drawn(stayer, json={**asked, "stream": False})["data"]
                return opened(rows[0]["b64_json"]).tobytes() == wanted[number % 4].tobytes()
            leaver = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
            leaver.request("POST", GENERATIONS, json.dumps(asked), {"content-type": "application/json"})
            time.sleep(seeds.random() * 0.3)
            leaver.sock.shutdown(socket.SHUT_RDWR)
            return True

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(one, range(400)))
        # Nothing is left over that would delay the next request.
        started = time.monotonic()
        drawn(server, json={"model": "d-many", "prompt": "sea"})
        assert time.monotonic() - started < 1
