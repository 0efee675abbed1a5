"""A fleet of models and nodes, and what the supervisor does with its plans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import WorkerEvent
from cluster.control.views import state_of
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import LoadProgress, ModelState, Node, Report, WorkerState
from tests.make import make_node

E = WorkerEvent
M = ModelState
S = WorkerState


def fleet(*wanted: Wanted, nodes: Sequence[Node] = (), **settings: Any) -> Fleet:
    suffixes = map("s{}".format, itertools.count())
    found = Fleet(Settings(memory_fraction=1.0, **settings), new_suffix=lambda: next(suffixes))
    found.see_nodes(nodes or [make_node()], 0.0)
    for wish in wanted:
        found.want(wish)
    return found


def carry_out(found: Fleet, now: float) -> list[str]:
    """Carries out the plan as the supervisor would, and everything succeeds. Returns the names of the started
    workers."""
    plan = found.plan(now)
    for worker in plan.drain:
        if found.see(str(worker), E.DRAIN, now).state == S.GONE:
            del found.workers[str(worker)]
    for worker in plan.forget:
        del found.workers[str(worker)]
    for start in plan.start:
        found.started(start.name, start.placement, now)
    return [str(start.name) for start in plan.start]


def ready(pid: int = 1, **fields: Any) -> Report:
    return Report(
        phase="ready", progress=LoadProgress("ready", 1.0), pid=pid, node_id="n0", node_ip="10.0.0.1", **fields
    )


def serving(*wanted: Wanted, now: float = 0.0, nodes: Sequence[Node] = (), **settings: Any) -> Fleet:
    found = fleet(*wanted, nodes=nodes, **settings)
    for name in carry_out(found, now):
        found.see_report(name, ready(), now)
    return found


def the(found: Fleet) -> str:
    """The name of the only worker."""
    (name,) = found.workers
    return name


def state(found: Fleet, uid: str = "m") -> tuple[ModelState, str]:
    return state_of(found, found.wanted[uid])


def lose(found: Fleet, name: str, now: float) -> None:
    found.see(name, E.DIED, now)
    carry_out(found, now)
