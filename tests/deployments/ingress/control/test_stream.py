"""The stream over a real connection; what is in it is tested in test_fleet_news.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from cluster.keys import new_key
from tests.attacks.standing_in import StandIn, run, served, settings
from tests.live import free_port

CHANGES = "/v1/changes"


def test_an_open_stream_does_not_hold_up_the_end_of_its_server(tmp_path: Path) -> None:
    """It would for as long as draining may take: half a minute."""

    async def scene() -> None:
        async with httpx.AsyncClient() as client:
            async with asyncio.timeout(15), served(settings(tmp_path, port=free_port()), StandIn({"m": None})) as url:
                request = client.build_request("GET", url + CHANGES)
                answer = await client.send(request, stream=True)
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert b'"whole":true' in await anext(answer.aiter_bytes())
            await answer.aclose()

    run(scene())


def test_a_stream_ends_with_the_key_that_it_was_opened_with(tmp_path: Path) -> None:
    key, text = new_key("ann", ["list"])
    supervisor = StandIn({"m": None}, keys=(key,))

    async def scene() -> None:
        place = settings(tmp_path, port=free_port(), auth="on")
        header = {"authorization": f"Bearer {text}"}
        async with served(place, supervisor) as url, httpx.AsyncClient(headers=header, timeout=10) as client:
            async with client.stream("GET", url + CHANGES) as answer:
                lines = answer.aiter_lines()
                assert (await anext(lines)).startswith("id: ")
                supervisor.keys = ()
                supervisor.version += 1
                assert [line async for line in lines if line.startswith("event:")][-1] == "event: ended"

    run(scene())
