"""What happened between two accounts of a worker, and to several workers together."""

from __future__ import annotations

from cluster.figures import Doing, Figures, Happened, all_of, between, one_after_another
from cluster.tally import Counting

BEGUN = Figures()


def figures(*seconds: float, failed: int = 0, doing: Doing | None = None, tokens: int = 0, memory: int = 0) -> Figures:
    counting = Counting()
    for each in seconds:
        counting.answered(each)
    for _ in range(failed):
        counting.failed()
    return Figures(counting.so_far, tokens, len(seconds), 2 * len(seconds), doing or Doing(), memory)


def test_only_what_came_since_the_last_account_is_told() -> None:
    before = figures(0.01, 0.01, tokens=10)
    after = figures(0.01, 0.01, 1.0, 1.0, failed=1, tokens=30, memory=7, doing=Doing(waiting=3, running=1))
    happened = between(before, after)
    assert (happened.requests, happened.errors, happened.tokens, happened.memory_bytes) == (3, 1, 20, 7)
    assert (happened.waiting, happened.running, happened.batch) == (3, 1, 2.0)
    slowest = happened.quantile_s(0.5)
    assert slowest is not None and 0.8 < slowest < 1.2
    assert between(after, after) == Happened(waiting=3, running=1, memory_bytes=7)
    assert between(after, after).quantile_s(0.5) is None


def test_a_process_and_a_queue_that_begin_anew_count_from_nought() -> None:
    before = figures(0.01, 0.01, tokens=10, doing=Doing(shared=5, cache_hits=4))
    assert between(before, figures(0.5)).requests == 1
    woken = before._replace(doing=Doing(shared=1))
    assert (between(before, woken).requests, between(before, woken).shared) == (0, 1)


def test_workers_of_a_model_are_added_up_and_so_are_moments_but_for_what_is_so_now() -> None:
    ann = between(BEGUN, figures(0.01, tokens=4, memory=100, doing=Doing(waiting=2, running=1)))
    ben = between(BEGUN, figures(2.0, 2.0, failed=1, tokens=6, memory=50, doing=Doing(waiting=1)))
    both = all_of([ann, ben])
    assert (both.requests, both.errors, both.tokens, both.waiting, both.memory_bytes) == (4, 1, 10, 3, 150)
    longest = both.quantile_s(0.99)
    assert longest is not None and longest > 1.5
    assert all_of([ann]) == ann and all_of([]) == Happened()
    later = one_after_another(ann, ben)
    assert (later.requests, later.waiting, later.memory_bytes) == (4, 1, 50)


def test_what_is_worked_on_by_itself_counts_as_a_batch_of_as_many() -> None:
    assert between(BEGUN, Figures(doing=Doing(running=3))).batch == 3.0
