"""Requests of one conversation reach one worker, in every dialect. The workers are played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from cluster.routes import Route, Snapshot
from deployments.llm.pieces import Piece, TalkUsage
from tests.attacks.standing_in import StandIn, asked, settings
from tests.deployments.llm.http.test_streams import BODIES, Speaker

WORKERS = [f"worker:m:1:{number}-x" for number in range(4)]
SYSTEM = {"role": "system", "content": "You know the weather of every town. " * 200}


class Several(StandIn):
    """Its model has workers that answer with their names."""

    async def changes(self, version: int, wait_s: float) -> Snapshot:
        snapshot = await super().changes(version, wait_s)
        model = replace(snapshot.models["m"], workers=tuple(map(Route, WORKERS)))
        handles = {name: Speaker(Piece(0, name), Piece(0, finish="stop", usage=TalkUsage(5, 3))) for name in WORKERS}
        return replace(snapshot, models={"m": model}, handles=handles)


@asynccontextmanager
async def several(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    speaker = Speaker()
    async with asked(settings(folder), Several({"m": speaker}, abilities=("chat", "generate"))) as client:
        yield client


async def worker_of(client: httpx.AsyncClient, path: str, body: Mapping[str, Any], session: str = "") -> str:
    headers = {"x-session-id": session} if session else {}
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    (worker,) = (name for name in WORKERS if name in answer.text)
    return worker


def chat(town: str, turns: int, stream: bool) -> dict[str, Any]:
    question, answer = {"role": "user", "content": f"Does it rain in {town}?"}, {"role": "assistant", "content": "No."}
    more = [answer, {"role": "user", "content": "And tomorrow?"}] * (turns - 1)
    return {"model": "m", "messages": [SYSTEM, question, *more], "stream": stream}


def test_a_conversation_stays_and_others_go_elsewhere(tmp_path: Path) -> None:
    async def play() -> None:
        async with several(tmp_path) as client:
            workers = set()
            for town in ("Oslo", "Lima", "Rome", "Cairo", "Quito", "Delhi"):
                bodies = [chat(town, turns, stream) for turns in (1, 2, 3) for stream in (True, False)]
                (worker,) = {await worker_of(client, "/v1/chat/completions", body) for body in bodies}
                workers.add(worker)
            assert len(workers) > 1

    asyncio.run(play())


def test_what_a_caller_calls_its_session_goes_first(tmp_path: Path) -> None:
    async def play() -> None:
        async with several(tmp_path) as client:
            workers = set()
            for session in ("a", "b", "c", "d", "e", "f"):
                bodies = [
                    (path, {**body, "stream": stream}) for path, body in BODIES.items() for stream in (True, False)
                ]
                (worker,) = {await worker_of(client, path, body, session) for path, body in bodies}
                workers.add(worker)
            assert len(workers) > 1

    asyncio.run(play())
