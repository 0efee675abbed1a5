"""Events of the whole cluster, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from cluster.control.sqlite_store import SqliteStore
from cluster.keys import new_key
from cluster.status import Event, EventLevel, EventQuery
from tests.attacks.standing_in import StandIn, asked, run, settings


class Remembering(StandIn):
    """Its events are in a real store."""

    def __init__(self, *events: tuple[str, EventLevel, str], **fields: Any) -> None:
        super().__init__({"m": None, "n": None}, **fields)
        self.store = SqliteStore()
        self.store.add_events(
            [Event(ts=float(at), uid=uid, level=level, text=text) for at, (uid, level, text) in enumerate(events)]
        )

    async def events(self, uid: str) -> list[Event]:
        return self.store.events(uid)

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return self.store.recent_events(query)


EVENTS: tuple[tuple[str, EventLevel, str], ...] = (
    ("m", "INFO", "Launch model"),
    ("n", "ERROR", "It failed"),
    ("", "WARNING", "m gave way to n"),
    ("m", "WARNING", "It is slow"),
)


def texts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["event_content"] for row in answer.json()]


def test_events_of_the_cluster_come_the_newest_first_and_page_by_page(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), Remembering(*EVENTS)) as client:
            first = await client.get("/v1/events", params={"limit": 2})
            assert texts(first) == ["It is slow", "m gave way to n"]
            assert [row["model_uid"] for row in first.json()] == ["m", None]
            older = await client.get("/v1/events", params={"limit": 2, "before": first.json()[-1]["id"]})
            assert texts(older) == ["It failed", "Launch model"]
            assert texts(await client.get("/v1/events", params={"uid": "m"})) == ["It is slow", "Launch model"]
            worse = await client.get("/v1/events", params={"level": "WARNING"})
            assert texts(worse) == ["It is slow", "m gave way to n", "It failed"]
            for bad in ({"limit": 0}, {"limit": 1001}, {"before": "x"}, {"level": "LOUD"}):
                assert (await client.get("/v1/events", params=bad)).status_code in (400, 422), bad

    run(scene())


def test_a_key_for_some_models_is_told_what_happened_to_those_only(tmp_path: Path) -> None:
    key, text = new_key("some", ["list"], ["m"])

    async def scene() -> None:
        supervisor = Remembering(*EVENTS, keys=(key,))
        async with asked(settings(tmp_path, auth="on"), supervisor) as client:
            client.headers["authorization"] = f"Bearer {text}"
            assert texts(await client.get("/v1/events")) == ["It is slow", "Launch model"]
            assert texts(await client.get("/v1/events", params={"uid": "m"})) == ["It is slow", "Launch model"]
            for other in ("n", ""):
                assert (await client.get("/v1/events", params={"uid": other})).status_code == 403
            # What happened to the cluster itself names other models.
            assert (await client.get("/v1/cluster/events")).status_code == 403

    run(scene())
