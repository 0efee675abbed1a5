from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster import errors
from cluster.calls import Answer, Call
from cluster.routes import ModelRoutes, Route
from cluster.status import ModelState
from cluster.tally import CanaryTally
from deployments.ingress.routing import RouteTable, of_version, share_of
from tests.deployments.ingress.dispatch_scene import Scene, Supervisor, Worker, play

OLD, NEW = Route("worker:m:1:0-a"), Route("worker:m:2:0-b")
ROUTES = (OLD, NEW)
MODEL = ModelRoutes("m", ("infer",), ROUTES, ModelState.READY, canary=(NEW.worker,), canary_share=0.1)
REQUESTS = [f"req-{number}@" for number in range(20_000)]


def version_of(request: str) -> str:
    (route,) = of_version(request, MODEL, ROUTES)
    return route.worker


def test_a_canary_gets_its_share_and_one_request_always_the_same_version() -> None:
    versions = Counter(map(version_of, REQUESTS))
    assert 0.09 < versions[NEW.worker] / len(REQUESTS) < 0.11
    assert all(version_of(request) == version_of(request) for request in REQUESTS[:100])


def test_who_gets_it_does_not_depend_on_who_gets_which_model_of_a_shared_name() -> None:
    first = [request for request in REQUESTS if share_of(request) < 0.5]
    part = sum(version_of(request) == NEW.worker for request in first) / len(first)
    assert 0.085 < part < 0.115


def test_a_version_without_a_worker_leaves_its_requests_to_the_other() -> None:
    assert {of_version(request, MODEL, [OLD])[0] for request in REQUESTS[:100]} == {OLD}
    assert {of_version(request, MODEL, [NEW])[0] for request in REQUESTS[:100]} == {NEW}


def test_a_full_canary_refuses_nothing_that_the_old_version_takes() -> None:
    table = RouteTable()
    full = replace(MODEL, workers=(OLD, replace(NEW, limit=1)))
    table.update(1, {"m": full})
    request = next(request for request in REQUESTS if version_of(request) == NEW.worker)
    with table.choose(full, request=request) as first, table.choose(full, request=request) as second:
        assert (first.worker, second.worker) == (NEW.worker, OLD.worker)


# ------------------------------------------------------------------------------------------- asking both


class Versioned(Worker):
    """One of the two versions; what the new one does with a call, `fails_with` says."""

    fails_with: errors.ClusterError | None = None

    async def _infer(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        is_new = ":2:" in self.name
        self.asked.append([call.items[0] for call in calls])
        # "kept" needs no computing.
        answers = [
            errors.BadRequest("No.")
            if call.items == ["bad"]
            else Answer([self.name], 1, 0.0, float(call.items != ["kept"]))
            for call in calls
        ]
        return ([self.fails_with for _ in calls] if is_new and self.fails_with else answers), 0


def on_trial(s: Scene, share: float = 0.5) -> Worker:
    """A second version of the model that is there."""
    supervisor: Supervisor = s.supervisor
    canary = Versioned("worker:m:2:0-new")
    supervisor.workers.append(canary)
    publish = supervisor.publish
    publish()
    model = replace(supervisor.snapshot.models["m"], canary=(canary.name,), canary_share=share)
    publish()
    supervisor.snapshot = replace(supervisor.snapshot, models={"m": model}, version=supervisor.snapshot.version + 1)
    supervisor.changed.set()
    return canary


async def asked(s: Scene, count: int = 200, item: str = "x") -> Counter[str]:
    """The answers of so many requests, each with an id of its own."""
    answers: Counter[str] = Counter()
    for number in range(count):
        model = s.dispatcher.table.find("m")
        try:
            answer, _ = await s.dispatcher.ask(model, "infer", [item], {}, f"r{number}@", 5.0)
            answers[answer.outputs[0]] += 1
        except errors.ClusterError as error:
            answers[error.code()] += 1
    return answers


async def told(s: Scene) -> CanaryTally:
    """What the supervisor was last told; waits for what was counted just now."""
    s.supervisor.told.clear()
    while not (tallies := [each[2] for each in s.supervisor.told if each[0] == "tallied"]):
        await asyncio.sleep(0.01)
    (tally,) = tallies[-1]
    assert isinstance(tally, CanaryTally)
    return tally


async def seen(s: Scene) -> None:
    while not s.dispatcher.table.find("m").canary:
        await asyncio.sleep(0.001)


def test_both_versions_are_counted_and_the_supervisor_is_told() -> None:
    async def scene(s: Scene) -> None:
        canary = on_trial(s)
        await seen(s)
        answers = await asked(s)
        tally = await told(s)
        assert (tally.uid, tally.generation) == ("m", 2)
        assert tally.canary.requests == answers[canary.name] > 60
        assert tally.stable.requests == 200 - answers[canary.name]
        assert tally.canary.faults == tally.stable.faults == 0 and tally.canary.timed == tally.canary.requests
        await asked(s, item="kept")
        later = await told(s)
        assert later.canary.requests == 2 * tally.canary.requests and later.canary.timed == tally.canary.timed

    play(scene, workers=1, kind=Versioned)


@pytest.mark.parametrize(
    "error",
    [
        errors.InferenceFailed("ValueError: shape"),
        errors.BadRequest("It is too long for this version."),
        errors.WorkerLost("It is gone."),
        errors.OutOfMemory("It is too much."),
    ],
    ids=lambda error: error.code(),
)
def test_what_the_canary_fails_the_old_version_answers_and_it_counts_against_the_canary(
    error: errors.ClusterError,
) -> None:
    async def scene(s: Scene) -> None:
        canary = on_trial(s)
        canary.fails_with = error  # type: ignore[attr-defined]
        await seen(s)
        answers = await asked(s, 40)
        assert answers == {s.workers[0].name: 40}
        tally = await told(s)
        assert tally.canary.requests == tally.canary.faults == len(canary.asked) > 0
        assert (tally.stable.requests, tally.stable.faults) == (40, 0)

    play(scene, workers=1, kind=Versioned)


def test_what_both_versions_refuse_counts_against_neither() -> None:
    async def scene(s: Scene) -> None:
        canary = on_trial(s)
        await seen(s)
        assert await asked(s, 40, "bad") == {"bad_request": 40}
        assert len(canary.asked) > 0
        await asked(s, 10)
        tally = await told(s)
        assert tally.canary.faults == tally.stable.faults == 0
        assert tally.canary.requests + tally.stable.requests == 10

    play(scene, workers=1, kind=Versioned)


def test_nothing_is_counted_or_told_without_a_canary() -> None:
    async def scene(s: Scene) -> None:
        await asked(s, 10)
        assert s.dispatcher._canaries._telling is None and not s.dispatcher._canaries._counts

    play(scene, workers=2, kind=Versioned)


def test_it_stops_telling_once_the_trial_is_over() -> None:
    async def scene(s: Scene) -> None:
        on_trial(s)
        await seen(s)
        await asked(s, 10)
        await told(s)
        s.supervisor.workers.pop()
        s.supervisor.publish()
        async with asyncio.timeout(10):
            while s.dispatcher._canaries._telling is not None:
                await asyncio.sleep(0.01)
        assert not s.dispatcher._canaries._counts

    play(scene, workers=1, kind=Versioned)
