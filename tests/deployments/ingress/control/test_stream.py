"""The stream over a real connection; what is in it is tested in test_fleet_news.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from cluster.keys import new_key
from cluster.status import Event, EventQuery
from tests.attacks.standing_in import CountingWorker, StandIn, run, served, settings
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


async def read_until(client: httpx.AsyncClient, url: str, kind: str, enough: Callable[[Any], bool]) -> list[str]:
    """The kinds of the events until one of that kind is enough."""
    kinds: list[str] = []
    async with asyncio.timeout(10), client.stream("GET", url) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for text in answer.aiter_lines():
            if text.startswith("event: "):
                kinds.append(text[7:])
            elif text.startswith("data: ") and kinds[-1:] == [kind] and enough(json.loads(text[6:])):
                return kinds
            elif text.startswith("id: "):
                kinds.append("change")
    raise AssertionError(f"it ended after {kinds}")


def test_a_reader_is_told_the_numbers_that_it_asks_for_as_they_come(tmp_path: Path) -> None:
    worker, other = CountingWorker(), CountingWorker()

    async def scene() -> None:
        place = settings(tmp_path, port=free_port())
        async with served(place, StandIn({"m": worker, "n": other})) as url, httpx.AsyncClient() as client:
            path = f"{url}{CHANGES}?topic="

            def has_work(body: Any) -> bool:
                worker.work(1)
                return bool(any(body["series"]["requests"]) and body["model"] == "m")

            kinds = await read_until(client, path + "figures:m", "figures", has_work)
            assert kinds[0] == "change" and set(kinds) <= {"change", "beat", "figures"}
            await read_until(client, path + "figures", "figures", lambda body: body["model"] is None)

            def is_idle(body: Any) -> bool:
                rows = list(body["workers"].values())
                return {row["model"] for row in rows} == {"m", "n"} and rows[0]["waiting"] == 4

            await read_until(client, path + "workers&topic=figures:m", "workers", is_idle)
            answer = await client.get(path + "nothing")
            assert answer.status_code == 400 and "There is no topic 'nothing'" in answer.text
            assert (await client.get(path + "&topic=".join(f"figures:{n}" for n in range(9)))).status_code == 400

    run(scene())


def test_a_key_reads_no_topic_of_other_models(tmp_path: Path) -> None:
    key, text = new_key("ann", ["list"], ["mine"])
    supervisor = StandIn({"mine": CountingWorker(), "theirs": CountingWorker()}, keys=(key,))

    async def scene() -> None:
        place = settings(tmp_path, port=free_port(), auth="on")
        header = {"authorization": f"Bearer {text}"}
        async with served(place, supervisor) as url, httpx.AsyncClient(headers=header) as client:
            assert (await client.get(f"{url}{CHANGES}?topic=figures:theirs")).status_code == 403

            def is_mine(body: Any) -> bool:
                assert all(row["model"] == "mine" for row in body["workers"].values())
                return bool(body["workers"])

            await read_until(client, f"{url}{CHANGES}?topic=workers", "workers", is_mine)

    run(scene())


def test_a_stream_that_is_opened_anew_goes_on_after_what_was_read(tmp_path: Path) -> None:
    async def scene() -> None:
        async with (
            served(settings(tmp_path, port=free_port()), StandIn({"m": None})) as url,
            httpx.AsyncClient() as client,
        ):
            async with client.stream("GET", url + CHANGES) as answer:
                first = await anext(answer.aiter_lines())
            last = first.removeprefix("id: ")
            async with asyncio.timeout(10), client.stream("GET", f"{url}{CHANGES}?since={last}") as answer:
                assert await anext(answer.aiter_lines()) == "event: beat"

    run(scene())


class Telling(StandIn):
    """Its model writes lines, and things happen to it."""

    def __init__(self, **fields: Any) -> None:
        super().__init__({"m": None, "n": None}, **fields)
        self.lines = {"worker:m:1:0-a": ["first"], "worker:m:1:1-b": ["\x1b[1mother\x1b[0m"]}
        self.past = [Event(ts=1.0, level="INFO", uid="n", text="elsewhere", id=1)]

    async def worker_logs(self, uid: str, lines: int) -> dict[str, list[str]]:
        await self.status(uid)
        return {name: its[-lines:] for name, its in self.lines.items()}

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return [each for each in reversed(self.past) if query.takes(each)][: query.limit]


def test_lines_of_a_log_come_as_they_are_written_and_go_on_where_one_has_read(tmp_path: Path) -> None:
    supervisor = Telling()

    async def scene() -> None:
        async with served(settings(tmp_path, port=free_port()), supervisor) as url, httpx.AsyncClient() as client:
            bodies: list[Any] = []

            def is_told(body: Any) -> bool:
                bodies.append(body)
                if len(bodies) == 1:
                    supervisor.lines["worker:m:1:0-a"].append("second")
                return len(bodies) == 2

            path = f"{url}{CHANGES}?topic=log:m"
            async with client.stream("GET", f"{path}") as kept_open:
                assert kept_open.status_code == 200
                await read_until(client, path, "log", is_told)
                whole, added = bodies
                assert (whole["whole"], whole["lines"], whole["replicas"]) == (True, ["first", "other"], [0, 1])
                assert (added["whole"], added["lines"]) == (False, ["second"])
                # As long as somebody reads, whoever comes again is told only of what is new.
                supervisor.lines["worker:m:1:1-b"].append("third")
                resumed = f"{path}&cursor={added['cursor']}"
                await read_until(client, resumed, "log", lambda body: body["lines"] == ["third"] and not body["whole"])
            assert (await client.get(f"{url}{CHANGES}?topic=log")).status_code == 400

    run(scene())


def test_a_model_that_is_not_there_has_no_topic_and_nobody_is_asked_about_it(tmp_path: Path) -> None:
    supervisor = Telling()

    async def scene() -> None:
        async with served(settings(tmp_path, port=free_port()), supervisor) as url, httpx.AsyncClient() as client:
            for topic in ("log:gone", "figures:gone", "log:forged%0Aline"):
                async with client.stream("GET", f"{url}{CHANGES}?topic={topic}") as answer:
                    assert answer.status_code == 400 and b"Model not found" in await answer.aread()
            # Who comes again may not know yet that a model has gone, and reads on of all others.
            again = f"{url}{CHANGES}?topic=log:gone&topic=figures:gone&topic=events&since=x.1"
            kinds = await read_until(client, again, "events", lambda body: bool(body["events"]))
            assert kinds[0] == "change"

    run(scene())
    assert "worker_logs" not in supervisor.told and "logs" not in supervisor.told


def test_a_log_outlives_the_end_of_its_model_and_asks_for_no_more_of_it(tmp_path: Path) -> None:
    supervisor = Telling()

    async def scene() -> None:
        async with served(settings(tmp_path, port=free_port()), supervisor) as url, httpx.AsyncClient() as client:
            bodies: list[Any] = []
            asked_meanwhile: list[int] = []

            def is_told(body: Any) -> bool:
                bodies.append(body)
                if len(bodies) == 1:
                    del supervisor.workers["m"]
                return len(bodies) == 2

            async def come_back() -> None:
                while "m" in supervisor.workers or supervisor.told.count("worker_logs") < 2:
                    await asyncio.sleep(0.01)
                supervisor.version += 1
                supervisor.news += 1
                await asyncio.sleep(1.5)
                asked_meanwhile.append(supervisor.told.count("worker_logs"))
                supervisor.workers["m"] = None
                supervisor.version += 1

            returning = asyncio.create_task(come_back())
            await read_until(client, f"{url}{CHANGES}?topic=log:m", "log", is_told)
            await returning
            assert [body["lines"] for body in bodies] == [["first", "other"]] * 2 and bodies[1]["whole"]
            # Once at first, once when it had gone, and at most once more before the table said so.
            assert asked_meanwhile[0] <= 3

    run(scene())


def test_what_happens_is_told_to_those_whom_it_concerns(tmp_path: Path) -> None:
    key, text = new_key("ann", ["list"], ["m"])
    supervisor = Telling(keys=[key])

    async def scene() -> None:
        place = settings(tmp_path, port=free_port(), auth="on")
        header = {"authorization": f"Bearer {text}"}
        async with served(place, supervisor) as url, httpx.AsyncClient(headers=header) as client:
            supervisor.past.append(Event(ts=2.0, level="ERROR", uid="m", text="broke", id=2))
            told: list[str] = []

            def is_all(body: Any) -> bool:
                told.extend(event["event_content"] for event in body["events"])
                if told == ["broke"]:
                    supervisor.past.append(Event(ts=3.0, level="INFO", uid="n", text="not hers", id=3))
                    supervisor.past.append(Event(ts=4.0, level="INFO", uid="m", text="is back", id=4))
                return len(told) == 2

            await read_until(client, f"{url}{CHANGES}?topic=events", "events", is_all)
            assert told == ["broke", "is back"]

    run(scene())
