"""Whether a launch would fit into what is free now, and what it would claim. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import WORKS
from cluster.control.peaks import Peak, needs_of, peak_of
from cluster.control.placement import NoRoom, Placement, demand_of, is_for_cards
from cluster.control.room import Room, room_beside
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
    #: Models that would go to sleep for it, or give a replica back.
    gives_way: tuple[str, ...] = ()
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
    room = room_for(fleet, wanted)
    placements: list[Placement] = []
    for index in range(wanted.replica):
        placement = room.place(demand_of(wanted, index, fleet.peaks))
        if isinstance(placement, NoRoom):
            return placement
        placements.append(placement)
        room.take(wanted.uid, placement)
    return placements


def room_for(fleet: Fleet, wanted: Wanted) -> Room:
    """What is left beside the workers of other models, once all of them run."""
    # What is not known yet refuses nothing: it is launched, and waits.
    nodes = [replace(node, is_unread=False) if node.is_unread else node for node in fleet.open_nodes()]
    room = room_beside(fleet.workers, nodes, fleet.settings.memory_fraction, wanted.uid)
    # Replicas still to be started count as well, or fifty launches at once would all seem to fit.
    settled = WORKS | {WorkerState.FAILED}
    for other in _short_of_workers(fleet):
        if other.uid == wanted.uid or other.uid in fleet.unreadable:
            continue
        running = {w.name.index for w in fleet.workers.of(other.uid) if w.state in settled}
        for index in range(other.replica):
            if index not in running:
                placement = room.place(demand_of(other, index, fleet.peaks))
                if isinstance(placement, Placement):
                    room.take(other.uid, placement)
    return room


def _short_of_workers(fleet: Fleet) -> list[Wanted]:
    """Models that may still have replicas to start, or will have."""
    uids = {uid for uid in fleet.workers.unplanned if not fleet.resting.rests(uid)}
    unplanned = {uid: wanted for uid, wanted in fleet.wanted.items() if uid in uids}
    return list((unplanned | fleet.accepted).values())


def fit_of(fleet: Fleet, wanted: Wanted, placements: list[Placement] | NoRoom) -> Fit:
    """What `placements_of` says, for people."""
    room, demand = room_for(fleet, wanted), demand_of(wanted, 0, fleet.peaks)
    on_card = is_for_cards(demand, room.nodes)
    is_refused = isinstance(placements, NoRoom)
    return Fit(
        needs=needs_of(wanted, fleet.peaks, on_card=on_card),
        on_card=on_card,
        reason=str(placements) if is_refused else "",
        nodes=() if isinstance(placements, NoRoom) else tuple(fleet.ip_of(each.node) for each in placements),
        room_bytes=room.most(demand),
        peak=peak_of(wanted, fleet.peaks, on_card=on_card),
    )
