from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.control import watching
from cluster.control.watching import MOST_PER_S, pause_s
from cluster.status import Memory
from tests.cluster.control.scenes import (
    PATIENCE_S,
    M,
    S,
    Scene,
    play,
    silent,
    starting_mute,
)
from tests.make import make_node, make_wanted


def test_a_death_is_heard_of_at_once() -> None:
    """The pending call to the worker fails; the supervisor does not wait for the next tick or probe."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        version = (await s.supervisor.watch(-1, 0)).version
        dead, left = s.world.alive()
        dead.kill()
        snapshot = await s.supervisor.watch(version, PATIENCE_S)
        assert [route.worker for route in snapshot.models["m"].workers] == [str(left.name)]
        assert snapshot.models["m"].recovering

    play(scene, tick_s=60, probe_s=60)


def test_a_death_that_is_heard_twice_is_told_once() -> None:
    """Both the pending call and a probe fail."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=20))
        for process in s.world.alive():
            process.kill()
        await s.until(lambda: not s.supervisor._fleet.workers)
        events = await s.events()
        assert sum("is LOST" in text for text in events) == 20

    play(scene, probe_s=0.001, tick_s=0.2)


def test_a_worker_that_never_answers_is_replaced_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await starting_mute(s)
        first = s.world.the()
        s.world.answers = True
        await s.ticks()
        assert first.alive
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


def test_a_silent_worker_is_used_only_when_no_other_is_left() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, second = s.world.alive()
        first.answers = False
        await s.until(lambda: s.world.routed() == {str(second.name)})
        assert first.alive
        second.answers = False
        await s.until(lambda: s.world.routed() == {str(first.name), str(second.name)})
        first.answers = True
        await s.until(lambda: s.world.routed() == {str(first.name)})

    play(scene)


def test_a_silent_worker_is_replaced_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await silent(s)
        first = s.world.the()
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        await s.until(lambda: s.world.ended_by_pid == [("n0", first.pid)])
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


def test_a_worker_that_answers_but_does_not_compute_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        first.computes = False
        await s.until(lambda: "probe" in " ".join(w.reason for w in s.supervisor._fleet.workers.values()))
        # Its reports go on saying that it is ready.
        first.commands.clear()
        await s.until(lambda: first.commands.count("report") > 3)
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        s.world.clock_ahead += 2
        await s.until(s.world.alive)

    play(scene)


def test_a_worker_that_finds_itself_that_it_does_not_compute_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However rarely each of very many is asked."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, second = s.world.alive()
        first.fails_its_example = True
        first.tell(trouble="probe: ValueError: no")
        await s.until(lambda: s.world.routed() == {str(second.name)})
        await s.until(lambda: not first.alive)
        assert any("SUSPECT: probe: ValueError: no" in text for text in await s.events())
        s.world.clock_ahead += 2
        await s.state(M.READY)

    monkeypatch.setattr(watching, "FAILED_PAUSE_S", 0.01)
    play(scene, probe_s=60)


def test_trouble_that_is_over_costs_no_worker() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        process.tell(trouble="has not computed its own example within 20 s")
        worker = await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if "SUSPECT" in str(w.story)])
        await s.until(lambda: s.supervisor._fleet.workers[str(process.name)].state == S.READY)
        assert process.alive and len(worker) == 1

    play(scene, probe_s=60)


def test_a_worker_that_fails_its_own_example_twice_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        first.fails_its_example = True
        await s.supervisor.suspect(str(first.name))
        await s.until(lambda: not first.alive)
        assert s.world.ended_by_pid[0] == ("n0", first.pid)
        assert any("fails its own example and was ended: ValueError: no" in text for text in await s.events())
        s.world.clock_ahead += 2
        await s.state(M.READY)

    monkeypatch.setattr(watching, "FAILED_PAUSE_S", 0.01)
    play(scene, probe_s=60)


def test_a_worker_that_fails_its_own_example_once_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        first.fails_its_example = True
        await s.supervisor.suspect(str(first.name))
        await s.until(lambda: first.probes)
        first.fails_its_example = False
        await s.until(lambda: first.probes > 1)
        await s.state(M.READY)
        await s.ticks()
        assert first.alive and s.world.ended_by_pid == []

    monkeypatch.setattr(watching, "FAILED_PAUSE_S", 0.2)
    play(scene, probe_s=60)


def test_a_worker_that_hangs_with_what_was_found_to_be_poison_is_replaced_at_once() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=3))
        hangs, dead, busy = s.world.alive()
        hangs.late = ["r#1"]
        dead.kill()
        await s.supervisor.poisoned("m", "f", [str(hangs.name), str(dead.name), "worker:gone:1:0-x"])
        await s.until(lambda: not hangs.alive)
        assert s.world.ended_by_pid == [("n0", hangs.pid)] and busy.alive
        assert any("hung with a request that is refused" in text for text in await s.events())

    play(scene, make_node("n0"), tick_s=0.05, probe_s=60)


def test_a_worker_that_is_done_with_what_was_found_to_be_poison_goes_on() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, _ = s.world.alive()
        await s.supervisor.poisoned("m", "f", [str(first.name)])
        await s.ticks()
        assert first.alive and s.world.ended_by_pid == []

    play(scene, probe_s=60)


def test_logs_are_those_of_the_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, second = map(str, (p.name for p in s.world.alive()))
        assert await s.supervisor.logs("m", 7) == [
            *(f"{first} says {n}" for n in (3, 4)),
            *(f"{second} says {n}" for n in range(5)),
        ]
        s.world.alive()[0].answers = False
        assert f"{first}: It does not answer." in await s.supervisor.logs("m", 100)
        # It did not write that, and whoever follows the lines would hold it for one of them.
        assert await s.supervisor.worker_logs("m", 1) == {first: [], second: [f"{second} says 4"]}

    play(scene)


def test_all_workers_are_asked_for_their_lines_at_once(monkeypatch: Any) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=3))
        all_asked = asyncio.Barrier(3)

        async def logs(lines: int, *, timeout_s: float) -> list[str]:
            async with asyncio.timeout(PATIENCE_S):
                await all_asked.wait()
            return ["a line"]

        for process in s.world.alive():
            monkeypatch.setattr(process, "logs", logs)
        assert await s.supervisor.logs("m", 9) == ["a line"] * 3

    play(scene)


def test_the_cores_of_a_node_are_shared_by_its_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"))
        await s.until(lambda: s.world.the("a").threads == 8)
        await s.ready(make_wanted("b"), make_wanted("c", n_cpu=1))
        await s.until(lambda: [s.world.the(uid).threads for uid in "abc"] == [2, 2, 1])
        await s.supervisor.terminate("b")
        await s.until(lambda: s.world.the("a").threads == 4)

    play(scene, make_node(cpus=8))


GB = 10**9
PLENTY, LITTLE = Memory(24 * GB, 12 * GB), Memory(24 * GB, 1 * GB, largest=("hog", 7, 9 * GB))


def test_when_memory_runs_out_one_worker_goes_says_why_and_comes_back_when_there_is_room() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("small"), make_wanted("grown"))
        for uid, held in (("small", 1 * GB), ("grown", 5 * GB)):
            s.world.the(uid).tell(memory=replace(PLENTY, own_bytes=held))
        await s.ticks()
        (small, grown) = s.world.the("small"), s.world.the("grown")
        small.tell(memory=replace(LITTLE, own_bytes=1 * GB))
        await s.until(lambda: not grown.alive)
        assert s.world.ended_by_pid == [(grown.board.value.node_id, grown.pid)]
        s.world.clock_ahead += 30  # all pauses after a loss are over
        await s.ticks()
        (waiting,) = [status for status in await s.supervisor.all_statuses() if status.uid == "grown"]
        assert (
            waiting.state == M.WAITING
            and "0.0 GiB left for models, 1.0 GiB asked; of other processes hog (pid 7)" in waiting.reason
        )
        assert small.alive and s.world.alive("grown") == []
        (text,) = [text for text in await s.events("grown") if "HOST_OOM" in text]
        assert "1.0 GB of 24.0 GB memory were left on" in text and "held 5.0 GB" in text
        assert "hog (pid 7) holds most, 9.0 GB: end it" in text
        small.tell(memory=replace(PLENTY, own_bytes=1 * GB))
        await s.state(M.READY, uid="grown")

    play(scene, make_node("n0"))


def test_a_worker_that_the_kernel_killed_for_memory_is_told_as_such() -> None:
    async def scene(s: Scene) -> None:
        s.world.reading = ("n0", replace(PLENTY, oom_kills=3))
        await s.ready()
        await s.ticks()
        s.world.reading = ("n0", replace(PLENTY, oom_kills=4))
        s.world.the().kill()
        await s.until(lambda: len(s.world.started) == 2)
        (text,) = [text for text in await s.events() if "is LOST" in text]
        assert "HOST_OOM: its process was killed" in text

    play(scene, make_node("n0"))


def test_a_worker_that_dies_with_memory_to_spare_did_not_die_of_it() -> None:
    async def scene(s: Scene) -> None:
        s.world.reading = ("n0", replace(PLENTY, oom_kills=3))
        await s.ready()
        await s.ticks()
        s.world.the().kill()
        await s.until(lambda: len(s.world.started) == 2)
        assert not [text for text in await s.events() if "HOST_OOM" in text]

    play(scene, make_node("n0"))


def test_a_worker_that_answers_nothing_at_all_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.control.watching.HUNG_S", 0.05)

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        hung = s.world.alive()[0]
        hung.answers = False
        await s.supervisor.suspect(str(hung.name))
        await s.until(lambda: s.world.ended_by_pid)
        assert s.world.ended_by_pid == [(hung.board.value.node_id, hung.pid)]
        hung.kill()
        await s.state(M.READY)

    play(scene)


def test_a_suspect_that_answers_is_ready_again_without_waiting_for_its_next_probe() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.suspect(str(s.world.the().name))
        await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if w.state == S.READY])
        assert s.world.ended_by_pid == []

    play(scene, probe_s=60)


def test_very_many_workers_are_each_asked_less_often_and_not_at_once() -> None:
    assert {pause_s(10.0, workers) for workers in (1, 50, 100)} == {10.0}
    pauses = [pause_s(10.0, 20_000) for _ in range(2000)]
    assert 20_000 / (sum(pauses) / len(pauses)) == pytest.approx(MOST_PER_S, rel=0.1)
    assert len({int(pause / 100) for pause in pauses}) == 20
