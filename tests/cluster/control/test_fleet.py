from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from cluster import errors
from cluster.control.fitting import could_place, fit_of, placements_of
from cluster.control.fleet import EVENT_OF_PHASE, Fleet
from cluster.control.peaks import MARGIN
from cluster.control.reconcile import GOOD_RUN_S
from cluster.control.views import routes_of, status_of
from cluster.launch import Needs
from cluster.status import Claim, LoadProgress, Report, WorkerName
from tests.cluster.control.fleets import E, M, S, carry_out, fleet, lose, ready, serving, state, the
from tests.make import GIB, make_node, make_wanted

FOUR = [make_node(f"n{i}") for i in range(4)]


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        pytest.param(4, 4, False, id="none vanished"),
        pytest.param(4, 3, False, id="one of four"),
        pytest.param(4, 2, True, id="half"),
        pytest.param(4, 0, True, id="all"),
        pytest.param(3, 2, False, id="one of three"),
        pytest.param(3, 1, True, id="two of three"),
        pytest.param(2, 0, False, id="too few to tell"),
        pytest.param(1, 0, False, id="the only one"),
    ],
)
def test_many_nodes_gone_at_once_look_like_a_partition(before: int, after: int, holds: bool) -> None:
    found = fleet(nodes=FOUR[:before])
    warnings = found.see_nodes(FOUR[:after], 1.0)
    gone = before - after
    assert warnings == ([f"{gone} of {before} nodes vanished at once; holding for 20 s"] if holds else [])


def test_in_a_storm_nothing_is_started_until_the_hold_is_over() -> None:
    found = fleet(make_wanted(), nodes=FOUR, storm_hold_s=20)
    found.see_nodes(FOUR[:1], 100.0)
    assert carry_out(found, 100.0) == []
    assert state(found) == (M.WAITING, "many nodes vanished at once; waiting for them")
    assert carry_out(found, 119.9) == []
    assert carry_out(found, 120.0) == ["worker:m:1:0-s0"]


UNREAD = replace(make_node("n0", gpus=1, card_gib=10), is_unread=True)
READ = replace(UNREAD, is_unread=False)


def test_a_launch_waits_until_it_is_known_how_full_the_cards_are() -> None:
    found = fleet(make_wanted(n_gpu="auto"), nodes=[UNREAD])
    assert carry_out(found, 1.0) == []
    assert state(found) == (M.WAITING, "m fits on no node yet (n0: how full its cards are is not known yet).")
    assert found.waiting["m"].code == "", "nobody gives way to it, and no autoscaler adds a node for it"
    found.see_nodes([READ], 2.0)
    assert carry_out(found, 2.0) == ["worker:m:1:0-s0"]


def test_what_is_not_known_yet_refuses_no_launch() -> None:
    found = fleet(make_wanted(n_gpu="auto"), nodes=[UNREAD])
    assert could_place(found, make_wanted("other", n_gpu="auto", claim_gib=9)) is None
    assert could_place(found, make_wanted("other", n_gpu="auto", claim_gib=10)) is not None, "the first has a GiB"


def test_what_runs_on_cards_that_nobody_has_read_yet_stays() -> None:
    """As a supervisor sees it that has just come back."""
    found = serving(make_wanted(n_gpu="auto"), nodes=[READ])
    found.see_nodes([UNREAD], 1.0)
    assert found.orphaned() == [] and carry_out(found, 1.0) == []
    assert state(found) == (M.READY, "")


def test_no_worker_gives_way_to_a_newer_one_that_has_room_where_nobody_has_read_yet() -> None:
    """It would be gone for nothing."""
    other = replace(UNREAD, id="n1", ip="n1")
    found = serving(make_wanted(n_gpu="auto", claim_gib=6), nodes=[READ])
    found.want(make_wanted(n_gpu="auto", claim_gib=6, generation=2))
    found.see_nodes([READ, other], 1.0)
    plan = found.plan(1.0)
    assert (plan.start, plan.drain) == ([], [])
    found.see_nodes([READ, replace(other, is_unread=False)], 2.0)
    (start,) = found.plan(2.0).start
    assert start.placement.node == "n1"


def test_workers_of_a_node_that_is_gone_are_orphans() -> None:
    found = serving(make_wanted(replica=2), nodes=FOUR[:2])
    found.see_nodes(FOUR[:1], 1.0)
    assert [worker.node for worker in found.orphaned()] == ["n1"]


def test_the_pause_before_a_lost_worker_is_started_again_doubles() -> None:
    found, now, pauses = fleet(make_wanted()), 0.0, []
    carry_out(found, now)
    for _ in range(8):
        lose(found, the(found), now)
        (loss,) = found.losses.values()
        pauses.append(loss.not_before - now)
        assert carry_out(found, loss.not_before - 0.1) == []
        now = loss.not_before
        assert len(carry_out(found, now)) == 1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert found.restarts == {("m", 0): 8}


def test_a_good_run_pays_for_past_losses() -> None:
    found = serving(make_wanted())
    lose(found, the(found), 10.0)
    (again,) = carry_out(found, 11.0)
    found.see_report(again, ready(), 12.0)
    lose(found, again, 12.0 + GOOD_RUN_S)
    assert found.losses["m", 0].not_before == 12.0 + GOOD_RUN_S + 1


def test_a_short_run_pays_for_nothing() -> None:
    found = serving(make_wanted())
    lose(found, the(found), 10.0)
    (again,) = carry_out(found, 11.0)
    found.see_report(again, ready(), 12.0)
    lose(found, again, 11.9 + GOOD_RUN_S)
    assert found.losses["m", 0].not_before == 11.9 + GOOD_RUN_S + 2


def test_a_new_wish_is_a_new_chance() -> None:
    found = fleet(make_wanted(), make_wanted("other"))
    for name in carry_out(found, 0.0):
        found.see(name, E.DIED, 0.0)
    assert carry_out(found, 0.5) == []
    found.want(make_wanted(generation=2))
    assert carry_out(found, 0.5) == ["worker:m:2:0-s2"]


def test_a_model_that_is_not_wanted_any_more_leaves_nothing() -> None:
    found = serving(make_wanted())
    lose(found, the(found), 10.0)
    found.unwant("m")
    assert (found.wanted, found.losses, found.restarts, found.waiting, found.served) == ({}, {}, {}, {}, set())
    assert routes_of(found) == {}


def test_a_drained_worker_is_no_loss() -> None:
    found = serving(make_wanted())
    found.unwant("m")
    carry_out(found, 10.0)
    found.see_report(the(found), Report(phase="drained"), 11.0)
    carry_out(found, 12.0)
    assert (dict(found.workers), found.losses, found.restarts) == ({}, {}, {})


def test_reports_do_not_clear_a_worker_that_does_not_answer_a_probe() -> None:
    """Its control thread still reports while its model hangs."""
    found = serving(make_wanted(), probe_timeout_s=60.0)
    found.see(the(found), E.SILENT, 10.0)
    found.see_report(the(found), ready(), 20.0)
    assert found.workers[the(found)].state == S.SUSPECT
    assert found.expired(70.1)
    assert found.see(the(found), E.ANSWERED, 70.2).state == S.READY


@pytest.mark.parametrize(
    ("events", "limit"),
    [
        pytest.param([], "start_timeout_s", id="STARTING"),
        pytest.param([E.STARTED], "load_stall_s", id="LOADING"),
        pytest.param([E.LOADED, E.SILENT], "probe_timeout_s", id="SUSPECT"),
        pytest.param([E.LOADED, E.DRAIN], "drain_s", id="DRAINING"),
    ],
)
def test_every_state_on_the_way_has_its_deadline(events: list[E], limit: str) -> None:
    found = fleet(make_wanted(), **{limit: 40.0})
    carry_out(found, 0.0)
    for event in events:
        found.see(the(found), event, 5.0)
    since = found.workers[the(found)].since
    assert found.expired(since + 40.0) == []
    (late,) = found.expired(since + 40.1)
    assert found.see(str(late), E.EXPIRED, since + 40.1).state in {S.LOST, S.GONE}


def test_ready_has_no_deadline() -> None:
    assert serving(make_wanted()).expired(1e9) == []


def test_a_load_that_moves_is_not_stalled() -> None:
    found = fleet(make_wanted(), load_stall_s=60.0)
    carry_out(found, 0.0)
    for now in range(0, 600, 50):
        assert found.expired(float(now)) == []
        found.see_report(
            the(found), Report(phase="loading", progress=LoadProgress("downloading", now / 600)), float(now)
        )
    assert found.expired(615.0)


def failed(error: Exception, **settings: Any) -> Fleet:
    found = fleet(make_wanted(), **settings)
    carry_out(found, 0.0)
    report = Report(phase="failed", error=error, log_tail=("loading", "it broke"))
    found.see_report(the(found), report, 1.0)
    return found


def test_a_failed_load_says_why_and_is_not_tried_again() -> None:
    found = failed(errors.LoadFailed("m could not be loaded: ValueError: no such option"))
    assert [carry_out(found, now) for now in (2.0, 100.0, 1e6)] == [[], [], []]
    assert found.expired(1e6) == []
    status = status_of(found, found.wanted["m"])
    assert (status.state, status.reason) == (M.FAILED, "m could not be loaded: ValueError: no such option")
    assert (status.error_code, status.log_tail) == ("load_failed", ("loading", "it broke"))
    assert (status.workers[0].state, status.workers[0].error_code) == (S.FAILED, "load_failed")


def test_a_failure_that_is_not_ours_is_a_failed_load() -> None:
    found = failed(ValueError("no such option"))
    assert status_of(found, found.wanted["m"]).error_code == "load_failed"


def test_weights_that_could_not_be_had_are_tried_again_after_the_pause() -> None:
    found = failed(errors.DownloadFailed("The hub cannot be reached."), backoff_max_s=60.0)
    assert state(found) == (M.FAILED, "The hub cannot be reached.")
    assert found.expired(61.0) == []
    (again,) = found.expired(61.1)
    found.see(str(again), E.EXPIRED, 61.1)
    assert carry_out(found, 61.1) == []
    assert len(carry_out(found, 62.1)) == 1


def test_a_failed_model_keeps_no_room_from_a_new_one() -> None:
    """It claims nothing any more, and it is not started again until its wish changes."""
    found = failed(errors.LoadFailed("no"))
    found.see_nodes([make_node(memory_gib=1)], 2.0)
    assert could_place(found, make_wanted("other")) is None


def test_an_adopted_worker_goes_on_where_it_was() -> None:
    found = fleet(make_wanted())
    name = WorkerName("m", 1, 0, "old")
    assert found.adopt(name, ready(pid=7), Claim(GIB), 5.0).state == S.READY
    assert carry_out(found, 5.0) == []
    assert state(found) == (M.READY, "")
    assert [route.worker for route in routes_of(found)["m"].workers] == [str(name)]


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("created", S.STARTING),
        ("loading", S.LOADING),
        ("ready", S.READY),
        ("drained", S.GONE),
        ("nodding", S.NODDING),
        ("dozing", S.DOZING),
    ],
)
def test_adoption_believes_what_the_worker_says(phase: str, expected: S) -> None:
    found = fleet(make_wanted())
    assert found.adopt(WorkerName("m", 1, 0, "old"), Report(phase=phase, node_id="n0"), Claim(), 0.0).state == expected


def test_a_worker_that_was_draining_still_does_when_it_is_adopted() -> None:
    """If it were killed at once, the requests that it is finishing would fail."""
    found = fleet()
    found.adopt(WorkerName("m", 1, 0, "old"), Report(phase="draining", node_id="n0"), Claim(), 0.0)
    for worker in found.plan(1.0).drain:
        found.see(str(worker), E.DRAIN, 1.0)
    assert found.workers["worker:m:1:0-old"].state == S.DRAINING


def test_a_draining_worker_is_not_adopted_as_one_that_serves() -> None:
    """It refuses all requests, so another worker has to be started in its place."""
    found = fleet(make_wanted())
    found.adopt(WorkerName("m", 1, 0, "old"), Report(phase="draining", node_id="n0"), Claim(), 0.0)
    assert [start.name.index for start in found.plan(1.0).start] == [0]


#: Every phase that may be reported in a state. Messages cross: a report may be older than the order to stop.
CROSSED = [
    *itertools.product([()], EVENT_OF_PHASE),
    *itertools.product([(E.LOADED,)], EVENT_OF_PHASE.keys() - {"loading"}),
    *itertools.product([(E.LOADED, E.SILENT)], {"ready", "failed", "nodding", "dozing"}),
    *itertools.product([(E.LOADED, E.DRAIN)], EVENT_OF_PHASE.keys() - {"loading"}),
    *itertools.product([(E.LOADED, E.DOZE)], EVENT_OF_PHASE),
    *itertools.product([(E.LOADED, E.DOZE, E.DOZED)], EVENT_OF_PHASE),
    *itertools.product([(E.LOADED, E.DOZE, E.DOZED, E.ROUSE)], EVENT_OF_PHASE),
]


@pytest.mark.parametrize(("events", "phase"), CROSSED, ids=[f"{'-'.join(e)}-{p}" for e, p in CROSSED])
def test_every_phase_a_worker_can_tell_of_is_understood(events: tuple[E, ...], phase: str) -> None:
    found = fleet(make_wanted())
    carry_out(found, 0.0)
    for event in events:
        found.see(the(found), event, 0.0)
    found.see_report(the(found), Report(phase=phase), 1.0)


@pytest.mark.parametrize(("measured_gib", "claimed_gib"), [(3, 3), (1, 2)])
def test_more_than_was_expected_is_claimed_once_it_was_measured(measured_gib: int, claimed_gib: int) -> None:
    found = fleet(make_wanted(claim_gib=2))
    carry_out(found, 0.0)
    found.see_report(the(found), Report(phase="loading", peak=Needs(memory_bytes=5 * GIB)), 1.0)
    assert found.workers[the(found)].claim.memory_bytes == 2 * GIB, "it is not over yet"
    found.see_report(the(found), ready(peak=Needs(memory_bytes=measured_gib * GIB)), 2.0)
    assert found.workers[the(found)].claim == Claim(claimed_gib * GIB)


def test_a_share_of_a_card_stays_whatever_was_measured() -> None:
    found = fleet(make_wanted(n_gpu=0.5), nodes=[make_node(gpus=1)])
    carry_out(found, 0.0)
    found.see_report(the(found), ready(peak=Needs(memory_bytes=GIB, card_bytes=2 * GIB)), 1.0)
    assert found.workers[the(found)].claim == Claim(GIB, ((0, 0.5),), 0.0, 2 * GIB)


def test_a_share_that_was_worked_out_follows_what_was_measured() -> None:
    """More is not placed beside it than there is room for."""
    found = fleet(make_wanted(n_gpu="auto"), nodes=[make_node(gpus=1, card_gib=10)])
    carry_out(found, 0.0)
    assert found.workers[the(found)].claim.cards == ((0, 0.1),)
    found.see_report(the(found), ready(peak=Needs(memory_bytes=GIB, card_bytes=4 * GIB)), 1.0)
    assert found.workers[the(found)].claim == Claim(GIB, ((0, 0.4),), 0.0, 4 * GIB)
    large = make_wanted("large", n_gpu="auto", claim_gib=7)
    assert "0.6 of a GPU free, 0.7 asked" in fit_of(found, large, placements_of(found, large)).reason
    # Less is no reason to give anything back: it may be more at the next request.
    found.see_report(the(found), ready(peak=Needs(memory_bytes=GIB, card_bytes=GIB)), 2.0)
    assert found.workers[the(found)].claim.cards == ((0, 0.4),)


def test_the_next_launch_claims_what_this_one_was_measured_to_take() -> None:
    wanted = make_wanted(claim_gib=2, n_gpu="auto")
    found = fleet(wanted, nodes=[make_node(memory_gib=8)])
    carry_out(found, 0.0)
    found.see_report(the(found), ready(peak=Needs(memory_bytes=3 * GIB), created=1000.0, load_seconds=5.0), 1.0)
    (row,) = found.new_peaks.values()
    assert (row.model, row.needs.memory_bytes, row.measured) == ("m", 3 * GIB, 1005.0)
    again = make_wanted("again", claim_gib=2, n_gpu="auto").model_copy(update={"entry": wanted.entry})
    fit = fit_of(found, again, placements_of(found, again))
    assert (fit.reason, fit.needs.memory_bytes, fit.room_bytes, fit.peak) == ("", 3 * GIB, 5 * GIB, row)
    other = make_wanted("other", claim_gib=2, options={"steps": 2})
    assert fit_of(found, other, placements_of(found, other)).needs.memory_bytes == 2 * GIB, "it loads in another way"
    pinned = make_wanted("pinned", claim_gib=1, memory="1GiB")
    assert fit_of(found, pinned, placements_of(found, pinned)).needs.memory_bytes == GIB, "somebody has said how much"


def test_a_measurement_at_full_size_is_what_the_next_launch_claims_and_leaves_this_claim_as_it_is() -> None:
    wanted = make_wanted(claim_gib=4)
    found = fleet(wanted, nodes=[make_node(memory_gib=8)])
    carry_out(found, 0.0)
    found.see_report(the(found), ready(peak=Needs(memory_bytes=GIB), is_peak_full=True), 1.0)
    assert found.workers[the(found)].claim == Claim(4 * GIB)
    again = make_wanted("again", claim_gib=4).model_copy(update={"entry": wanted.entry})
    fit = fit_of(found, again, placements_of(found, again))
    assert fit.peak is not None and fit.peak.is_full
    assert fit.needs.memory_bytes == int(GIB * (1 + MARGIN))


def test_a_worker_that_is_found_again_keeps_its_claim_and_teaches_nothing_new() -> None:
    found = fleet(make_wanted(claim_gib=2))
    report = ready(peak=Needs(memory_bytes=3 * GIB))
    found.adopt(WorkerName("m", 1, 0, "old"), report, Claim(2 * GIB), 1.0)
    assert found.workers[the(found)].claim == Claim(3 * GIB)
    assert found.new_peaks == {}


def test_a_wish_fits_where_there_is_room_for_all_of_it() -> None:
    found = fleet(nodes=[make_node(memory_gib=3)])
    assert could_place(found, make_wanted(replica=3)) is None
    assert str(could_place(found, make_wanted(replica=4))) == (
        "m fits on no node (n0: 0.0 GiB of 3.0 GiB memory free, 1.0 GiB asked)."
    )


def test_wishes_that_are_still_to_be_started_count_as_well() -> None:
    found = fleet(make_wanted("a", claim_gib=2), nodes=[make_node(memory_gib=3)])
    assert could_place(found, make_wanted("b", claim_gib=2)) is not None
    carry_out(found, 0.0)
    assert could_place(found, make_wanted("b", claim_gib=2)) is not None
    found.unwant("a")
    carry_out(found, 0.0)
    assert could_place(found, make_wanted("b", claim_gib=2)) is None


def test_workers_of_the_same_uid_make_room_for_its_update() -> None:
    found = serving(make_wanted(claim_gib=2), nodes=[make_node(memory_gib=3)])
    assert could_place(found, make_wanted(claim_gib=3, generation=2)) is None


def test_a_version_is_the_one_to_go_back_to_once_it_is_ready() -> None:
    found, wanted = fleet(), make_wanted(replica=2)
    found.want(wanted)
    first, second = carry_out(found, 0.0)
    assert found.newly_ready(["m"]) == []
    found.see_report(first, ready(), 1.0)
    assert found.newly_ready(["m"]) == [wanted]
    found.see_report(second, ready(), 2.0)
    assert found.newly_ready(["m"]) == []
    assert found.last_ready == {"m": wanted}


def test_a_newer_version_has_to_be_ready_as_a_whole() -> None:
    found, updated = serving(make_wanted(replica=2)), make_wanted(replica=2, generation=2)
    found.newly_ready(["m"])
    found.want(updated)
    third, fourth = carry_out(found, 1.0)
    found.see_report(third, ready(), 2.0)
    assert found.newly_ready(["m"]) == []
    found.see_report(fourth, ready(), 3.0)
    assert found.newly_ready(["m"]) == [updated]


def test_how_many_there_were_is_remembered_as_well() -> None:
    found = serving(make_wanted())
    found.newly_ready(["m"])
    scaled = make_wanted(replica=2)
    found.want(scaled)
    (second,) = carry_out(found, 1.0)
    assert found.newly_ready(["m"]) == []
    found.see_report(second, ready(), 2.0)
    assert found.newly_ready(["m"]) == [scaled]


def test_what_was_ready_before_a_restart_is_recovering_after_it() -> None:
    found = fleet(make_wanted(), make_wanted("new"))
    found.remember([make_wanted(), make_wanted("terminated")])
    assert {uid: model.recovering for uid, model in routes_of(found).items()} == {"m": True, "new": False}
    found.unwant("m")
    assert found.last_ready == {} and found.served == set()


def test_old_losses_do_not_hold_back_the_new_version() -> None:
    found = serving(make_wanted())
    found.newly_ready(["m"])
    found.want(make_wanted(generation=2))
    found.see(the(found), E.DIED, 1.0)
    assert {name.split(":")[2] for name in carry_out(found, 1.0)} == {"2"}
    assert (found.losses, found.old_losses["m", 0].count) == ({}, 1)
    assert {name.split(":")[2] for name in carry_out(found, 2.0)} == {"1"}


def test_an_old_version_that_fails_now_is_tried_again_with_pauses() -> None:
    found = serving(make_wanted())
    found.newly_ready(["m"])
    found.want(make_wanted(generation=2))
    (new,) = carry_out(found, 0.0)
    found.see_report(new, Report(phase="failed", error=errors.LoadFailed("no")), 0.0)
    for old in [name for name in found.workers if name != new]:
        found.see(old, E.DIED, 0.0)
    now, pauses = 0.0, []
    for _ in range(4):
        carry_out(found, now)
        now = found.old_losses["m", 0].not_before
        (again,) = carry_out(found, now)
        found.see_report(again, Report(phase="failed", error=errors.LoadFailed("no")), now)
        pauses.append(found.old_losses["m", 0].not_before - now)
    assert pauses == [2, 4, 8, 16]


@pytest.mark.parametrize("is_lost_already", [True, False], ids=["told after the loss", "told before the loss"])
def test_a_loss_whose_cause_is_known_needs_no_pause(is_lost_already: bool) -> None:
    found = serving(make_wanted())
    name = the(found)
    if not is_lost_already:
        found.excuse([name])
    found.see(name, E.DIED, 10.0)
    if is_lost_already:
        found.excuse([name])
    assert len(carry_out(found, 10.0)) == 1
    assert found.restarts == {("m", 0): 1} and not found.excused


def test_a_loss_of_another_worker_is_not_excused() -> None:
    found = serving(make_wanted())
    found.excuse(["worker:other:1:0-s1", "no worker at all"])
    lose(found, the(found), 10.0)
    assert carry_out(found, 10.0) == []
