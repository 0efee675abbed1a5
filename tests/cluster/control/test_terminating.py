from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cluster import errors
from tests.cluster.control.scenes import (
    M,
    Scene,
    failed,
    loading,
    lost,
    play,
    serving,
    silent,
    starting,
    starting_mute,
    updating,
    waiting,
)
from tests.make import make_wanted


@pytest.mark.parametrize(
    "phase",
    [waiting, starting, starting_mute, loading, serving, silent, failed, lost, updating],
    ids=lambda f: f.__name__,
)
def test_terminate_leaves_nothing_in_whatever_phase(phase: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scene(s: Scene) -> None:
        await phase(s)
        await s.supervisor.terminate("m")
        s.world.gate.set()
        await s.nothing_left()
        await s.ticks()
        assert not s.world.alive()

    play(scene, drain_s=0.1)


def test_what_is_terminated_is_routed_out_at_once_and_finishes_what_it_has() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        process.in_hand = 3
        await s.supervisor.terminate("m")
        assert (await s.supervisor.watch(-1, 0)).models == {}
        await s.until(lambda: process.board.value.phase == "draining")
        await s.ticks()
        assert process.alive
        process.finish()
        await s.nothing_left()

    play(scene)


def test_work_that_does_not_end_is_ended_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        process.in_hand = 3
        await s.supervisor.terminate("m")
        await s.until(lambda: process.board.value.phase == "draining")
        s.world.clock_ahead += 61
        await s.nothing_left()

    play(scene, drain_s=60)


def test_what_was_terminated_can_be_launched_again() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.terminate("m")
        await s.nothing_left()
        assert (await s.launch(make_wanted())).generation == 2
        await s.state(M.READY)

    play(scene)


def test_what_was_terminated_can_be_launched_while_its_last_worker_drains() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        old.in_hand = 1
        await s.supervisor.terminate("m")
        await s.until(lambda: old.board.value.phase == "draining")
        await s.launch(make_wanted())
        await s.state(M.READY)
        assert old.alive
        old.finish()
        await s.until(lambda: not old.alive)

    play(scene)


@pytest.mark.parametrize("command", ["terminate", "cancel", "status", "events", "scale", "logs"])
def test_commands_on_what_is_not_launched_say_so(command: str) -> None:
    async def scene(s: Scene) -> None:
        arguments = {"scale": (2,), "logs": (10,)}.get(command, ())
        with pytest.raises(errors.UnknownUid):
            await getattr(s.supervisor, command)("m", *arguments)

    play(scene)


@pytest.mark.parametrize("phase", [starting, loading, failed], ids=lambda f: f.__name__)
def test_a_launch_can_be_cancelled(phase: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scene(s: Scene) -> None:
        await phase(s)
        await s.supervisor.cancel("m")
        s.world.gate.set()
        await s.nothing_left()
        assert "Launch cancelled" in await s.events()

    play(scene)


def test_what_is_ready_is_not_cancelled() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")
        await s.state(M.READY)

    play(scene)


def test_what_serves_in_part_is_not_cancelled() -> None:
    """It is not launching: a cancelled update or a lost replica must not take a serving model away."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        s.world.alive()[0].kill()
        await s.state(M.DEGRADED)
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")

    play(scene)


def test_what_lost_its_only_worker_is_not_cancelled() -> None:
    """It is being restarted, not launched."""

    async def scene(s: Scene) -> None:
        await lost(s)
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")

    play(scene)
