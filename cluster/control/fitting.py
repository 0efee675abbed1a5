"""Whether a launch would fit into what is free now, and what it would claim. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import HOLDS_CLAIM
from cluster.control.peaks import Peak, needs_of, peak_of
from cluster.control.placement import NoRoom, Placement, Taken, demand_of, is_for_cards, place, room_for
from cluster.launch import Needs, Wanted
from cluster.status import WorkerState
from cluster.weights.memory import MemoryPlan


@dataclass(frozen=True)
class Fit:
    #: What one replica would claim.
    needs: Needs
    #: Whether it would get a card.
    on_card: bool = False
    #: Why it would not fit.
    reason: str = ""
    #: The addresses of the nodes that the replicas would be placed on.
    nodes: tuple[str, ...] = ()
    #: The most that a replica could claim now, of a card or of main memory; None where nobody knows.
    room_bytes: int | None = None
    #: What such launches were measured to take; a claim is never less.
    peak: Peak | None = None
    #: Part by part, where another machine than the caller's was asked.
    plan: MemoryPlan | None = None


def could_place(fleet: Fleet, wanted: Wanted) -> NoRoom | None:
    """Why not all replicas would fit now; None when they would."""
    placements = placements_of(fleet, wanted)
    return placements if isinstance(placements, NoRoom) else None


def placements_of(fleet: Fleet, wanted: Wanted) -> list[Placement] | NoRoom:
    """Where the replicas would be placed now. Workers of the same uid count as gone: they make room."""
    nodes, taken = fleet.open_nodes(), _taken_beside(fleet, wanted)
    placements: list[Placement] = []
    for index in range(wanted.replica):
        demand = demand_of(wanted, index, fleet.peaks)
        placement = place(demand, nodes, taken, memory_fraction=fleet.settings.memory_fraction)
        if isinstance(placement, NoRoom):
            return placement
        placements.append(placement)
        taken.append(Taken(wanted.uid, placement.node, placement.claim))
    return placements


def _taken_beside(fleet: Fleet, wanted: Wanted) -> list[Taken]:
    """What the workers of other models hold, and will hold once all of them run."""
    taken = [
        Taken(w.name.uid, w.node, w.claim)
        for w in fleet.workers.values()
        if w.state in HOLDS_CLAIM and w.name.uid != wanted.uid
    ]
    # Replicas still to be started count as well, or fifty launches at once would all seem to fit.
    settled = HOLDS_CLAIM | {WorkerState.FAILED}
    running = {(w.name.uid, w.name.index) for w in fleet.workers.values() if w.state in settled}
    nodes, fraction = fleet.open_nodes(), fleet.settings.memory_fraction
    for other in fleet.wanted.values():
        if other.uid in fleet.unreadable:
            continue
        for index in range(other.replica):
            if other.uid != wanted.uid and (other.uid, index) not in running:
                demand = demand_of(other, index, fleet.peaks)
                placement = place(demand, nodes, taken, memory_fraction=fraction)
                if isinstance(placement, Placement):
                    taken.append(Taken(other.uid, placement.node, placement.claim))
    return taken


def fit_of(fleet: Fleet, wanted: Wanted, placements: list[Placement] | NoRoom) -> Fit:
    """What `placements_of` says, for people."""
    nodes, demand = fleet.open_nodes(), demand_of(wanted, 0, fleet.peaks)
    on_card = is_for_cards(demand, nodes)
    fraction = fleet.settings.memory_fraction
    is_refused = isinstance(placements, NoRoom)
    return Fit(
        needs=needs_of(wanted, fleet.peaks, on_card=on_card),
        on_card=on_card,
        reason=str(placements) if is_refused else "",
        nodes=() if isinstance(placements, NoRoom) else tuple(fleet.ip_of(each.node) for each in placements),
        room_bytes=room_for(demand, nodes, _taken_beside(fleet, wanted), memory_fraction=fraction),
        peak=peak_of(wanted, fleet.peaks, on_card=on_card),
    )
