from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from cluster.control import lifecycle
from cluster.control.lifecycle import (
    ALIVE,
    ENDED,
    HOLDS_CLAIM,
    LEAVES,
    LOADS,
    RESTS,
    SERVES,
    TRANSITIONS,
    InvalidTransition,
    WorkerEvent,
    WorkerRecord,
    limit_s,
    step,
)
from cluster.settings import Settings
from cluster.status import Claim, Report, WorkerName, WorkerState

E = WorkerEvent
S = WorkerState
GIB = 2**30
EVERY_PAIR = list(itertools.product(S, E))


def worker(state: S = S.STARTING, **fields: Any) -> WorkerRecord:
    return WorkerRecord(WorkerName("m", 1, 0, "a"), state, "n0", Claim(), 0.0, **fields)


def told(*events: E, state: S = S.STARTING) -> WorkerRecord:
    found = worker(state)
    for now, event in enumerate(events, 1):
        found = step(found, event, float(now))
    return found


@pytest.mark.parametrize(("state", "event"), EVERY_PAIR, ids=[f"{s}-{e}" for s, e in EVERY_PAIR])
def test_every_pair_is_in_the_table_or_raises_with_the_story(state: S, event: E) -> None:
    before = worker(state, story=("STARTING started -> LOADING",))
    if (state, event) in TRANSITIONS:
        assert step(before, event, 1.0).state == TRANSITIONS[state, event]
        return
    with pytest.raises(InvalidTransition) as caught:
        step(before, event, 1.0, "because")
    assert str(caught.value) == (
        f"worker:m:1:0-a: no way from {state} {event} (because); story: STARTING started -> LOADING"
    )


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        (S.STARTING, E.STARTED, S.LOADING),
        (S.LOADING, E.LOADED, S.READY),
        (S.READY, E.SILENT, S.SUSPECT),
        (S.SUSPECT, E.ANSWERED, S.READY),
        (S.SUSPECT, E.EXPIRED, S.LOST),
        (S.READY, E.DIED, S.LOST),
        (S.STARTING, E.FAILED, S.FAILED),
        (S.LOADING, E.FAILED, S.FAILED),
        (S.STARTING, E.DIED, S.LOST),
        (S.STARTING, E.EXPIRED, S.LOST),
        (S.LOADING, E.DIED, S.LOST),
        (S.LOADING, E.EXPIRED, S.LOST),
        (S.STARTING, E.DRAIN, S.GONE),
        (S.LOADING, E.DRAIN, S.GONE),
        (S.FAILED, E.DRAIN, S.GONE),
        (S.LOST, E.DRAIN, S.GONE),
        (S.READY, E.DRAIN, S.DRAINING),
        (S.DRAINING, E.DRAINED, S.GONE),
        (S.READY, E.DOZE, S.NODDING),
        (S.NODDING, E.DOZED, S.DOZING),
        (S.NODDING, E.ROUSE, S.STARTING),
        (S.DOZING, E.ROUSE, S.STARTING),
        (S.DOZING, E.DIED, S.GONE),
        (S.DOZING, E.DRAIN, S.GONE),
    ],
)
def test_every_arrow_of_the_diagram_exists(before: S, event: E, after: S) -> None:
    assert step(worker(before), event, 1.0).state == after


def test_nothing_leaves_gone() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] == S.GONE]


@pytest.mark.parametrize("state", sorted(HOLDS_CLAIM))
def test_whatever_holds_a_claim_can_die_and_be_told_to_stop(state: S) -> None:
    assert TRANSITIONS[state, E.DIED] in ENDED
    assert TRANSITIONS[state, E.DRAIN] in {S.DRAINING, S.GONE}


@pytest.mark.parametrize("state", [S.STARTING, S.LOADING, S.SUSPECT, S.DRAINING, S.NODDING])
def test_no_state_on_the_way_lasts_for_ever(state: S) -> None:
    assert TRANSITIONS[state, E.EXPIRED] in ENDED


@pytest.mark.parametrize("state", sorted(HOLDS_CLAIM))
def test_an_unanswered_question_is_no_death(state: S) -> None:
    assert TRANSITIONS[state, E.SILENT] in HOLDS_CLAIM


@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_comes_back_from_an_end(state: S) -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before == state} <= ENDED


def test_states_are_alive_at_rest_draining_or_ended() -> None:
    assert ALIVE | RESTS | {S.DRAINING} | ENDED == set(S)
    assert not HOLDS_CLAIM & ENDED


def test_since_is_when_the_state_was_entered() -> None:
    assert told(E.STARTED, E.STARTED, E.ANSWERED).since == 1.0


def test_ready_since_is_the_first_time() -> None:
    found = told(E.STARTED, E.LOADED, E.SILENT, E.ANSWERED)
    assert (found.state, found.since, found.ready_since) == (S.READY, 4.0, 2.0)


def test_a_dozing_worker_claims_what_its_process_takes_until_it_is_roused() -> None:
    whole = Claim(4 * GIB, cards=((0, 0.5),), cpus=2, card_bytes=GIB)
    before = replace(worker(S.NODDING), claim=whole, ready_since=1.0, report=Report(memory_bytes=GIB))
    dozing = step(before, E.DOZED, 2.0)
    # Ray keeps the cores.
    assert dozing.claim == Claim(GIB, cpus=2)
    roused = step(dozing, E.ROUSE, 3.0)
    assert (roused.claim, roused.whole_claim) == (whole, None)
    assert step(step(roused, E.STARTED, 4.0), E.LOADED, 5.0).ready_since == 5.0


def test_the_story_says_what_happened_and_why() -> None:
    found = step(told(E.STARTED), E.DIED, 2.0, "killed")
    assert found.story == ("STARTING started -> LOADING", "LOADING died (killed) -> LOST")
    assert found.reason == "killed"


def test_the_story_keeps_its_end() -> None:
    found = told(*[E.SILENT, E.ANSWERED] * 50, state=S.READY)
    assert len(found.story) == 20
    assert found.story[-1] == "SUSPECT answered -> READY"


def test_an_event_that_moves_nothing_leaves_no_trace() -> None:
    before = told(E.STARTED, E.LOADED)
    assert step(before, E.ANSWERED, 99.0) is before


def test_every_state_is_in_exactly_one_set() -> None:
    """A new state that is in none of the sets would not be counted, waited for, or ended."""
    kinds = (LOADS, SERVES, RESTS, LEAVES, ENDED)
    assert {state: sum(state in kind for kind in kinds) for state in S} == dict.fromkeys(S, 1)


def test_every_state_in_which_a_worker_should_move_has_a_limit() -> None:
    assert {state for state in S if limit_s(state, Settings()) is None} == {S.READY, S.DOZING, *ENDED}


def test_the_picture_names_every_state() -> None:
    assert lifecycle.__doc__ is not None
    assert {state for state in S if state not in lifecycle.__doc__} == set()
