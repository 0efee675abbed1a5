from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest

from cluster import errors
from cluster.cards import Card, CardUser
from cluster.keys import MOST_SESSIONS, Key, Scope, of_caller
from cluster.routes import ModelRoutes, ServedModel
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import Claim, ModelState, ModelStatus, Node, StatusNews
from deployments.ingress.control.fleet_news import FleetNews
from tests.cluster.statuses import make_status
from tests.make import make_node

BEAT_S = 0.05


class Talking:
    """A supervisor that says what the test tells it to."""

    def __init__(self, *statuses: ModelStatus) -> None:
        self.statuses = {status.uid: status for status in statuses}
        self.version = 1
        self.asked = 0
        self.trouble: Exception | None = None
        self._changed = asyncio.Event()

    def say(self, *statuses: ModelStatus, gone: str = "") -> None:
        self.statuses |= {status.uid: status for status in statuses}
        self.statuses.pop(gone, None)
        self.version += 1
        self._changed.set()

    async def status_news(self, version: int, timeout_s: float) -> StatusNews:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        if version == self.version:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
        # All of it, as after a gap; differences are the reader's to find.
        return StatusNews(self.version, None, tuple(map(pickle.dumps, self.statuses.values())))

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        card = Card("X", foreign_bytes=1, foreign="pid 7, python", users=(CardUser(7, "python"),))
        return [(replace(make_node(gpus=1), cards=(card,)), Claim(), 0)]


def followed(supervisor: Talking, *, most_readers: int = 100, **models: ModelRoutes) -> FleetNews:
    return FleetNews(cast(SupervisorClient, supervisor), lambda: models, watch_s=0.5, most_readers=most_readers)


class Reader:
    def __init__(self, news: FleetNews, key: Key | None = None, last_id: str = "", address: str = "") -> None:
        self.events = news.read(key, last_id, BEAT_S, address)
        self.id = last_id
        self.beats = 0

    async def next(self) -> dict[str, Any]:
        """The next change."""
        async with asyncio.timeout(5):
            async for event in self.events:
                if event.startswith(b"event: beat"):
                    self.beats += 1
                    continue
                head, _, data = event.partition(b"\ndata: ")
                self.id = head.removeprefix(b"id: ").decode()
                body: dict[str, Any] = orjson.loads(data)
                return body
        raise AssertionError("the stream ended")

    async def close(self) -> None:
        await self.events.aclose()


@contextlib.asynccontextmanager
async def reading(*readers: Reader) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for reader in readers:
            await reader.close()


def uids(change: dict[str, Any]) -> list[str]:
    return [model["uid"] for model in change["models"]]


def test_all_there_is_comes_first_and_then_only_what_changed() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"), make_status("b"))
        reader = Reader(followed(supervisor))
        async with reading(reader):
            first = await reader.next()
            assert first["whole"] and uids(first) == ["a", "b"] and len(first["nodes"]) == 1
            supervisor.say(make_status("b", "READY"))
            second = await reader.next()
            assert not second["whole"] and uids(second) == ["b"] and second["nodes"] is None
            supervisor.say(gone="a")
            third = await reader.next()
            assert (uids(third), third["gone"]) == ([], ["a"])

    asyncio.run(scene())


def test_a_reader_that_lost_its_line_is_told_what_it_missed() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"), make_status("b"))
        news = followed(supervisor)
        staying, reader = Reader(news), Reader(news)
        async with reading(staying):
            await staying.next()
            await reader.next()
            await reader.close()
            supervisor.say(make_status("b", "READY"), gone="a")
            await staying.next()
            again = Reader(news, last_id=reader.id)
            async with reading(again):
                missed = await again.next()
                assert not missed["whole"] and uids(missed) == ["b"] and missed["gone"] == ["a"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    "last_id", ["", "other.1", "x", "other.", ".", "é.9" * 50, "{boot}.99", "{boot}.-1", "{boot}.1e3"]
)
def test_an_id_of_another_server_or_of_nobody_means_everything(last_id: str) -> None:
    async def scene() -> None:
        news = followed(Talking(make_status("a")))
        reader = Reader(news, last_id=last_id.replace("{boot}", news._boot))
        async with reading(reader):
            assert (await reader.next())["whole"]

    asyncio.run(scene())


def test_many_readers_cost_the_supervisor_what_one_does_and_none_nothing() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"))
        news = followed(supervisor)
        readers = [Reader(news) for _ in range(50)]
        async with reading(*readers):
            first = await asyncio.gather(*(reader.next() for reader in readers))
            assert all(change == first[0] for change in first)
            supervisor.say(make_status("a", "READY"))
            await asyncio.gather(*(reader.next() for reader in readers))
        assert supervisor.asked <= 3
        await asyncio.sleep(0)
        supervisor.say(make_status("a"))
        await asyncio.sleep(0.1)
        assert supervisor.asked <= 3

    asyncio.run(scene())


def test_who_reads_slowly_is_told_the_last_state_once() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"))
        news = followed(supervisor)
        slow, quick = Reader(news), Reader(news)
        async with reading(slow, quick):
            await slow.next()
            await quick.next()
            for replica in range(2, 8):
                supervisor.say(make_status("a", replica=replica))
                await quick.next()
            assert [model["replica"] for model in (await slow.next())["models"]] == [7]

    asyncio.run(scene())


def test_a_key_for_some_models_is_told_of_those() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("mine"), make_status("theirs"))
        key = Key(id="k", name="k", digest="d", scopes=("list",), models=("mine",))
        news = followed(supervisor)
        limited, other = Reader(news, key), Reader(news)
        async with reading(limited, other):
            told, whole = await limited.next(), await other.next()
            assert uids(told) == ["mine"] and len(uids(whole)) == 2
            (hers,), (all_of_it,) = told["nodes"][0]["cards"], whole["nodes"][0]["cards"]
            assert (hers["foreign_by"], hers["processes"][0]["pid"]) == ("", None)
            assert (all_of_it["foreign_by"], all_of_it["processes"][0]["pid"]) == ("pid 7, python", 7)
            supervisor.say(make_status("mine", "READY"), gone="theirs")
            change = await limited.next()
            assert (uids(change), change["gone"]) == (["mine"], [])

    asyncio.run(scene())


@pytest.mark.parametrize("trouble", [errors.Unavailable("It restarts."), AttributeError("status_news")])
def test_without_the_supervisor_a_reader_is_told_what_the_ingress_knows(trouble: Exception) -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a", "READY"))
        supervisor.trouble = trouble
        routed = ModelRoutes("a", ("embed",), (), ModelState.READY, launched=ServedModel(type="embedding", name="x"))
        reader = Reader(followed(supervisor, a=routed))
        async with reading(reader):
            first = await reader.next()
            assert not first["has_control"] and first["models"][0]["name"] == "x"
            supervisor.trouble = None
            second = await reader.next()
            assert second["has_control"] and second["models"][0]["name"] == "a"

    asyncio.run(scene())


def test_who_comes_after_all_have_left_is_told_what_is_now() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"))
        news = followed(supervisor)
        early, late = Reader(news), Reader(news)
        async with reading(early):
            await early.next()
        supervisor.say(make_status("b"), gone="a")
        async with reading(late):
            assert uids(await late.next()) == ["b"]

    asyncio.run(scene())


def test_a_silent_cluster_still_beats() -> None:
    async def scene() -> None:
        supervisor = Talking(make_status("a"))
        reader = Reader(followed(supervisor))
        async with reading(reader):
            await reader.next()
            asyncio.get_running_loop().call_later(3 * BEAT_S, supervisor.say, make_status("a", "READY"))
            await reader.next()
            assert reader.beats >= 1

    asyncio.run(scene())


def test_a_byte_of_a_file_name_that_is_no_letter_takes_control_from_nobody() -> None:
    """Sentences of libraries repeat such names."""

    async def scene() -> None:
        reader = Reader(
            followed(Talking(make_status("a", "FAILED", reason="no such file: caf\udce9.bin"), make_status("b")))
        )
        async with reading(reader):
            first = await reader.next()
            assert first["has_control"]
            assert [model["reason"] for model in first["models"]] == ["no such file: caf\\udce9.bin", ""]

    asyncio.run(scene())


def test_too_many_readers_are_refused_and_room_is_made_by_those_that_leave() -> None:
    async def scene() -> None:
        news = followed(Talking(make_status("a")), most_readers=2)
        first, second, third = Reader(news), Reader(news), Reader(news)
        async with reading(first, second):
            await first.next()
            await second.next()
            with pytest.raises(errors.Overloaded):
                await third.next()
            await second.close()
            fourth = Reader(news)
            async with reading(fourth):
                await fourth.next()

    asyncio.run(scene())


def key_called(id: str, *scopes: Scope) -> Key:
    return Key(id=id, name=id, digest=id, scopes=scopes)


ROOT, ANN, BOB = key_called("root", "admin"), key_called("ann", "list"), key_called("bob", "list")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"key": ANN}, {"key": BOB}),
        ({"key": ROOT}, {"key": ANN}),
        ({"address": "10.0.0.1"}, {"address": "10.0.0.2"}),
        # Two who share a key behind a gateway, and one with its key; also where the cell asks for no key.
        ({"key": of_caller(ANN, "a" * 16)}, {"key": of_caller(ANN, "b" * 16)}),
        ({"key": of_caller(ANN, "a" * 16)}, {"key": ANN}),
        ({"key": of_caller(None, "a" * 16)}, {"key": of_caller(None, "b" * 16)}),
    ],
)
def test_nobody_takes_the_places_of_all_others(one: dict[str, Any], other: dict[str, Any]) -> None:
    """As many pages are open with one key as browsers may be logged in with it."""

    async def scene() -> None:
        news = followed(Talking(make_status("a")), most_readers=2 * MOST_SESSIONS + 2)
        readers = [Reader(news, **one) for _ in range(MOST_SESSIONS)]
        async with reading(*readers):
            for reader in readers:
                await reader.next()
            with pytest.raises(errors.Overloaded, match=f"{MOST_SESSIONS} pages"):
                await Reader(news, **one).next()
            await readers[0].close()
            again, another = Reader(news, **one), Reader(news, **other)
            async with reading(again, another):
                await again.next()
                await another.next()

    asyncio.run(scene())


def test_callers_whom_somebody_makes_up_leave_places_for_the_owners_of_other_keys() -> None:
    async def scene() -> None:
        news = followed(Talking(make_status("a")), most_readers=2 * MOST_SESSIONS)
        readers = [Reader(news, of_caller(ANN, f"{number:016x}")) for number in range(MOST_SESSIONS)]
        async with reading(*readers):
            for reader in readers:
                await reader.next()
            with pytest.raises(errors.Overloaded, match="share this key"):
                await Reader(news, of_caller(ANN, "f" * 16)).next()
            another = Reader(news, BOB)
            async with reading(another):
                await another.next()

    asyncio.run(scene())


def test_readers_who_are_told_the_same_share_what_is_written() -> None:
    async def scene() -> None:
        news = followed(Talking(make_status("mine"), make_status("theirs")))
        keys = [key_called(id, "list").model_copy(update={"models": ("mine",)}) for id in "ab"]
        readers = [Reader(news, key) for key in keys]
        async with reading(*readers):
            first, second = [await anext(reader.events) for reader in readers]
            assert first is second and b"theirs" not in first

    asyncio.run(scene())
