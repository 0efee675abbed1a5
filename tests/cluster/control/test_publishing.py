from __future__ import annotations

import asyncio
import pickle

import pytest

from cluster import errors
from cluster.control.publishing import MOST_HISTORY
from cluster.routes import Amendment, Snapshot, amended
from cluster.status import LoadProgress, ModelStatus
from tests.cluster.control.scenes import (
    PATIENCE_S,
    M,
    Scene,
    play,
)
from tests.make import make_wanted


def test_watching_waits_for_what_is_new() -> None:
    async def scene(s: Scene) -> None:
        first = await s.supervisor.watch(-1, PATIENCE_S)
        same = await s.supervisor.watch(first.version, 0.01)
        assert same.version == first.version
        watcher = asyncio.create_task(s.supervisor.watch(first.version, PATIENCE_S))
        await s.launch(make_wanted())
        assert (await watcher).models["m"].state == M.LOADING

    play(scene)


def test_the_table_stays_the_same_while_nothing_changes() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        version = (await s.supervisor.watch(-1, 0)).version
        status = await s.supervisor.status("m")
        await s.ticks(5)
        assert (await s.supervisor.watch(-1, 0)).version == version
        assert (await s.supervisor.status("m")).version == status.version

    play(scene)


async def followed(s: Scene, table: Snapshot) -> Snapshot:
    """What an ingress knows that had that table and is told what has changed."""
    news = await s.supervisor.changes(table.version, PATIENCE_S)
    return amended(table, news) if isinstance(news, Amendment) else news


def test_who_is_told_the_changes_knows_what_who_is_told_everything_does() -> None:
    async def scene(s: Scene) -> None:
        early = late = await s.supervisor.watch(-1, 0)
        await s.ready(make_wanted("a"), make_wanted("b", replica=2))
        early = await followed(s, early)
        await s.supervisor.terminate("a")
        await s.supervisor.create_key("k", ["infer"], None)
        s.world.alive("b")[0].kill()
        await s.supervisor.poisoned("b", "f1", [])
        await s.until(lambda: len(s.world.alive("b")) == 2)
        await s.state(M.READY, uid="b")
        await s.ticks()
        everything = await s.supervisor.watch(-1, 0)
        assert isinstance(await s.supervisor.changes(early.version, 0), Amendment)
        assert await followed(s, early) == await followed(s, late) == everything
        assert everything.handles.keys() == {str(process.name) for process in s.world.alive("b")}
        nothing = await s.supervisor.changes(everything.version, 0.01)
        assert isinstance(nothing, Amendment) and not nothing.models and nothing.keys is None

    play(scene)


def test_who_has_a_version_that_nobody_remembers_is_told_everything() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        now = (await s.supervisor.watch(-1, 0)).version
        for version in (-1, now - MOST_HISTORY * 2, now + 1):
            assert isinstance(await s.supervisor.changes(version, 0), Snapshot)
        await s.replace_supervisor()
        await s.state(M.READY)
        assert isinstance(await s.supervisor.changes(now, 0), Snapshot)

    play(scene)


def test_a_change_of_one_model_tells_of_no_other() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(*(make_wanted(f"m{number}", claim_gib=0.1) for number in range(20)))
        await s.ticks()
        version = (await s.supervisor.watch(-1, 0)).version
        await s.supervisor.scale("m7", 2)
        news = await s.supervisor.changes(version, PATIENCE_S)
        assert isinstance(news, Amendment) and list(news.models) == ["m7"]

    play(scene)


def test_a_status_can_be_followed_to_its_end() -> None:
    async def scene(s: Scene) -> None:
        s.world.loads = False
        status = await s.launch(make_wanted())
        seen = [status.progress]
        process = (await s.until(s.world.alive))[0]
        await s.until(lambda: process.board.value.phase == "loading")
        for done in (0.3, 0.6):
            process.tell(progress=LoadProgress("loading", done))
            while status.progress < done:
                status = await s.supervisor.status("m", status.version, PATIENCE_S)
            seen.append(status.progress)
        process.load()
        while status.state != M.READY:
            status = await s.supervisor.status("m", status.version, PATIENCE_S)
        assert seen == [0.0, 0.3, 0.6]

    play(scene)


def test_a_status_that_does_not_change_is_told_after_the_wait() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        status = await s.supervisor.status("m")
        assert await s.supervisor.status("m", status.version, 0.02) == status
        assert await s.supervisor.status("m", status.version - 1, PATIENCE_S) == status

    play(scene)


def test_who_follows_a_model_learns_that_it_was_terminated() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        status = await s.supervisor.status("m")
        follower = asyncio.create_task(s.supervisor.status("m", status.version, PATIENCE_S))
        await asyncio.sleep(0)
        await s.supervisor.terminate("m")
        with pytest.raises(errors.UnknownUid):
            await follower

    play(scene)


def test_events_are_told_after_the_model_is_gone() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.terminate("m")
        await s.nothing_left()
        assert "Terminate model" in await s.events()

    play(scene)


def test_poison_is_told_to_every_ingress_and_the_next_worker_starts_at_once() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        before = s.world.the()
        before.kill()
        await s.supervisor.poisoned("m", "f1", [str(before.name)])
        assert s.supervisor._publisher.snapshots.value.poison == (("m", "f1"),)
        await s.state(M.READY)
        assert s.supervisor._fleet.losses == {}
        assert any("A request ended 1 workers" in event.text for event in await s.supervisor.events("m"))

    play(scene)


def test_statuses_are_packed_once_until_they_change() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"), make_wanted("b"))
        await s.ticks()
        first = await s.supervisor.sent_statuses()
        again = await s.supervisor.sent_statuses()
        assert all(one is other for one, other in zip(first, again, strict=True))
        await s.supervisor.scale("b", 2)
        after = await s.supervisor.sent_statuses()
        assert after[0] is first[0] and after[1] is not first[1]
        assert [pickle.loads(status) for status in after] == await s.supervisor.all_statuses()

    play(scene)


async def statuses_after(s: Scene, known: dict[str, ModelStatus], version: int) -> tuple[dict[str, ModelStatus], int]:
    """What somebody knows who had these statuses and is told what has changed."""
    news = await s.supervisor.status_news(version, PATIENCE_S)
    rows = {status.uid: status for status in map(pickle.loads, news.rows)}
    before = {} if news.since is None else {uid: row for uid, row in known.items() if uid not in news.gone}
    return before | rows, news.version


def test_who_is_told_what_changed_in_the_statuses_knows_them_all() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"), make_wanted("b"))
        known, version = await statuses_after(s, {}, -1)
        assert set(known) == {"a", "b"}
        await s.supervisor.terminate("a")
        await s.launch(make_wanted("c"))
        await s.ticks(3)
        news = await s.supervisor.status_news(version, PATIENCE_S)
        assert news.since == version and "b" not in {pickle.loads(row).uid for row in news.rows}
        known, _ = await statuses_after(s, known, version)
        assert known == {status.uid: status for status in await s.supervisor.all_statuses()}

    play(scene)


def test_a_version_of_another_supervisor_means_all_statuses() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"))
        latest = (await s.supervisor.status_news(-1, 0)).version
        for version in (-1, 0, latest + 1000, latest - MOST_HISTORY - 1000):
            news = await s.supervisor.status_news(version, PATIENCE_S)
            assert news.since is None and len(news.rows) == 1

    play(scene)
