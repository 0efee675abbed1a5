"""What becomes of requests for a model that sleeps. The workers and the supervisor are simulated."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster import errors
from cluster.status import ModelState
from tests.deployments.ingress.dispatch_scene import Scene, Supervisor, play


class Sleepy(Supervisor):
    """Its model sleeps until it has been woken as often as `deaf` says, and then takes a moment."""

    deaf = 0
    wakes = 0
    ends_in = ModelState.READY

    def doze(self) -> None:
        model = replace(self.snapshot.models["m"], workers=(), state=ModelState.ASLEEP, recovering=False, wake_s=2.5)
        self._post(model)

    async def wake(self, uid: str) -> None:
        self.wakes += 1
        if self.wakes <= self.deaf:
            raise errors.Unavailable("The control plane does not answer.", retry_after_s=5.0)
        asyncio.get_running_loop().call_later(0.05, self._woken)

    def _woken(self) -> None:
        if self.ends_in is ModelState.READY:
            return self.publish()
        self._post(replace(self.snapshot.models["m"], state=self.ends_in, reason="bad weights"))

    def _post(self, model) -> None:  # type: ignore[no-untyped-def]
        self.snapshot = replace(self.snapshot, version=self.snapshot.version + 1, models={"m": model}, handles={})
        self.changed.set()


async def sleeping(s: Scene, **facts: object) -> Sleepy:
    s.supervisor.__class__ = Sleepy
    supervisor: Sleepy = s.supervisor  # type: ignore[assignment]
    for name, value in facts.items():
        setattr(supervisor, name, value)
    supervisor.doze()
    while not s.dispatcher.table.find("m").is_asleep:
        await asyncio.sleep(0.001)
    return supervisor


def test_a_hundred_requests_wake_it_once_and_are_all_answered() -> None:
    async def scene(s: Scene) -> None:
        supervisor = await sleeping(s)
        answers = await asyncio.gather(*(s.ask(f"{number}") for number in range(100)))
        assert answers == [[f"{number}"] for number in range(100)]
        assert supervisor.wakes == 1

    play(scene, workers=1)


def test_it_wakes_also_when_the_caller_leaves() -> None:
    async def scene(s: Scene) -> None:
        await sleeping(s)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(s.ask("a"), 0.001)
        while s.dispatcher.table.find("m").is_asleep:
            await asyncio.sleep(0.005)
        assert await s.ask("a") == ["a"]

    play(scene, workers=1)


def test_requests_wait_until_their_deadline_while_nobody_can_wake_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.ingress.patience.RETRY_S", 0.02)

    async def scene(s: Scene) -> None:
        supervisor = await sleeping(s, deaf=10**6)
        with pytest.raises(errors.ModelLoading, match="m is being woken") as refusal:
            await s.ask("a", timeout_s=0.1)
        assert refusal.value.retry_after_s == 2.5
        supervisor.deaf = 0
        assert await s.ask("a") == ["a"]

    play(scene, workers=1)


def test_one_that_cannot_be_loaded_is_told_at_once() -> None:
    async def scene(s: Scene) -> None:
        await sleeping(s, ends_in=ModelState.FAILED)
        with pytest.raises(errors.Unavailable, match="could not be loaded: bad weights"):
            await s.ask("a")

    play(scene, workers=1)


@pytest.mark.parametrize(
    ("state", "wake_s", "waits_s"),
    [(ModelState.LOADING, 0.2, 0.4), (ModelState.LOADING, None, 0.05), (ModelState.WAITING, 0.2, 0.05)],
)
def test_a_request_waits_until_a_lost_worker_can_be_back(
    state: ModelState, wake_s: float | None, waits_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER_HOLD_S", "0.05")

    async def scene(s: Scene) -> None:
        lost = replace(s.supervisor.snapshot.models["m"], workers=(), state=state, wake_s=wake_s)
        s.supervisor.snapshot = replace(s.supervisor.snapshot, version=9, models={"m": lost}, handles={})
        s.supervisor.changed.set()
        while s.dispatcher.table.find("m").workers:
            await asyncio.sleep(0.001)
        began = asyncio.get_running_loop().time()
        with pytest.raises(errors.WorkerLost, match="m has no worker"):
            await s.ask("a")
        assert waits_s <= asyncio.get_running_loop().time() - began < waits_s + 0.2

    play(scene, workers=1)


def test_whoever_does_not_want_to_wait_wakes_it_all_the_same() -> None:
    async def scene(s: Scene) -> None:
        supervisor = await sleeping(s)
        with pytest.raises(errors.ModelLoading):
            await s.dispatcher.woken(s.dispatcher.table.find("m"), 0.0)
        while s.dispatcher.table.find("m").is_asleep:
            await asyncio.sleep(0.005)
        assert supervisor.wakes == 1

    play(scene, workers=1)
