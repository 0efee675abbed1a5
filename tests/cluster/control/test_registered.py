from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import Kind
from cluster.value import JsonObject
from tests.cluster.control.scenes import (
    PATIENCE_S,
    Scene,
    play,
)


def test_a_key_that_cannot_be_read_is_left_out() -> None:
    store = SqliteStore()
    store.put("key", "k", {"id": "k", "name": "of a newer version", "digest": "d", "scopes": ["infer"], "until": 9})

    async def scene(s: Scene) -> None:
        assert await s.supervisor.all_keys() == []

    play(scene, store=store)


def test_a_registration_that_cannot_be_read_is_left_out() -> None:
    store = SqliteStore()
    entry = Entry(name="mine", type="embedding", family="f", sources=(Source(hub="local", id="/m"),), builtin=False)
    store.put("entry", "embedding/mine", entry.model_dump(mode="json"))
    store.put("entry", "embedding/newer", {**entry.model_dump(mode="json"), "name": "newer", "colour": "red"})

    async def scene(s: Scene) -> None:
        assert [found.name for found in await s.supervisor.registered()] == ["mine"]

    play(scene, store=store)


def test_keys_reach_whoever_watches_at_once() -> None:
    async def scene(s: Scene) -> None:
        first = await s.supervisor.watch(-1, 0)
        watcher = asyncio.create_task(s.supervisor.watch(first.version, PATIENCE_S))
        await asyncio.sleep(0)
        key, _ = await s.supervisor.create_key("ci", ["infer"], None)
        second = await watcher
        assert second.keys == (key,)
        watcher = asyncio.create_task(s.supervisor.watch(second.version, PATIENCE_S))
        await asyncio.sleep(0)
        await s.supervisor.revoke_key(key.id)
        assert (await watcher).keys == ()

    play(scene, tick_s=60)


def test_keys_survive_a_restart_and_revoked_ones_do_not() -> None:
    async def scene(s: Scene) -> None:
        kept, _ = await s.supervisor.create_key("kept", ["infer"], ["m"])
        gone, _ = await s.supervisor.create_key("gone", ["admin"], None)
        await s.supervisor.revoke_key(gone.id)
        await s.replace_supervisor()
        assert (await s.supervisor.watch(-1, 0)).keys == (kept,)
        with pytest.raises(errors.BadRequest):
            await s.supervisor.revoke_key(gone.id)

    play(scene)


def test_a_session_lives_as_long_as_nobody_ends_it_and_is_no_key_of_the_list() -> None:
    async def scene(s: Scene) -> None:
        key, _ = await s.supervisor.create_key("ann", ["infer"], None)
        session, text = await s.supervisor.log_in(key.id)
        assert text not in str(session) and await s.supervisor.all_keys() == [key]
        await s.replace_supervisor()
        assert (await s.supervisor.watch(-1, 0)).keys == (key, session)
        with pytest.raises(errors.NotAuthenticated):
            await s.supervisor.log_in(session.id)
        await s.supervisor.log_out("of nobody")
        await s.supervisor.log_out(key.digest)
        assert len((await s.supervisor.watch(-1, 0)).keys) == 2
        await s.supervisor.log_out(session.digest)
        assert (await s.supervisor.watch(-1, 0)).keys == (key,)

    play(scene)


def test_a_key_is_stored_as_earlier_versions_read_it() -> None:
    async def scene(s: Scene) -> None:
        key, _ = await s.supervisor.create_key("ann", ["infer"], ["m"])
        assert s.store.all("key")[key.id].keys() == {"id", "name", "digest", "scopes", "models", "created"}

    play(scene)


def test_registrations_are_kept_until_they_are_withdrawn() -> None:
    entry = Entry(name="mine", type="embedding", family="f", sources=(Source(hub="local", id="/m"),), builtin=False)

    async def scene(s: Scene) -> None:
        await s.supervisor.register(entry)
        await s.replace_supervisor()
        assert await s.supervisor.registered() == [entry]
        await s.supervisor.unregister("embedding", "mine")
        assert await s.supervisor.registered() == []
        with pytest.raises(errors.UnknownModel):
            await s.supervisor.unregister("embedding", "mine")

    play(scene)


def test_registrations_are_read_once_until_they_change() -> None:
    class Counting(SqliteStore):
        reads = 0

        def all(self, kind: Kind) -> JsonObject:
            self.reads += kind == "entry"
            return super().all(kind)

    store = Counting()
    entry = Entry(name="mine", type="embedding", family="f", sources=(Source(hub="local", id="/m"),), builtin=False)

    async def scene(s: Scene) -> None:
        for number, expected in ((1, []), (2, [entry]), (3, [])):
            for _ in range(5):
                assert await s.supervisor.registered() == expected
            assert store.reads == number
            await (s.supervisor.unregister("embedding", "mine") if expected else s.supervisor.register(entry))

    play(scene, store=store)
