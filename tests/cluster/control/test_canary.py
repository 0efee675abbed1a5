from __future__ import annotations

import random

import pytest

from cluster.control.canary import Canaries, Canary, CanaryLimits, figures_of, is_unlikely, judged, next_of
from cluster.tally import CanaryTally, Counting, Tally
from tests.make import make_wanted

LIMITS = CanaryLimits(60.0, 100)


def tally(requests: int, faults: int = 0, seconds: float = 0.05, seed: int = 0, spread: float = 0.3) -> Tally:
    """The times differ as those of real requests do."""
    dice, counting = random.Random(seed), Counting()
    for _ in range(requests - faults):
        counting.answered(seconds * dice.lognormvariate(0, spread))
    for _ in range(faults):
        counting.failed()
    return counting.so_far


def test_one_that_serves_as_well_goes_on_after_enough_time_and_requests() -> None:
    assert judged(tally(150), tally(1500, seed=1), 61.0, LIMITS).verdict == "go on"
    soon = judged(tally(150), tally(1500, seed=1), 59.0, LIMITS)
    assert soon.verdict == "wait" and "it is judged after 60 s" in soon.why
    few = judged(tally(99), tally(1500, seed=1), 61.0, LIMITS)
    assert few.verdict == "wait" and "it is judged after 100 requests" in few.why


def test_what_happens_next_is_said_as_a_sentence_and_what_came_of_both_in_figures() -> None:
    canary = Canary(generation=3, percent=12.5, before=make_wanted("m", generation=2))
    assert next_of(canary, Tally(), LIMITS, False) == "When it is loaded, it gets 12.5 % of the requests."
    soon = next_of(canary, tally(99), LIMITS, True)
    assert "served for 60 s and answered 1 more request; generation 2 comes back if more" in soon
    assert "served for 60 s; generation 2" in next_of(canary, tally(150), LIMITS, True)
    figures = figures_of(tally(100, 3, spread=0.01))
    assert (figures.requests, figures.failed) == (100, 3)
    assert figures.median_s is not None and 0.04 < figures.median_s < 0.06
    assert figures_of(tally(2, 2)).median_s is None


def test_one_that_hardly_anybody_uses_goes_on_after_ten_times_as_long() -> None:
    assert judged(tally(0), tally(1), 599.0, LIMITS).verdict == "wait"
    assert judged(tally(0), tally(1), 601.0, LIMITS).verdict == "go on"


def test_one_that_fails_everything_is_found_out_with_its_second_request() -> None:
    assert judged(tally(1, 1), tally(10), 1.0, LIMITS).verdict == "wait"
    ruling = judged(tally(2, 2), tally(20), 1.0, LIMITS)
    assert ruling.verdict == "return"
    assert ruling.why == "2 of 2 requests failed, of the old version 0 of 20"


@pytest.mark.parametrize(("requests", "faults"), [(2, 2), (16, 3), (200, 8), (2000, 30)])
def test_more_faults_than_chance_brings_about_end_it(requests: int, faults: int) -> None:
    assert judged(tally(requests, faults), tally(9 * requests), 1.0, LIMITS).verdict == "return"


@pytest.mark.parametrize(("requests", "faults"), [(100, 2), (500, 5), (2000, 15)])
def test_faults_that_may_be_chance_do_not_end_it(requests: int, faults: int) -> None:
    assert judged(tally(requests, faults), tally(9 * requests), 61.0, LIMITS).verdict == "go on"


def test_what_the_old_version_fails_as_often_is_no_fault_of_the_new_one() -> None:
    assert judged(tally(200, 20), tally(2000, 200), 61.0, LIMITS).verdict == "go on"
    assert judged(tally(200, 60), tally(2000, 200), 61.0, LIMITS).verdict == "return"
    assert judged(tally(20_000, 2_000), tally(20_000, 2_000), 61.0, LIMITS).verdict == "go on"
    assert judged(tally(20_000, 2_400), tally(20_000, 2_000), 61.0, LIMITS).verdict == "return"


def test_one_that_takes_twice_as_long_is_given_up_with_the_figures() -> None:
    ruling = judged(tally(60, seconds=0.1), tally(600, seed=1), 5.0, LIMITS)
    assert ruling.verdict == "return"
    assert ruling.why == "its median is 96 ms in 60 requests, that of the old version 48 ms"


def test_one_that_takes_twice_as_long_now_and_then_is_not() -> None:
    assert judged(tally(60, seconds=0.06), tally(600, seed=1), 5.0, LIMITS).verdict == "wait"
    # Twice as long, and nobody notices it.
    assert judged(tally(60, seconds=0.004), tally(600, seconds=0.002), 5.0, LIMITS).verdict == "wait"
    # Too few to tell.
    assert judged(tally(20, seconds=0.1), tally(600, seed=1), 5.0, LIMITS).verdict == "wait"


def test_one_of_which_every_fifth_request_hangs_for_a_while_is_given_up() -> None:
    counting = Counting()
    for number in range(200):
        counting.answered(2.0 if number % 5 == 0 else 0.05)
    ruling = judged(counting.so_far, tally(2000, seed=1), 5.0, LIMITS)
    assert ruling.verdict == "return" and ruling.why.startswith("40 of 200 requests took longer than ")


@pytest.mark.parametrize("seed", range(40))
def test_equal_versions_are_not_taken_for_different_ones(seed: int) -> None:
    """Looked at again and again while they serve."""
    dice, new, old = random.Random(seed), Counting(), Counting()
    for number in range(2000):
        counting = new if dice.random() < 0.1 else old
        if dice.random() < 0.003:
            counting.failed()
        else:
            counting.answered(0.02 * dice.lognormvariate(0, 1.0))
        if number % 20 == 0:
            assert judged(new.so_far, old.so_far, 5.0, LIMITS).verdict == "wait"


def test_how_likely_counts_are() -> None:
    assert not is_unlikely(0, 0.0) and not is_unlikely(3, 3.0)
    assert is_unlikely(2, 0.01) and not is_unlikely(1, 0.01)
    assert is_unlikely(2000, 1000) and not is_unlikely(1020, 1000)


def test_a_trial_ends_with_another_version_and_forgets_what_was_counted() -> None:
    canaries, before = Canaries(), make_wanted()
    canaries.begin("m", Canary(generation=2, percent=10, before=before))
    tallied = CanaryTally("m", 2, tally(3, 1), tally(30))
    assert canaries.hear("i", tallied) and canaries.hear("j", tallied) and canaries.hear("i", tallied)
    new, old = canaries.counted("m")
    assert (new.requests, new.faults, old.requests) == (6, 2, 60)
    assert not canaries.hear("i", tallied._replace(generation=3))
    canaries.heed(make_wanted(generation=2))
    assert canaries.serving(make_wanted(generation=2)) is before
    canaries.heed(make_wanted(generation=3))
    assert not canaries.on_trial
    assert canaries.counted("m") == (Tally(), Tally())
    assert canaries.serving(make_wanted(generation=3)).generation == 3


def test_the_old_version_follows_the_load_meanwhile() -> None:
    canaries, before = Canaries(), make_wanted(replica=2, max_replica=4)
    canaries.begin("m", Canary(generation=2, percent=10, before=before))
    assert canaries.serving(make_wanted(replica=3, max_replica=4, generation=2)).replica == 3
    assert canaries.serving(make_wanted(replica=3, max_replica=4, generation=2)).generation == 1
