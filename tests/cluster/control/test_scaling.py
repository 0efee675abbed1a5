from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import errors
from cluster.control.scaling import Decision, Moment, Past, decide, moment_of, spec_with
from cluster.launch import LaunchSpec, ReplicaBounds
from cluster.status import Load

LOW_S = 60.0


@dataclass
class Model:
    """A model whose callers each send their next request as soon as the last one is answered, or who send so many a
    second whatever becomes of them. Each replica computes `at_once` requests in `run_s`."""

    bounds: ReplicaBounds
    replica: int = 1
    run_s: float = 0.1
    at_once: float = 4
    #: How long a new replica loads.
    load_s: float = 1.0
    now: float = 0.0
    callers: float = 0.0
    per_s: float = 0.0
    queue: float = 0.0
    past: Past = Past()
    #: When each replica is READY.
    ready_at: list[float] = field(default_factory=lambda: [0.0])
    #: The count after each second, and the reasons.
    history: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def load(self, serving: int) -> Load:
        if self.per_s:
            used = min(self.per_s * self.run_s / self.at_once / serving, 1.0)
            running = max(used, 0.01) * self.at_once
            waiting = self.queue / serving
        else:
            each = self.callers / serving
            running = min(each, self.at_once)
            waiting = each - running
            used = running / self.at_once
        speed = self.at_once / self.run_s
        return Load(waiting / speed, running / speed, waiting + running, used)

    def second(self) -> Decision:
        self.now += 1.0
        serving = sum(at <= self.now for at in self.ready_at)
        can_do = serving * self.at_once / self.run_s
        self.queue = max(self.queue + self.per_s - can_do, 0.0)
        moment = moment_of([self.load(serving)] * serving if serving else [], None, self.now)
        decision = decide(self.replica, serving, self.bounds, moment, self.past, LOW_S)
        self.past = decision.past
        if decision.why:
            self.reasons.append(decision.why)
        for _ in range(decision.replica - self.replica):
            self.ready_at.append(self.now + self.load_s)
        del self.ready_at[decision.replica :]
        self.replica = decision.replica
        self.history.append(self.replica)
        return decision

    def seconds(self, count: int, **load: float) -> Model:
        for name, value in load.items():
            setattr(self, name, value)
        for _ in range(count):
            self.second()
        return self


def bounds(least: int = 1, most: int = 4, target: float = 0.2) -> ReplicaBounds:
    return ReplicaBounds(min=least, max=most, target_queue_s=target)


def test_it_follows_its_callers_up_within_seconds_and_down_one_by_one_after_a_minute() -> None:
    model = Model(bounds()).seconds(30, callers=1)
    assert set(model.history) == {1}
    model.seconds(10, callers=40)
    assert model.history[-10:].count(1) <= 3 and model.replica == 4
    model.history.clear()
    model.seconds(200, callers=1)
    steps = [model.history.index(count) for count in (3, 2, 1)]
    assert 58 <= steps[0] <= 76 and steps == [steps[0], steps[0] + 15, steps[0] + 30]
    assert model.reasons == [
        "requests waited 0.9 s, target 0.2 s",
        *["1 would have been enough for 60 s"] * 3,
    ]


@pytest.mark.parametrize("callers", range(1, 120, 7))
def test_a_steady_load_comes_to_as_many_as_keep_the_target_and_keeps_more_only_if_they_are_used(callers: int) -> None:
    few = Model(bounds(most=8)).seconds(200, callers=callers)
    many = Model(bounds(most=8), replica=8, ready_at=[0.0] * 8).seconds(700, callers=callers)
    assert len(set(few.history[50:])) == 1 and len(set(many.history[600:])) == 1
    assert few.load(few.replica).waiting_s <= 0.2 * 1.2 or few.replica == 8
    assert few.replica == 1 or few.load(few.replica - 1).waiting_s > 0.2 * 0.8
    assert few.replica <= many.replica
    used = many.load(many.replica).used * many.replica
    assert many.replica <= max(few.replica + 1, math.ceil(used / 0.8))


@pytest.mark.parametrize("per_s", [10, 30, 50, 70, 110, 130])
def test_a_rate_that_fewer_replicas_could_not_sustain_keeps_those_there_are(per_s: float) -> None:
    model = Model(bounds(target=1.0)).seconds(1000, per_s=per_s)
    needed = per_s / 40
    assert needed <= model.replica <= needed / 0.8 + 1
    # It does not give back what it takes again a while later.
    assert len(set(model.history[300:])) == 1


def test_a_peak_of_a_second_is_no_load() -> None:
    model = Model(bounds()).seconds(20, callers=1)
    for _ in range(10):
        model.seconds(1, callers=12)
        model.seconds(4, callers=1)
    assert set(model.history) == {1}


def test_a_lull_shorter_than_a_minute_takes_nothing_back() -> None:
    model = Model(bounds()).seconds(20, callers=40)
    assert model.replica == 4
    for _ in range(10):
        model.seconds(50, callers=1)
        model.seconds(5, callers=40)
    assert set(model.history[20:]) == {4}


def test_no_more_replicas_than_requests() -> None:
    one_long = Load(waiting_s=500.0, running_s=1.0, requests=1)
    past = Past()
    for second in range(10):
        moment = moment_of([one_long], None, float(second))
        decision = decide(1, 1, bounds(most=8), moment, past, LOW_S)
        past = decision.past
        assert decision.replica == 1


def test_none_is_added_while_others_still_load() -> None:
    model = Model(bounds(target=0.01, most=100), load_s=30.0).seconds(20, callers=400)
    first = model.replica
    assert first > 1 and set(model.history[5:]) == {first}


@pytest.mark.parametrize(
    ("load", "limit"),
    [(Load(running_s=0.1, requests=10, used=1.0), 10), (Load(0.2, 0.1, 300, 1.0, refuses=True), None)],
    ids=["as many as it may have", "they would wait for too long"],
)
def test_replicas_that_refuse_requests_get_another_whatever_the_others_wait(load: Load, limit: int | None) -> None:
    past, decisions = Past(), []
    for second in range(4):
        moment = moment_of([load], limit, float(second))
        decisions.append(decide(1, 1, bounds(target=1.0), moment, past, LOW_S))
        past = decisions[-1].past
    assert [decision.replica for decision in decisions[:2]] == [1, 1]
    assert (2, "requests were refused") in [(decision.replica, decision.why) for decision in decisions]


def test_what_another_model_was_given_is_not_taken_back_at_once() -> None:
    model = Model(bounds(), past=Past(yields_until=31.0)).seconds(30, callers=40)
    assert set(model.history) == {1}
    assert model.seconds(5).replica == 4


def test_other_bounds_hold_at_once() -> None:
    model = Model(bounds(least=2, most=3))
    assert model.second().replica == 2
    model.bounds = bounds(least=1, most=1)
    assert model.second().replica == 1


def test_nothing_is_decided_while_none_serves() -> None:
    past = Past()
    for second in range(200):
        decision = decide(3, 0, bounds(), Moment(float(second)), past, LOW_S)
        past = decision.past
        assert (decision.replica, decision.why) == (3, "")


@pytest.mark.parametrize("seed", range(100))
def test_whatever_the_load_was_it_ends_at_what_the_last_one_needs(seed: int) -> None:
    dice = random.Random(seed)
    limits = bounds(dice.randint(0, 2), dice.randint(2, 8), dice.choice([0.05, 0.2, 1.0]))
    model = Model(
        limits,
        limits.least,
        ready_at=[0.0] * limits.least,
        run_s=dice.choice([0.02, 0.1, 2.0]),
        load_s=dice.uniform(0, 9),
    )
    for _ in range(30):
        model.seconds(dice.randint(1, 40), callers=dice.choice([0, 1, 3, 40, 200]))
        assert limits.least <= model.replica <= limits.max
        if dice.random() < 0.3:
            # A replica is lost, and takes its time to come back.
            model.ready_at[dice.randrange(model.replica)] = model.now + 5.0
    model.seconds(400, callers=dice.choice([0, 1, 12, 60]))
    settled = model.replica
    changes = len(model.reasons)
    model.seconds(300)
    assert len(model.reasons) == changes, "it does not come to rest"
    fresh = Model(limits, limits.least, ready_at=[0.0] * limits.least, run_s=model.run_s)
    fewest = fresh.seconds(100, callers=model.callers).replica
    assert fewest <= settled <= max(fewest + 1, math.ceil(model.load(settled).used * settled / 0.8))


def spec(**fields: Any) -> LaunchSpec:
    return LaunchSpec(model_name="m", **fields)


def test_a_number_stays_within_the_bounds_and_new_bounds_move_it() -> None:
    before = spec(max_replica=4)
    assert spec_with("m", before, 3, {}).replica == 3
    with pytest.raises(errors.BadOption, match="m has 1 to 4 replicas, not 5"):
        spec_with("m", before, 5, {})
    after = spec_with("m", before, None, {"min_replica": 2, "max_replica": 6})
    assert (after.replica, after.bounds) == (2, ReplicaBounds(min=2, max=6))
    assert spec_with("m", spec(replica=4, max_replica=4), None, {"max_replica": 3}).replica == 3
    assert spec_with("m", spec(replica=2), None, {"max_replica": 3}).bounds == ReplicaBounds(min=1, max=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_replica": 5}, "m: min_replica 5 is above max_replica 4"),
        ({"target_queue_s": 0}, "greater than 0"),
        ({"target_queue_s": 4000}, "less than or equal to 3600"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(change: dict[str, float], reason: str) -> None:
    with pytest.raises(errors.BadOption, match=reason):
        spec_with("m", spec(max_replica=4), None, change)
